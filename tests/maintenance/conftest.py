"""What tests of maintenance share: a data set to damage, and what a data set holds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from neurofm_shards import create_shards_from_arrays
from neurofm_shards.reading.collection import ShardCollection

N, SIZE = 60, 20


def make(folder, compression="none", **options):
    rng = np.random.default_rng(3)
    data = {"x": rng.standard_normal((N, 700)), "y": rng.integers(0, 9, (N, 4))}
    create_shards_from_arrays(folder, data, SIZE, {"i": np.arange(N)}, compression=compression, **options)
    return sorted(folder.glob("shard_*"))


@pytest.fixture(name="make")
def _make():
    return make


@pytest.fixture(params=["none", "gz", "xz", "bz2"])
def compression(request):
    return request.param


def errors(report):
    found = [finding for finding in report.findings if finding.severity == "error"]
    return [(finding.where, key) for finding in found for key in each(finding.key)]


def each(keys):
    """Return the automatic keys of a range, "sample_000000003 to sample_000000005"."""
    first, _, last = keys.partition(" to ")
    if not last:
        return [keys]
    numbers = range(int(first.removeprefix("sample_")), int(last.removeprefix("sample_")) + 1)
    return [f"sample_{number:09d}" for number in numbers]


@pytest.fixture(name="errors")
def _errors():
    return errors


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 16
    path.write_bytes(raw)


@pytest.fixture(name="flip")
def _flip():
    return flip


def contents(folder):
    """Every sample by key: arrays and metadata without the places that shards give."""
    data = ShardCollection.open(folder)
    rows = np.arange(data.num_samples)
    places = ("shard_idx", "sample_idx_in_shard", "sample_id")
    return {
        key: (
            data.gather(np.array([i]))["x"][0].tobytes(),
            {name: value for name, value in metadata.items() if name not in places},
        )
        for i, (key, metadata) in enumerate(zip(data.keys(rows), data.metadata(rows), strict=True))
    }


@pytest.fixture(name="contents")
def _contents():
    return contents


def manifest(folder):
    return json.loads((folder / "dataset_metadata.json").read_text())


@pytest.fixture(name="manifest")
def _manifest():
    return manifest
