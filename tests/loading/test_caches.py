"""Compressed shards are decoded once per epoch where the memory allows it, and not at all where all of it is kept."""

from __future__ import annotations

import tempfile
from types import SimpleNamespace

import numpy as np
import pytest

from neurofm_shards import ShardDataset, WebDatasetLoader, create_shards_from_arrays, create_webdataset_dataloader, mix
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading import datasets
from neurofm_shards.reading import collection as collections
from neurofm_shards.reading import frames_cache, scratch

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
    loader = create_webdataset_dataloader(
        compressed, 16, 0, "global", metadata=False, cache_bytes=8 << 20, cache_dir=None
    )
    assert decoded(loader)[0] > 2 * FRAMES
    for value in (-1, "1GB"):
        with pytest.raises(ConfigError, match=f"cache_bytes={value!r}: a number of bytes is needed"):
            create_webdataset_dataloader(compressed, cache_bytes=value)


@pytest.mark.parametrize(("num_workers", "kind"), [(0, "thread"), (2, "thread"), (2, "process")])
@pytest.mark.parametrize(("shuffle", "buffer_size"), [("global", 1000), (True, 300), (False, 1000)])
def test_frames_are_decoded_once_whatever_the_memory(
    compressed, tmp_path, monkeypatch, shuffle, buffer_size, num_workers, kind
):
    monkeypatch.setattr(scratch, "file_system_of", lambda _: "ext4")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    real, log = frames_cache._Frames.decode, tmp_path / "log"

    def counted(self, frame):
        with log.open("ab", buffering=0) as file:
            file.write(b"x")
        real(self, frame)

    monkeypatch.setattr(frames_cache._Frames, "decode", counted)
    loader = create_webdataset_dataloader(
        compressed, 16, num_workers, shuffle, buffer_size, worker_type=kind, cache_bytes=1 << 20
    )
    for _ in range(2):
        found = np.concatenate([batch["x"][:, 0, 0] for batch in loader])
        assert sorted(found.tolist()) == list(range(600))
    assert log.stat().st_size == FRAMES


def test_samples_at_random_are_decoded_once_whatever_the_memory(compressed, tmp_path, monkeypatch, decoded_frames):
    monkeypatch.setattr(scratch, "file_system_of", lambda _: "ext4")
    samples = ShardDataset(compressed, cache_bytes=1 << 20)
    for number in np.random.default_rng(0).permutation(600).tolist():
        assert samples[number]["x"][0, 0] == number
    assert len(decoded_frames) == FRAMES


def test_a_folder_that_nobody_named_is_said_and_must_be_a_disk_with_room(compressed, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def spills(file_system, free, ranks):
        monkeypatch.setattr(scratch, "file_system_of", lambda _: file_system)
        monkeypatch.setattr(scratch.os, "statvfs", lambda _: SimpleNamespace(f_bavail=free, f_frsize=1 << 20))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        caplog.clear()
        loader = create_webdataset_dataloader(compressed, 16, 0, "global", cache_bytes=8 << 20)
        found = loader.setup.fetch.readers[0].collection.keeps_decoded
        assert ("without a name" in caplog.text, "decoded several times" in caplog.text) == (found, True)
        return found

    assert spills("ext4", 100, 1)
    assert str(tmp_path) in caplog.text
    assert not spills("tmpfs", 100, 1)
    assert not spills("nfs4", 100, 1)
    assert not spills("", 100, 1)
    assert not spills("xfs", 80, 1)
    assert not spills("xfs", 180, 2)
    assert spills("xfs", 400, 2)


def test_nothing_is_put_on_a_disk_that_memory_holds(compressed, tmp_path):
    loader = create_webdataset_dataloader(compressed, 16, 0, True, 100, cache_dir=tmp_path)
    for _ in loader:
        pass
    assert not loader.setup.fetch.readers[0].collection.keeps_decoded
    samples = WebDatasetLoader(compressed, cache_bytes=0, cache_dir=tmp_path)
    assert samples._fetch.reader.collection.keeps_decoded


def test_decoding_again_and_again_is_said_with_the_remedy(compressed, tmp_path, caplog):
    create_webdataset_dataloader(compressed, 16, 0, "global", cache_bytes=8 << 20, cache_dir=None)
    assert "goes back to 46 MB of decoded shards, and 8 MB are kept in memory" in caplog.text
    assert "cache_dir=" in caplog.text
    caplog.clear()
    create_webdataset_dataloader(compressed, 16, 0, "global", cache_bytes=8 << 20, cache_dir=tmp_path)
    create_webdataset_dataloader(compressed, 16, 0, "global")
    assert not caplog.text


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
