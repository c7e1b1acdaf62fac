"""A data set that is replaced while it is open is never mixed with the new one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards import create_shards_from_arrays
from neurofm_shards.errors import FormatError
from neurofm_shards.reading.collection import ShardCollection


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def make(folder, value, compression="none"):
    rng = np.random.default_rng(value)
    data = rng.integers(0, 250, (24, 500)).astype(np.uint8)
    create_shards_from_arrays(folder, {"x": data}, 6, {"subject": "a"}, compression=compression, overwrite=True)
    return data


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_shards_of_equal_size_that_take_the_place_of_others_are_refused(tmp_path, io):
    old = make(tmp_path / "old", 1)
    make(tmp_path / "new", 2)
    with ShardCollection.open(tmp_path / "old", io=io) as data:
        data.metadata_table()  # what where= does: all indexes are known now
        np.testing.assert_array_equal(data.gather(np.arange(6))["x"], old[:6])
        for path in (tmp_path / "new").rglob("*"):
            if path.is_file():
                target = tmp_path / "old" / path.relative_to(tmp_path / "new")
                shutil.copy(path, target.with_name("temporary"))
                target.with_name("temporary").replace(target)
        np.testing.assert_array_equal(data.gather(np.arange(6))["x"], old[:6])  # opened before
        with pytest.raises(FormatError, match=r"shard_000002\.tar"):
            data.gather(np.arange(12, 18))


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_frames_of_a_shard_that_was_replaced_are_refused(tmp_path, io):
    folder = tmp_path / "data"
    data = np.random.default_rng(0).integers(0, 250, (8, 1 << 20)).astype(np.uint8)
    create_shards_from_arrays(folder, {"x": data}, 8, compression="gz")
    with ShardCollection.open(folder, io=io, cache_bytes=0) as opened:
        np.testing.assert_array_equal(opened.gather(np.array([0]))["x"][0], data[0])
        shard = folder / "shard_000000.tar.gz"
        other = bytearray(shard.read_bytes())
        other[len(other) // 2] ^= 1
        shard.with_name("temporary").write_bytes(other)
        shard.with_name("temporary").replace(shard)
        with pytest.raises(FormatError, match=r"shard_000000\.tar\.gz"):
            opened.gather(np.array([7]))


def test_plain_reads_keep_descriptors_within_a_budget(tmp_path):
    folders = []
    for k in range(6):
        folders.append(tmp_path / str(k))
        create_shards_from_arrays(folders[-1], {"x": np.arange(200.0).reshape(100, 2) + k}, 1)
    opened = [ShardCollection.open(folder, io="pread") for folder in folders]
    before = descriptors()
    for _ in range(2):
        for k, data in enumerate(opened):
            np.testing.assert_array_equal(data.gather(np.arange(100))["x"], np.arange(200.0).reshape(100, 2) + k)
    assert descriptors() - before <= 300
    for data in opened:
        data.close()
    assert descriptors() <= before + 1
