"""What the tests of loading share."""

from __future__ import annotations

import hashlib
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def small_batches_are_handed_to_workers(monkeypatch):
    """Let loaders of this process give even the small batches of tests to the workers that they are asked for."""
    monkeypatch.setattr("neurofm_shards.loading.workers.select.SMALL_BYTES", -1)


class Stored:
    """As much of a ShardCollection as an order needs: sizes of shards and the identity of their contents."""

    tables = MappingProxyType({})
    columns = MappingProxyType({})

    def __init__(self, sizes, name="data"):
        self.starts = np.concatenate(([0], np.cumsum(np.asarray(sizes, dtype=np.int64)))).astype(np.int64)
        self.num_samples = int(self.starts[-1])
        self._name = name
        self.catalog = SimpleNamespace(folder=name)
        self.fingerprint = self.prefix_fingerprint(len(sizes))

    def timing(self):
        return {}

    @property
    def shard_sizes(self):
        return np.diff(self.starts)

    def prefix_fingerprint(self, num_shards):
        text = f"{self._name} {self.starts[: num_shards + 1].tolist()}"
        return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="session")
def stored():
    """Make a stand-in for a collection from its shards' sizes."""
    return Stored


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Write 103 samples into 7 shards; give the folder and the arrays they came from."""
    from neurofm_shards import WebDatasetWriter

    folder = tmp_path_factory.mktemp("written")
    random = np.random.default_rng(7)
    arrays = {"x": random.standard_normal((103, 5, 4)).astype(np.float32), "y": random.integers(0, 99, (103, 3))}
    with WebDatasetWriter(folder, shard_size=16) as writer:
        for i in range(103):
            sample = {name: values[i] for name, values in arrays.items()}
            writer.write_sample(sample, sample_id=f"k{i:03d}", metadata={"row": i, "subject": f"M{i % 3}"})
    return folder, arrays
