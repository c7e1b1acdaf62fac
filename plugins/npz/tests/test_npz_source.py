"""``.npz`` archives are samples, or a recording once a clock is named; hostile archives are refused."""

import io
import os
import zipfile
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from neurofm_shards.cli.options import in_flags
from neurofm_shards.errors import ConfigError, NothingToConvertError, SourceError
from neurofm_shards.plugins.registry import registry
from neurofm_shards.testing.sources import SourceConformance
from neurofm_shards_npz import archive


class TestSamplesConformance(SourceConformance):
    name = "npz"

    def make_input(self, folder: Path) -> list[Path]:
        rng = np.random.default_rng(0)
        np.savez(
            folder / "data.npz", spikes=rng.integers(0, 9, (50, 4, 3)), label=np.array([f"l{i}" for i in range(50)])
        )
        return [folder / "data.npz"]


class TestCompressedConformance(SourceConformance):
    name = "npz"

    def make_input(self, folder: Path) -> list[Path]:
        np.savez_compressed(folder / "data.npz", x=np.random.default_rng(0).standard_normal((50, 4)).astype(">f4"))
        return [folder / "data.npz"]


class TestRecordingConformance(SourceConformance):
    name = "npz"
    options = MappingProxyType({"time_axis": 1, "rate": "sf"})

    def make_input(self, folder: Path) -> list[Path]:
        np.savez(folder / "data.npz", lfp=np.random.default_rng(0).standard_normal((3, 500)), sf=250)
        return [folder / "data.npz"]


def opened(path, **options):
    return registry().sources.make({"kind": "npz", **options}).open((str(path),))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_stored_and_compressed_archives_give_the_same_rows(tmp_path, save, order):
    x = np.asarray(np.random.default_rng(1).standard_normal((20, 3, 2)), order=order)
    save(tmp_path / "a.npz", x=x)
    with opened(tmp_path / "a.npz") as samples:
        np.testing.assert_array_equal(samples.read(3, 17).columns["x"], x[3:17])


def test_large_compressed_members_go_through_a_temporary_file(tmp_path, monkeypatch):
    x = np.random.default_rng(1).standard_normal((500, 3))
    np.savez_compressed(tmp_path / "a.npz", x=x)
    monkeypatch.setattr(archive, "MEMORY_BYTES", 100)
    with opened(tmp_path / "a.npz") as samples:
        np.testing.assert_array_equal(samples.read(0, 500).columns["x"], x)


def test_a_recording_without_options_is_refused_with_the_options_that_help(tmp_path):
    np.savez(tmp_path / "eog.npz", data=np.zeros((2, 1000)), sf=256.0, chan=np.array(["a", "b"]))
    with pytest.raises(SourceError, match=r"same first dimension.*data \(2, 1000\).*'time_axis': 1, 'rate': 'sf'"):
        opened(tmp_path / "eog.npz")
    np.savez(tmp_path / "pos.npz", t=np.arange(100) * 0.1, pos=np.zeros((100, 2)))
    with pytest.raises(SourceError, match=r"'timestamps': 't'.*'layout': 'samples'"):
        opened(tmp_path / "pos.npz")
    with opened(tmp_path / "pos.npz", layout="samples") as samples:
        assert samples.plan().num_samples == 100


def test_a_rate_makes_a_regular_stream_with_channel_names(tmp_path):
    data = np.random.default_rng(0).standard_normal((2, 1000))
    np.savez(tmp_path / "eog.npz", data=data, sf=256.0, chan=np.array(["left", "right"]))
    options = {"time_axis": 1, "rate": "sf", "channels": "chan", "start_s": 5.0, "modality": {"data": "lfp"}}
    with opened(tmp_path / "eog.npz", **options) as recording:
        (stream,) = recording.streams
        assert (stream.rate, stream.t0, stream.shape, stream.modality) == (256.0, 5.0, (1000, 2), "lfp")
        assert stream.channels == ("left", "right")
        np.testing.assert_array_equal(stream.read(10, 20), data[:, 10:20].T)


def test_timestamps_make_irregular_streams(tmp_path):
    t, pos = np.cumsum(np.random.default_rng(0).random(50)), np.random.default_rng(1).random((50, 2))
    np.savez(tmp_path / "pos.npz", t=t, pos=pos)
    with opened(tmp_path / "pos.npz", timestamps="t", circular={"pos": [0, 6.28]}) as recording:
        (stream,) = recording.streams
        np.testing.assert_array_equal(stream.timestamps(), t)
        np.testing.assert_array_equal(stream.read(3, 9), pos[3:9])
        assert stream.circular == (0, 6.28)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestamps": "when"}, "no array 'when'"),
        ({"timestamps": "x"}, "do not fit"),
        ({"rate": "x"}, "not a rate"),
        ({"rate": 10.0, "time_axis": 4}, "no array has a time axis"),
        ({"rate": 10.0, "channels": "chan", "arrays": ["x"]}, "names 3 channels"),
    ],
)
def test_clocks_that_do_not_fit_are_explained(tmp_path, options, message):
    np.savez(tmp_path / "a.npz", x=np.zeros((10, 2)), y=np.zeros((12, 2)), chan=np.array(["a", "b", "c"]))
    with pytest.raises((SourceError, NothingToConvertError), match=message):
        opened(tmp_path / "a.npz", **options)


def test_two_clocks_are_refused():
    with pytest.raises(ConfigError, match="not both"):
        registry().sources.make({"kind": "npz", "rate": 1.0, "timestamps": "t"})
    with pytest.raises(ConfigError, match="needs a clock"):
        registry().sources.make({"kind": "npz", "time_axis": 1})


def test_objects_are_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    np.savez(tmp_path / "a.npz", x=np.array([Bomb()], dtype=object))
    with pytest.raises(SourceError, match="cannot be stored"):
        opened(tmp_path / "a.npz")
    assert not (tmp_path / "exploded").exists()


def member(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def hostile_archives():
    whole = member(np.zeros(4000))
    yield "cut", whole[:-100]
    yield "long", whole + b"more"
    yield "header", b"\x93NUMPY\x01\x00\xff\xff{'descr': '<f8'}"
    yield "text", b"not an array"
    huge = whole.replace(b"(4000,)", b"(1 << 60,)"[:7].ljust(7))
    yield "shape", huge


@pytest.mark.parametrize(("name", "content"), list(hostile_archives()))
@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_that_lie_are_refused(tmp_path, name, content, kind):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", kind) as file:
        file.writestr("x.npy", content)
    with pytest.raises(SourceError, match=r"a\.npz: array 'x'"), opened(tmp_path / "a.npz") as samples:
        samples.read(0, samples.plan().num_samples)


def test_an_archive_cut_short_or_of_other_bytes_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(1000))
    data = (tmp_path / "a.npz").read_bytes()
    for content in (b"", b"PK\x03\x04", data[: len(data) // 2], b"something else"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(SourceError, match=r"a\.npz"):
            opened(tmp_path / "a.npz")


def test_an_option_called_like_a_setting_has_its_own_flag():
    assert in_flags("source={'layout': 'samples'}") == "--npz-layout samples"


@pytest.mark.parametrize("option", ["modality", "units", "circular", "time_axis"])
def test_options_for_arrays_that_no_archive_has_are_errors_and_problems_where_some_have_them(tmp_path, option):
    from neurofm_shards.convert.session import convert_inputs

    t = np.arange(0, 10, 0.01)
    np.savez(tmp_path / "a.npz", pos=np.sin(t), head=np.cos(t), t=t)
    np.savez(tmp_path / "b.npz", head=np.cos(t), t=t)
    value = {"modality": "behavior", "units": "m", "circular": (-1.0, 1.0), "time_axis": 0}[option]
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    source = {"kind": "npz", "timestamps": "t", option: {"heads": value}}
    with pytest.raises(ConfigError, match=rf"{option}: no array is called 'heads' \(did you mean 'head'\?\)"):
        convert_inputs(paths, tmp_path / "out", {"source": source})
    assert not (tmp_path / "out" / "dataset_metadata.json").exists()
    done = convert_inputs(paths, tmp_path / "out", {"source": {**source, option: {"pos": value}}})
    (said,) = [problem for problem in done["problems"] if problem["where"] == option]
    assert said["what"] == "no array is called 'pos'"


def test_options_for_samples_that_are_not_there_are_errors(tmp_path):
    from neurofm_shards.convert.session import convert_inputs

    np.savez(tmp_path / "a.npz", x=np.zeros((5, 2)))
    with pytest.raises(ConfigError, match="units: no array is called 'y'"):
        convert_inputs([tmp_path / "a.npz"], tmp_path / "out", {"source": {"units": {"y": "m"}}})
    for option, value in (("modality", {"x": "lfp"}), ("circular", {"x": (0.0, 1.0)}), ("channels", "x")):
        with pytest.raises(SourceError, match=rf"rows are samples here, of which {option} say nothing"):
            opened(tmp_path / "a.npz", **{option: value})


@pytest.mark.parametrize("options", [{"start_s": 3.0}, {"layout": "samples", "rate": 100.0}])
def test_options_that_would_do_nothing_are_refused(options):
    with pytest.raises(ConfigError, match="goes with rate|layout says samples"):
        registry().sources.make({"kind": "npz", **options})
