"""Chunks of any shape: the same values, and each chunk decoded once when time is read in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurofm_shards.errors import SourceError
from neurofm_shards_nwb import hdf5_file as spooling
from neurofm_shards_nwb.content import StoredArray

VALUES = np.random.default_rng(3).integers(-3000, 3000, (700, 5), dtype=np.int16)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    import h5py

    with h5py.File(tmp_path_factory.mktemp("chunks") / "c.h5", "w") as file:
        for chunks in ((700, 1), (256, 2), (100, 5), (700, 5), (1, 5)):
            name = f"{chunks[0]}x{chunks[1]}"
            file.create_dataset(name, data=VALUES, chunks=chunks, compression="gzip")
        file.create_dataset("one_axis", data=VALUES[:, 0], chunks=(300,), compression="gzip")
        file.create_dataset("plain", data=VALUES)
        yield {name: StoredArray(file[name], f"c.h5: {name}") for name in file}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(["700x1", "256x2", "100x5", "700x5", "one_axis"]), data=st.data())
def test_any_ranges_in_any_order_are_right(datasets, name, data):
    reader = spooling.SpooledReader(datasets[name])
    wanted = VALUES[:, 0] if name == "one_axis" else VALUES
    for start, length in data.draw(st.lists(st.tuples(st.integers(0, 699), st.integers(0, 700)), max_size=6)):
        assert np.array_equal(reader(start, start + length), wanted[start : start + length])


def test_each_chunk_is_decoded_once_when_time_is_read_in_order(datasets, monkeypatch):
    decoded = []
    original = StoredArray.part
    monkeypatch.setattr(StoredArray, "part", lambda self, *a: decoded.append(a[:3]) or original(self, *a))
    reader = spooling.SpooledReader(datasets["256x2"])
    parts = [reader(start, start + 40) for start in range(0, 700, 35)]
    assert np.array_equal(np.concatenate([part[:35] for part in parts]), VALUES)
    assert len(decoded) == len(set(map(str, decoded))) == 9


@pytest.mark.parametrize(("name", "cache", "spooled"), [
    ("700x1", 6999, True), ("700x1", 8000, False), ("256x2", 3000, True), ("1x5", 100, False), ("plain", 1, False),
])  # fmt: skip
def test_only_chunks_that_do_not_fit_the_cache_are_spooled(datasets, monkeypatch, name, cache, spooled):
    monkeypatch.setattr(spooling, "CHUNK_CACHE_BYTES", cache)
    assert spooling.needs_spooling(datasets[name]) == spooled


def test_a_full_disk_is_an_error_that_says_where(datasets, monkeypatch):
    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

        def close(self):
            """Nothing to close."""

    monkeypatch.setattr(spooling.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(SourceError, match="No space left on device; set TMPDIR"):
        spooling.SpooledReader(datasets["700x1"])(0, 10)
