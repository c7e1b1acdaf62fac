"""The account of decoded frames."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from neurofm_shards.errors import FormatError
from neurofm_shards.reading.frames_cache import FrameCache


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
