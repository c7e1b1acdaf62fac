"""The account of decoded frames."""

from __future__ import annotations

import os
import pickle
import threading

import numpy as np
import pytest

from neurofm_shards.errors import FormatError
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.reading.frames_cache import FrameCache
from neurofm_shards.writing.dataset_writer import WebDatasetWriter


class Source:
    """Six frames of ten bytes; remembers what was decoded."""

    bounds = np.arange(7) * 10

    def __init__(self):
        self.decoded = []
        self.broken = set()

    def decode(self, frame):
        if frame in self.broken:
            raise FormatError(f"frame {frame} is damaged")
        self.decoded.append(frame)


class Owner:
    def __init__(self):
        self.dropped = []

    def drop(self, start, stop):
        self.dropped.append((start, stop))


@pytest.fixture
def parts():
    owner, source = Owner(), Source()
    cache = FrameCache(20, owner.drop)
    cache.add(source, 100)
    yield cache, source, owner
    cache.close()


def use(cache, *frames):
    cache.pin(np.array(frames))
    cache.load(np.array(frames))
    cache.unpin(np.array(frames))


def test_pinned_frames_are_never_dropped(parts):
    cache, _, owner = parts
    cache.pin(np.array([0, 1]))
    cache.load(np.array([0, 1]))
    use(cache, 2)
    use(cache, 3)
    assert owner.dropped == [(120, 130)]
    cache.unpin(np.array([0, 1]))
    use(cache, 4)
    assert {(100, 110), (110, 120)} <= set(owner.dropped)


def test_the_least_recently_used_goes_first(parts):
    cache, source, owner = parts
    use(cache, 0)
    use(cache, 1)
    use(cache, 0)
    use(cache, 2)
    assert owner.dropped == [(110, 120)]
    use(cache, 0, 2)
    assert sorted(source.decoded) == [0, 1, 2]


def test_a_frame_is_decoded_once_for_all_who_ask_at_the_same_time(parts):
    cache, source, _ = parts
    threads = [threading.Thread(target=use, args=(cache, 0, 1)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(source.decoded) == [0, 1]


def test_a_frame_that_failed_can_be_tried_again(parts):
    cache, source, _ = parts
    source.broken = {1}
    for _ in range(2):
        with pytest.raises(FormatError, match="frame 1"):
            use(cache, 0, 1)
    source.broken = set()
    use(cache, 1)
    assert sorted(source.decoded) == [0, 1]


def compressed(folder, compression, count=48):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, (count, 50_000)).astype("i4")  # 200 KB each: about five to a frame
    with WebDatasetWriter(folder, shard_size=24, compression=compression) as writer:
        for value in values:
            writer.write_sample({"x": value})
    return values


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_each_frame_is_decoded_once_in_order_and_in_windows(tmp_path, decoded_frames, io):
    values = compressed(tmp_path / "d", "gz")
    frames = sum(-(-path.stat().st_size // 1) > 0 for path in (tmp_path / "d").glob("*.tar.gz"))
    assert frames == 2
    rng = np.random.default_rng(1)
    windows = np.concatenate([rng.permutation(np.arange(low, low + 12)) for low in range(0, 48, 12)])
    for order in (np.arange(48), windows):
        with ShardCollection.open(tmp_path / "d", io=io, cache_bytes=6 << 20) as data:
            total = sum(len(data.index(shard).frames) for shard in range(2))
            for rows in order.reshape(-1, 4):
                np.testing.assert_array_equal(data.gather(rows)["x"], values[rows])
            assert len(decoded_frames) == total > 6
        decoded_frames.clear()


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_decoded_frames_stay_within_the_budget(tmp_path, decoded_frames, io):
    values = compressed(tmp_path / "d", "gz")
    with ShardCollection.open(tmp_path / "d", io=io, cache_bytes=3 << 20) as data:
        frames = data._space.frames
        for rows in np.random.default_rng(2).permutation(48).reshape(-1, 2):
            np.testing.assert_array_equal(data.gather(rows)["x"], values[rows])
            assert frames.held <= (3 << 20) + (4 << 20)
        total = sum(len(data.index(shard).frames) for shard in range(2))
        assert len(decoded_frames) > total, "some had to be decoded again"
        data.grow_cache(1 << 30)
        decoded_frames.clear()
        for _ in range(3):
            data.gather(np.arange(48))
        assert len(decoded_frames) <= total
        assert pickle.loads(pickle.dumps(data))._space.frames.budget == 1 << 30


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_frames_are_not_dropped_while_another_thread_reads_them(tmp_path, io):
    values = compressed(tmp_path / "d", "gz")
    wrong = []
    with ShardCollection.open(tmp_path / "d", io=io, cache_bytes=1) as data:

        def read(seed):
            batches = np.random.default_rng(seed).integers(0, 48, (25, 6))
            wrong.extend(rows for rows in batches if not np.array_equal(data.gather(rows)["x"], values[rows]))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_damaged_frame_is_named_and_the_others_still_read(tmp_path):
    values = compressed(tmp_path / "d", "gz")
    path = tmp_path / "d" / "shard_000001.tar.gz"
    with ShardCollection.open(tmp_path / "d") as data:
        table = data.index(1).frames
        raw = bytearray(path.read_bytes())
        start = int(table.file_offsets[2])
        raw[start : start + 2000] = os.urandom(2000)
        path.write_bytes(raw)
        for _ in range(2):
            with pytest.raises(FormatError, match=r"shard_000001.tar.gz.*frame 2"):
                data.gather(np.arange(24, 48))
        np.testing.assert_array_equal(data.gather([0, 24])["x"], values[[0, 24]])
