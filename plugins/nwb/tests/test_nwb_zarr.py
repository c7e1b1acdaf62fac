"""Zarr stores give what the HDF5 file they were exported from gives; needs the extra ``zarr``."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil

import numpy as np
import pytest

from neurofm_shards.errors import SourceError
from neurofm_shards.streams import EventStream, IntervalStream
from neurofm_shards_nwb.demo import write_demo_session
from neurofm_shards_nwb.source import NwbSource

hdmf_zarr = pytest.importorskip("hdmf_zarr.nwb", reason="the extra 'zarr' is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    from pynwb import NWBHDF5IO

    folder = tmp_path_factory.mktemp("zarr")
    write_demo_session(folder / "demo.nwb", seconds=12, seed=1, units=4, channels=2)
    with NWBHDF5IO(folder / "demo.nwb", "r") as source, hdmf_zarr.NWBZarrIO(str(folder / "demo.nwb.zarr"), "w") as io:
        io.export(src_io=source, write_args={"link_data": False})
    return folder / "demo.nwb", folder / "demo.nwb.zarr"


def test_a_store_gives_what_the_file_gives(pair):
    first, second = (NwbSource().open((str(path),)) for path in pair)
    assert [stream.path for stream in first.streams] == [stream.path for stream in second.streams]
    for one, other in zip(first.streams, second.streams, strict=True):
        assert type(one) is type(other)
        if isinstance(one, EventStream):
            assert one.owners == other.owners
            assert all(np.array_equal(a, b) for a, b in zip(one.read(), other.read(), strict=True))
        elif isinstance(one, IntervalStream):
            assert np.array_equal(one.start, other.start)
            assert one.columns == other.columns
        else:
            assert (one.shape, one.dtype, one.unit, one.channels) == (
                other.shape,
                other.dtype,
                other.unit,
                other.channels,
            )
            assert np.array_equal(one.read(3, 900), other.read(3, 900))


def test_pickled_columns_are_left_out_and_named(pair):
    with NwbSource().open((str(pair[1]),)) as recording:
        assert any("pickles" in problem.what for problem in recording.problems)


def test_a_damaged_store_is_a_clear_error(pair, tmp_path):
    store = tmp_path / "broken.nwb.zarr"
    store.mkdir()
    (store / ".zgroup").write_text("{")
    with pytest.raises(SourceError, match="cannot be read as an NWB store in Zarr"):
        NwbSource().open((str(store),))


def test_a_store_converts_to_the_samples_that_the_file_converts_to(pair, tmp_path):
    from neurofm_shards import create_webdataset_dataloader
    from neurofm_shards.convert.session import convert_inputs

    batches = []
    for number, path in enumerate(pair):
        shards = tmp_path / f"shards{number}"
        convert_inputs([path], shards, {"windows": {"overlap": 0.0, "lfp": {"units": "uV"}}, "durable": False})
        batches.append(next(iter(create_webdataset_dataloader(shards, batch_size=12, shuffle=False))))
    first, second = batches
    assert len(first["spikes"]) >= 11
    assert sorted(first) == sorted(second)
    for name in first.keys() - {"metadata"}:
        assert np.array_equal(first[name].numpy(), second[name].numpy(), equal_nan=True), name
    starts = [[said["window_start_s"] for said in batch["metadata"]] for batch in batches]
    assert starts[0] == starts[1]


class _Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (self.marker, "w")


def test_a_pickle_that_is_a_filter_of_a_store_is_never_run(pair, tmp_path):
    store = tmp_path / "evil.nwb.zarr"
    shutil.copytree(pair[1], store)
    chunks = [
        chunk
        for description in store.rglob(".zarray")
        if '"pickle"' in description.read_text()
        for chunk in description.parent.iterdir()
        if not chunk.name.startswith(".")
    ]
    assert chunks
    for chunk in chunks:
        settings = json.loads((chunk.parent / ".zarray").read_text()) | {"compressor": None}
        (chunk.parent / ".zarray").write_text(json.dumps(settings))
        chunk.write_bytes(pickle.dumps(_Evil(str(tmp_path / "marker"))))
    with contextlib.suppress(SourceError), NwbSource().open((str(store),)) as recording:
        for stream in recording.streams:
            if isinstance(stream, EventStream):
                stream.read()
    assert not (tmp_path / "marker").exists()
