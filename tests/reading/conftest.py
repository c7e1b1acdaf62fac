"""Twenty-five samples in three shards, for either way of reading them."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm_shards.writing.dataset_writer import WebDatasetWriter


@pytest.fixture
def values():
    return np.random.default_rng(4).standard_normal((25, 30, 4))


@pytest.fixture
def ours(tmp_path, values):
    return write(tmp_path / "ours", values)


def write(folder, values, **options):
    with WebDatasetWriter(folder, shard_size=10, **options) as writer:
        for i, value in enumerate(values):
            writer.write_sample({"x": value}, metadata={"row": i})
    return folder


@pytest.fixture(params=["mmap", "pread"])
def io(request):
    return request.param


@pytest.fixture(name="write")
def _write():
    return write
