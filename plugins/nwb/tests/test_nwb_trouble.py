"""Files that cannot be opened, and files that pynwb cannot construct: each its own message."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest

from neurofm_shards.errors import InputNotFoundError, MissingPluginError, NothingToConvertError, SourceError
from neurofm_shards.recordings import windowed
from neurofm_shards_nwb import pynwb_reader as pynwb_io
from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.source import NwbSource
from neurofm_shards_nwb.source import open_file as open_any


def fill_signal(nwbfile, data=None):
    from pynwb import TimeSeries

    values = np.arange(1000.0) if data is None else data
    nwbfile.add_acquisition(TimeSeries(name="signal", data=values, unit="cm", rate=10.0))


def nothing(nwbfile):
    """Leave the file empty."""


@pytest.fixture
def sound(write_nwb):
    return write_nwb(fill_signal)


def message_of(path, **options):
    with pytest.raises(SourceError) as caught:
        NwbSource(NwbConfig(**options)).open((str(path),))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputNotFoundError, match="no.nwb does not exist"):
        NwbSource().open((str(tmp_path / "no.nwb"),))


def test_a_truncated_file(sound):
    with sound.open("r+b") as file:
        file.truncate(sound.stat().st_size // 2)
    assert "truncated (eof = " in message_of(sound)


def test_an_empty_file(tmp_path):
    path = tmp_path / "empty.nwb"
    path.touch()
    assert "is empty (0 bytes)" in message_of(path)


def test_a_git_lfs_pointer(tmp_path):
    path = tmp_path / "pointer.nwb"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    assert "git-lfs pointer" in message_of(path)


def test_a_git_annex_pointer_file(tmp_path):
    path = tmp_path / "pointer.nwb"
    path.write_text("/annex/objects/MD5E-s12--0.nwb\n")
    assert "git-annex pointer" in message_of(path)


def test_a_git_annex_link_without_its_content(tmp_path):
    path = tmp_path / "pointer.nwb"
    path.symlink_to("../.git/annex/objects/xx/yy/MD5E-s12--0.nwb")
    assert "datalad get" in message_of(path)


def test_something_that_is_not_hdf5(tmp_path):
    path = tmp_path / "text.nwb"
    path.write_text("time,value\n0,1\n")
    assert "not an HDF5 file" in message_of(path)


def test_hdf5_that_is_not_nwb(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["recordings"] = [1, 2]
    assert "HDF5 but not NWB (its root has no nwb_version; it holds recordings)" in message_of(path)


def test_an_hdf5_file_with_a_damaged_superblock(sound):
    with sound.open("r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 64)
    assert "damaged HDF5 file" in message_of(sound)


def test_a_file_that_another_process_is_writing(sound):
    writer = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", writer, str(sound)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"open\n"
        message = message_of(sound)
        process.stdin.close()
    assert "locked by a program that is writing it" in message


def test_a_damaged_chunk_is_found_when_it_is_read_and_not_before(write_nwb):
    from pynwb import H5DataIO

    data = np.random.default_rng(0).standard_normal(4096)
    path = write_nwb(lambda nwbfile: fill_signal(nwbfile, H5DataIO(data, chunks=(1024,), compression="gzip")))
    with h5py.File(path) as file:
        chunk = file["acquisition/signal/data"].id.get_chunk_info(2)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * 64)
    with NwbSource().open((str(path),)) as recording:
        stream = recording.streams[0]
        assert np.array_equal(stream.read(0, 2048), data[:2048])
        with pytest.raises(SourceError, match=r"acquisition/signal/data: values 2000 to 2100 .* chunk is damaged"):
            stream.read(2000, 2100)


def test_an_external_link_whose_file_is_missing_stops_those_who_want_the_series(write_nwb, sound):
    other = sound.parent / "values.h5"
    with h5py.File(sound, "r+") as file, h5py.File(other, "w") as values:
        attributes = dict(file["acquisition/signal/data"].attrs)
        values["v"] = file["acquisition/signal/data"][:]
        values["v"].attrs.update(attributes)
        del file["acquisition/signal/data"]
        file["acquisition/signal/data"] = h5py.ExternalLink("values.h5", "/v")
    with NwbSource().open((str(sound),)) as recording:
        assert np.array_equal(recording.streams[0].read(0, 5), np.arange(5.0))
        linked = recording.fingerprint
    other.unlink()
    with NwbSource().open((str(sound),)) as recording:
        assert recording.fingerprint != linked
        with pytest.raises(SourceError, match=r"acquisition/signal/data is a link to /v in values.h5"):
            recording.streams[0].read(0, 5)


def test_a_whole_object_behind_a_missing_link_refuses_the_file(sound):
    with h5py.File(sound, "r+") as file:
        file["acquisition/lfp"] = h5py.ExternalLink("gone.nwb", "/acquisition/lfp")
    assert "acquisition/lfp is a link to /acquisition/lfp in gone.nwb" in message_of(sound)
    inspection = NwbSource().inspect((str(sound),))
    assert inspection.tree["behavior"]
    assert inspection.problems[0].consequence == "convert refuses this file"


def test_the_messages_are_all_different(tmp_path, sound):
    kinds = {
        "truncated.nwb": sound.read_bytes()[:5000],
        "empty.nwb": b"",
        "lfs.nwb": b"version https://git-lfs.github.com/spec/v1\n",
        "annex.nwb": b"/annex/objects/x\n",
        "text.nwb": b"hello",
    }
    messages = []
    for name, content in kinds.items():
        (tmp_path / name).write_bytes(content)
        messages.append(message_of(tmp_path / name).replace(name, ""))
    assert len(set(messages)) == len(messages)


def test_inspect_shows_files_that_cannot_be_opened(tmp_path):
    path = tmp_path / "empty.nwb"
    path.touch()
    inspection = NwbSource().inspect((str(path),))
    assert "cannot be opened" in inspection.title
    assert inspection.problems[0].severity == "error"


def spoil(path, place="units", kind="QuantumUnits"):
    """Give an object a type of an extension whose class pynwb cannot make, as a newer release of it might leave."""
    needed = {"name": "must", "doc": "d", "dtype": "float64", "shape": [None]}
    defined = {"neurodata_type_def": kind, "neurodata_type_inc": "TimeSeries", "doc": "d", "datasets": [needed]}
    told = {"name": "ndx-quantum", "version": "1.2.3", "doc": "d", "author": "a", "contact": "c"}
    namespace = {"namespaces": [{**told, "schema": [{"namespace": "core"}, {"source": "ndx-quantum.extensions"}]}]}
    schema = {"groups": [defined]}
    with h5py.File(path, "r+") as file:
        group = file.create_group("specifications/ndx-quantum/1.2.3")
        group["namespace"] = json.dumps(namespace)
        group["ndx-quantum.extensions"] = json.dumps(schema)
        broken = file.create_group(place)
        broken.attrs.update({"neurodata_type": kind, "namespace": "ndx-quantum", "object_id": "x", "description": "d"})


def test_what_pynwb_cannot_construct_is_read_without_it(sound):
    spoil(sound, "acquisition/odd")
    with NwbSource().open((str(sound),)) as recording:
        streams = {stream.path: stream for stream in recording.streams}
        assert np.array_equal(streams["acquisition/signal"].read(0, 3), [0.0, 1.0, 2.0])
        assert [problem.where for problem in recording.problems if problem.severity == "error"] == ["acquisition/odd"]
    assert "ndx-quantum 1.2.3" in NwbSource().inspect((str(sound),)).title
    assert "cannot construct this file, with extension ndx-quantum 1.2.3" in message_of(sound, reader="pynwb")


def test_a_file_with_an_extension_changes_nothing_for_the_files_after_it(write_nwb, monkeypatch):
    import pynwb

    plain, extended = write_nwb(fill_signal), write_nwb(fill_signal, "extended.nwb")
    spoil(extended, "acquisition/odd")
    made = []
    monkeypatch.setattr(pynwb, "get_type_map", lambda make=pynwb.get_type_map: made.append(make()) or made[-1])
    monkeypatch.setattr(pynwb_io, "_SHARED", pynwb_io._Shared())
    told = {}
    for path in (plain, plain, extended, plain):
        if path == extended:
            message_of(path, reader="pynwb")
            continue
        opened = open_any(str(path), "pynwb")
        told.setdefault(path, []).append(_series(opened))
        opened.recording.close()
    assert told[plain] == [told[plain][0]] * 3
    assert len(made) == 2, "one map for all plain files, and one for the file with a schema of its own"
    assert [("ndx-quantum" in types.namespace_catalog.namespaces) for types in made] == [False, True]


def _series(opened):
    return [(series.path, series.types) for series in opened.content.series]


def test_what_is_not_plain_either_is_refused_with_the_extensions_name(write_nwb):
    path = write_nwb(nothing)
    spoil(path, "processing/odd", "QuantumSeries")
    with h5py.File(path, "r+") as file:
        file["processing/odd"].attrs["neurodata_type"] = "QuantumSeriesOfALaterRelease"
    assert "ndx-quantum 1.2.3" in message_of(path)


def test_a_file_of_metadata_alone_says_what_was_looked_for(write_nwb):
    path = write_nwb(nothing)
    with pytest.raises(NothingToConvertError, match=r"looked for units tables, .* found metadata only"):
        NwbSource().open((str(path),))
    inspection = NwbSource().inspect((str(path),))
    assert "nothing to convert" in inspection.problems[0].what


def test_an_open_recording_cannot_be_sent_to_another_process(sound):
    with NwbSource().open((str(sound),)) as recording, pytest.raises(SourceError, match="open it there"):
        pickle.dumps(recording)


def test_a_handle_that_crossed_a_fork_is_refused(sound):
    with NwbSource().open((str(sound),)) as recording:
        receive, send = multiprocessing.Pipe()
        child = os.fork()
        if child == 0:
            try:
                recording.streams[0].read(0, 1)
                send.send("read")
            except SourceError as error:
                send.send(str(error))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    assert "do not survive a fork" in receive.recv()


def test_a_zarr_store_without_the_extra_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hdmf_zarr.nwb", None)
    store = tmp_path / "session.nwb.zarr"
    store.mkdir()
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    with pytest.raises(MissingPluginError, match=r"pip install 'neurofm-shards-nwb\[zarr\]'"):
        NwbSource().open((str(store),))


def test_a_folder_that_is_no_store(tmp_path):
    assert "is a folder and not a Zarr store" in message_of(tmp_path)


@pytest.mark.parametrize("seed", range(8))
def test_random_damage_gives_our_errors_and_no_others(sound, seed):
    random = np.random.default_rng(seed)
    content = bytearray(sound.read_bytes())
    for place in random.integers(0, 20_000, 20):
        content[place] = random.integers(256)
    sound.write_bytes(content)
    try:
        with NwbSource().open((str(sound),)) as recording:
            for stream in recording.streams:
                stream.read(0, min(10, stream.shape[0]))
    except SourceError as error:
        assert str(sound) in str(error)  # noqa: PT017  (sound or not depends on where the damage lies)


def test_a_schema_that_is_no_json_is_an_error_of_ours(sound):
    assert NwbSource().open((str(sound),)).streams  # no schema is needed for types of the core
    spoil(sound, "acquisition/odd")
    with h5py.File(sound, "r+") as file:
        group = file.create_group("specifications/ndx-odd/1")
        group["namespace"] = "{not json"
    assert "cannot be understood" in message_of(sound)


def test_what_was_left_out_is_said_where_nothing_is_left(write_nwb):
    from pynwb import TimeSeries

    path = write_nwb(
        lambda nwbfile: nwbfile.add_acquisition(TimeSeries(name="v", data=np.arange(9.0), unit="a", rate=1.0))
    )
    with h5py.File(path, "r+") as file:
        said = dict(file["acquisition/v/data"].attrs)
        del file["acquisition/v/data"]
        file["acquisition/v"].create_dataset("data", data=np.arange(9) + 1j).attrs.update(said)
    with pytest.raises(NothingToConvertError, match=r"acquisition/v: holds complex numbers: save their real"):
        NwbSource().open((str(path),))


def test_time_stamps_that_are_text_are_called_so(write_nwb):
    from pynwb import TimeSeries

    made = TimeSeries(name="v", data=np.arange(9.0), unit="a", timestamps=np.arange(9.0))
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(made))
    with h5py.File(path, "r+") as file:
        del file["acquisition/v/timestamps"]
        file["acquisition/v"]["timestamps"] = [f"{i} s".encode() for i in range(9)]
    with (
        NwbSource().open((str(path),)) as recording,
        pytest.raises(SourceError, match=r"time stamps of shape \(9,\) that are text"),
    ):
        recording.streams[0].timestamps()


def test_patch_clamp_is_told_how_it_is_taken(write_nwb):
    from pynwb.icephys import CurrentClampSeries

    def fill(nwbfile):
        electrode = nwbfile.create_icephys_electrode(name="e", device=nwbfile.create_device(name="d"), description="x")
        nwbfile.add_acquisition(
            CurrentClampSeries(name="clamp", data=np.arange(9.0), electrode=electrode, gain=1.0, rate=9e3)
        )

    path = write_nwb(fill)
    with pytest.raises(NothingToConvertError, match=r"acquisition/clamp.*patch clamp.*lfp\.path=PATH.*sampling=sweep"):
        windowed(NwbSource().open((str(path),)))
