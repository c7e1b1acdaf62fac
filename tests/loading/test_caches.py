"""Compressed shards are decoded once per epoch where the memory allows it, and not at all where all of it is kept."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm_shards import ShardDataset, WebDatasetLoader, create_shards_from_arrays, create_webdataset_dataloader, mix
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading import datasets
from neurofm_shards.reading import collection as collections

FRAMES = 48


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """Write 600 samples of 80 KB into 12 shards of 4 frames each."""
    folder = tmp_path_factory.mktemp("compressed")
    data = np.repeat(np.arange(600, dtype=np.float64), 10_000).reshape(600, 100, 100)
    create_shards_from_arrays(folder, {"x": data}, shard_size=50, compression="gz")
    return folder


@pytest.fixture(autouse=True)
def _small_default(monkeypatch):
    """Keep so little by default that an epoch in a random order would decode frames over and over."""
    monkeypatch.setattr(datasets, "DEFAULT_CACHE_BYTES", 4 << 20)


@pytest.fixture
def decoded(decoded_frames):
    def count(loader):
        counts = []
        for _ in range(2):
            assert sum(len(batch["x"]) for batch in loader) == loader.setup.fetch.readers[0].collection.num_samples
            counts.append(len(decoded_frames))
            decoded_frames.clear()
        return counts

    return count


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("shuffle", "buffer_size"), [("global", 1000), (True, 100), (True, 10_000), (False, 1000)])
def test_every_frame_is_decoded_once_in_an_epoch(compressed, decoded, shuffle, buffer_size, num_workers):
    loader = create_webdataset_dataloader(compressed, 16, num_workers, shuffle, buffer_size, metadata=False)
    first, second = decoded(loader)
    assert first == FRAMES
    assert second <= FRAMES


def test_what_is_kept_can_be_said(compressed, decoded):
    loader = create_webdataset_dataloader(compressed, 16, 0, "global", metadata=False, cache_bytes=8 << 20)
    assert decoded(loader)[0] > 2 * FRAMES
    with pytest.raises(ConfigError, match="cache_bytes=-1"):
        create_webdataset_dataloader(compressed, cache_bytes=-1)


def budget(of):
    return of.collection._space.frames.budget


@pytest.mark.parametrize(("workers", "kind", "share"), [(0, "thread", 1), (3, "thread", 1), (3, "process", 3)])
def test_caches_stay_within_half_of_the_jobs_memory(compressed, monkeypatch, workers, kind, share):
    monkeypatch.setattr(datasets, "usable_memory", lambda: 60 << 20)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    loader = create_webdataset_dataloader(compressed, 16, workers, "global", worker_type=kind)
    assert budget(loader.setup.fetch.readers[0]) <= (60 << 20) / 2 / 2 / share


def test_every_kind_of_loader_keeps_what_it_needs(compressed):
    samples = WebDatasetLoader(compressed, shuffle="global")
    assert budget(samples._fetch.reader) >= 48_000_000
    mixed = create_webdataset_dataloader(mix([compressed, compressed]), 16, 0, "global")
    assert [budget(reader) >= 48_000_000 for reader in mixed.setup.fetch.readers] == [True, True]
    assert budget(ShardDataset(compressed, cache_bytes=1 << 20)) == 1 << 20
    assert collections.DEFAULT_CACHE_BYTES == 256 << 20
