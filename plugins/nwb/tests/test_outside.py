"""What a file names outside of itself is read only where that is allowed, and is always said."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from neurofm_shards.errors import SourceError
from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.outside import check_store
from neurofm_shards_nwb.source import NwbSource

SECRET = b"-----BEGIN KEY-----" * 40


def write_nwb(path, data):
    """An NWB file of one series whose values are put in by a function."""
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.7.0"
        file.attrs["neurodata_type"] = "NWBFile"
        file["identifier"] = "x"
        file["session_start_time"] = "2020-01-01T00:00:00+00:00"
        behavior = file.create_group("processing/behavior")
        behavior.attrs["neurodata_type"] = "ProcessingModule"
        series = behavior.create_group("speed")
        series.attrs["neurodata_type"] = "TimeSeries"
        data(series)
        if "data" in series and isinstance(series.get("data"), h5py.Dataset):
            series["data"].attrs["unit"] = "cm/s"
        start = series.create_dataset("starting_time", data=0.0)
        start.attrs["rate"] = 10.0
        start.attrs["unit"] = "seconds"
    return str(path)


@pytest.fixture
def place(tmp_path):
    """A folder for inputs, and files beside it that are nobody's business."""
    for name in ("in", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere/key").write_bytes(SECRET)
    with h5py.File(tmp_path / "elsewhere/other.h5", "w") as other:
        other["values"] = np.arange(100.0)
    return tmp_path


def beside(folder, name="values.h5"):
    with h5py.File(folder / name, "w") as other:
        other["values"] = np.arange(100.0)
        other["values"].attrs["unit"] = "cm/s"


def external_storage(name):
    return lambda series: series.create_dataset("data", (95,), "<f8", external=[(str(name), 0, 760)])


def virtual(name):
    def make(series):
        layout = h5py.VirtualLayout((100,), "<f8")
        layout[:] = h5py.VirtualSource(str(name), "values", (100,))
        series.create_virtual_dataset("data", layout)

    return make


def linked(name):
    return lambda series: series.__setitem__("data", h5py.ExternalLink(str(name), "/values"))


def problems(path, **options):
    with NwbSource(NwbConfig(**options)).open((path,)) as recording:
        return [f"{problem.where}: {problem.what}" for problem in recording.problems]


@pytest.mark.parametrize("name", ["/proc/self/environ", "../elsewhere/key", "key_here"])
def test_external_storage_is_refused(place, name):
    (place / "in/key_here").write_bytes(SECRET)
    path = write_nwb(place / "in/a.nwb", external_storage(name))
    with pytest.raises(SourceError, match="external storage"):
        NwbSource().open((path,))


@pytest.mark.parametrize("make", [linked, virtual])
@pytest.mark.parametrize("way", ["relative", "absolute", "link", "in a subfolder"])
def test_what_leads_out_of_the_folder_is_refused_unless_it_is_allowed(place, make, way):
    outside = place / "elsewhere/other.h5"
    name = {"relative": "../elsewhere/other.h5", "absolute": outside, "link": "here.h5", "in a subfolder": "sub/x.h5"}[
        way
    ]
    if way == "link":
        (place / "in/here.h5").symlink_to(outside)
    elif way == "in a subfolder":
        (place / "in/sub").symlink_to(place / "elsewhere")
        (place / "elsewhere/x.h5").write_bytes(outside.read_bytes())
    path = write_nwb(place / "in/a.nwb", make(name))
    with pytest.raises(SourceError, match=r"outside of the folder.*'allow_links'"):
        NwbSource().open((path,))
    said = problems(path, allow_links=(str(place / "elsewhere"),))
    assert any("it lies in another file" in text for text in said)
    assert not any(str(place) in text for text in said)


@pytest.mark.parametrize("make", [linked, virtual])
def test_files_beside_the_input_are_read_named_and_part_of_its_fingerprint(place, make):
    beside(place / "in")
    path = write_nwb(place / "in/a.nwb", make("values.h5"))
    (place / "link.nwb").symlink_to(path)
    for name in (path, str(place / "link.nwb")):
        assert "processing/behavior/speed/data: it lies in another file, values.h5" in [
            text.replace("in/values.h5", "values.h5") for text in problems(name)
        ]
    with NwbSource().open((path,)) as recording:
        before = recording.fingerprint
    (place / "in/values.h5").unlink()
    with h5py.File(place / "in/values.h5", "w") as other:
        other["values"] = np.arange(100.0) * 2
        other["values"].attrs["unit"] = "cm/s"
    with NwbSource().open((path,)) as recording:
        assert recording.fingerprint != before


def test_a_virtual_dataset_without_its_source_is_refused(place):
    path = write_nwb(place / "in/a.nwb", virtual("gone.h5"))
    with NwbSource().open((path,)) as recording, pytest.raises(SourceError, match=r"gone\.h5 cannot be found"):
        recording.streams[0].read(0, 50)


def test_what_linked_files_lead_to_is_looked_at_too(place):
    with h5py.File(place / "in/values.h5", "w") as other:
        other["values"] = h5py.ExternalLink("../elsewhere/other.h5", "/values")
    path = write_nwb(place / "in/a.nwb", linked("values.h5"))
    with pytest.raises(SourceError, match="outside of the folder"):
        NwbSource().open((path,))


def test_links_in_a_circle_end(place):
    with h5py.File(place / "in/values.h5", "w") as other:
        other["back"] = h5py.ExternalLink("a.nwb", "/processing")
        other["values"] = np.arange(100.0)
    path = write_nwb(place / "in/a.nwb", linked("values.h5"))
    assert problems(path)


@pytest.mark.parametrize("make", [linked, virtual])
def test_pipes_are_refused_and_not_waited_for(place, make):
    os.mkfifo(place / "in/pipe")
    path = write_nwb(place / "in/a.nwb", make("pipe"))
    with pytest.raises(SourceError, match="no regular file"):
        NwbSource().open((path,))
    os.mkfifo(place / "in/pipe.nwb")
    with pytest.raises(SourceError, match="no regular file"):
        NwbSource().open((str(place / "in/pipe.nwb"),))


def test_broken_links_do_not_tell_folders_of_other_machines(place):
    path = write_nwb(place / "in/a.nwb", linked("/home/someone/secret-project/values.h5"))
    said = NwbSource().inspect((path,))
    texts = [f"{problem.what} {problem.consequence}" for problem in said.problems]
    assert any("in values.h5, which cannot be opened" in text for text in texts), texts
    assert not any("secret-project" in text for text in texts)


def test_a_store_that_leads_out_of_itself_is_refused(place):
    store = place / "in/store.nwb.zarr"
    (store / "data").mkdir(parents=True)
    (store / ".zattrs").write_text('{"zarr_link": [{"name": "x", "source": ".", "path": "/data"}]}')
    check_store(str(store))
    (store / "data/.zattrs").write_text('{"zarr_link": [{"name": "x", "source": "../../elsewhere", "path": "/"}]}')
    with pytest.raises(SourceError, match=r"data/\.zattrs leads to 'elsewhere' outside"):
        check_store(str(store))
    check_store(str(store), [str(place / "elsewhere")])
    (store / "data/.zattrs").write_text('{"x": {"source": "https://example.org/x", "path": "/"}}')
    with pytest.raises(SourceError, match="another machine"):
        check_store(str(store))
    (store / "data/.zattrs").unlink()
    (store / "data/0").symlink_to(place / "elsewhere/key")
    with pytest.raises(SourceError, match="outside"):
        check_store(str(store))
    (store / "data/0").unlink()
    os.mkfifo(store / "data/0")
    with pytest.raises(SourceError, match="no regular file"):
        check_store(str(store))


def test_nothing_of_a_secret_file_reaches_a_shard(place, monkeypatch):
    from neurofm_shards import convert_inputs

    path = write_nwb(place / "in/a.nwb", external_storage("../elsewhere/key"))
    with pytest.raises(SourceError):
        convert_inputs([path], place / "out")
    assert not [file for file in Path(place / "out").rglob("*") if file.is_file() and b"BEGIN KEY" in file.read_bytes()]


@pytest.mark.parametrize("reader", ["h5py", "pynwb"])
@pytest.mark.parametrize("how", ["external storage", "a link", "a group deeper down"])
def test_schemas_are_looked_at_before_they_are_read(place, reader, how):
    path = write_nwb(place / "in/a.nwb", lambda series: series.create_dataset("data", data=np.arange(95.0)))
    with h5py.File(path, "r+") as file:
        version = file.create_group("specifications/ndx-odd/1.0")
        if how == "a link":
            version["namespace"] = h5py.ExternalLink(str(place / "elsewhere/other.h5"), "/values")
        else:
            group = version if how == "external storage" else version.create_group("more")
            group.create_dataset("namespace", (95,), "u1", external=[(str(place / "elsewhere/key"), 0, 95)])
        file["processing/behavior/speed"].attrs["neurodata_type"] = "OddSeries"
    with pytest.raises(SourceError, match=r"external storage|outside of the folder"):
        NwbSource(NwbConfig(reader=reader)).open((path,))


def test_schemas_that_nothing_reads_are_not_looked_at(place):
    path = write_nwb(place / "in/a.nwb", lambda series: series.create_dataset("data", data=np.arange(95.0)))
    with h5py.File(path, "r+") as file:
        version = file.create_group("specifications/core/2.7.0")
        version.create_dataset("namespace", (95,), "u1", external=[(str(place / "elsewhere/key"), 0, 95)])
    with NwbSource().open((path,)) as recording:
        assert [stream.path for stream in recording.streams] == ["processing/behavior/speed"]
