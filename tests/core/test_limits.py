"""Whatever is written can be read, also when every index is lost; what lies beyond a limit is refused by both sides."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from neurofm_shards import WebDatasetWriter, limits
from neurofm_shards.errors import NeurofmShardsError
from neurofm_shards.maintenance.validate import validate_dataset
from neurofm_shards.reading.collection import ShardCollection


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def metadata_of(size):
    """Metadata whose member has exactly this size."""
    fixed = len('{"sample_id":"sample_000000001","modalities":["x"],"shard_idx":0,"sample_idx_in_shard":0,"a":""}')
    return {"a": "m" * (size - fixed)}


#: what is written, at a limit and one beyond
LIMITS = {
    "field depth": lambda over: ({"x": nested(limits.MAX_JSON_DEPTH + over)}, None),
    "metadata depth": lambda over: ({"x": 1}, {"a": nested(limits.MAX_JSON_DEPTH - 1 + over)}),
    "metadata bytes": lambda over: ({"x": 1}, metadata_of(limits.MAX_METADATA_BYTES + over)),
    "axes, npy": lambda over: ({"x": np.zeros((1,) * (limits.MAX_AXES + over))}, None),
    "axes, pyd": lambda over: ({"x": np.zeros((1,) * (limits.MAX_AXES + over))}, None),
    "empty axes": lambda over: ({"x": np.zeros((0, limits.MAX_ARRAY_BYTES + over), np.uint8)}, None),
}


@pytest.mark.parametrize("index", ["kept", "lost"])
@pytest.mark.parametrize("what", LIMITS)
def test_what_is_at_a_limit_is_written_and_read(tmp_path, what, index):
    sample, metadata = LIMITS[what](0)
    with WebDatasetWriter(tmp_path, codec="npy" if "npy" in what else "pyd") as writer:
        writer.write_sample(sample, metadata=metadata)
        writer.write_sample(sample, metadata=metadata)
        writer.write_sample(sample, metadata=metadata)
    if index == "lost":
        shutil.rmtree(tmp_path / ".neurofm")
    assert [finding for finding in validate_dataset(tmp_path).findings if finding.severity == "error"] == []
    with ShardCollection.open(tmp_path) as data:
        found = data.gather(np.arange(3), ["x"])["x"]
        for value in found:
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, sample["x"])
            else:
                assert value == sample["x"]
        assert all(metadata is None or said["a"] == metadata["a"] for said in data.metadata(np.arange(3)))
        data.metadata_table()


@pytest.mark.parametrize("what", LIMITS)
def test_what_lies_beyond_a_limit_is_refused_when_it_is_written(tmp_path, what):
    sample, metadata = LIMITS[what](1)
    with WebDatasetWriter(tmp_path, codec="npy" if "npy" in what else "pyd") as writer:
        writer.write_sample({"x": np.zeros(2)})
        for _ in range(2):
            with pytest.raises(NeurofmShardsError):
                writer.write_sample(sample, metadata=metadata)
    assert validate_dataset(tmp_path).num_samples == 1


@pytest.mark.plugins
def test_a_shard_that_would_be_taken_for_a_bomb_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_UNKNOWN_BYTES", 1 << 22)
    sample = {"x": np.zeros(1 << 20, np.uint8)}
    writer = WebDatasetWriter(tmp_path, 100, compression="zstd")
    writer.write_batch([sample] * 99)
    with pytest.raises(NeurofmShardsError, match="smaller shards"):
        writer.write_sample(sample)
    writer.abort()
    with WebDatasetWriter(tmp_path, 3, compression="zstd") as writer:
        for _ in range(6):
            writer.write_sample({"x": np.zeros(1 << 20, np.uint8)})
    shutil.rmtree(tmp_path / ".neurofm")
    assert [finding for finding in validate_dataset(tmp_path).findings if finding.severity == "error"] == []


def test_names_of_shards_leave_room_for_what_lies_beside_them(tmp_path):
    longest = "s" * (limits.MAX_SHARD_NAME - len("_000000.tar"))
    with WebDatasetWriter(tmp_path / "a", shard_name_pattern=longest + "_{shard_idx:06d}.tar") as writer:
        writer.write_sample({"x": 1})
    assert validate_dataset(tmp_path / "a").ok
    with pytest.raises(NeurofmShardsError, match="200"):
        WebDatasetWriter(tmp_path / "b", shard_name_pattern=longest + "s_{shard_idx:06d}.tar")
