"""Integer time and counting, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm_shards.errors import SourceError
from neurofm_shards.recordings import InMemoryRecording, WindowOptions, windowed
from neurofm_shards.recordings.memory import events, intervals
from neurofm_shards.recordings.ticks import (
    coarse,
    contains,
    count_windows,
    covered,
    expand,
    intersect,
    normalise,
    partition,
    subtract,
    to_ticks,
)
from neurofm_shards.recordings.timeline import TimeGrid, Timeline


def epochs(start, stop):
    return intervals("epochs", [start], [stop], modality="epochs")


def test_every_edge_in_ten_seconds_begins_its_own_bin():
    edges = np.arange(1000) / 100
    assert to_ticks(edges).tolist() == [k * 10_000_000 for k in range(1000)]
    streams = [events("units", {"a": edges}), epochs(0, 10)]
    for overlap in (0.0, 0.5):
        samples = windowed(InMemoryRecording(streams), WindowOptions(overlap=overlap))
        assert (samples.read(0, samples.plan().num_samples).columns["spikes"] == 1).all()
    aligned = count_windows(to_ticks(edges), np.zeros(1000, int), np.array([0, 7]) * 10**7, 10**7, (50, 1), "uint8")
    assert (aligned == 1).all()


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 5)), max_size=10))
def test_expand_lists_ranges_end_to_end(ranges):
    starts = np.array([a for a, _ in ranges], dtype=np.int64)
    lengths = np.array([n for _, n in ranges], dtype=np.int64)
    assert expand(starts, lengths).tolist() == [i for a, n in ranges for i in range(a, a + n)]


def test_a_time_that_is_no_time_is_an_error():
    with pytest.raises(SourceError, match="not a time in seconds"):
        to_ticks(np.array([1.0, np.nan]))
    with pytest.raises(SourceError, match="10000000000.0 is not a time"):
        to_ticks(1e10)


spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6)


def members(found):
    return {i for a, b in found for i in range(a, b)}


@given(first=spans, second=spans)
def test_sets_of_time_behave_like_sets(first, second):
    a, b = normalise(first), normalise(second)
    assert members(a) == members(first)
    assert members(intersect(a, b)) == members(first) & members(second)
    assert members(subtract(a, b)) == members(first) - members(second)
    assert contains(a, np.arange(60)).tolist() == [i in members(first) for i in range(60)]
    starts, stops = np.arange(0, 50, 7), np.arange(0, 50, 7) + 9
    assert covered(a, starts, stops).tolist() == [
        len(members(first) & set(range(i, j))) for i, j in zip(starts, stops, strict=True)
    ]
    assert (np.diff(a.ravel()) > 0).all(), "sorted, disjoint, and joined where they touch"


@given(spans, st.integers(1, 4))
def test_a_coarse_set_joins_what_is_nearest(found, most):
    whole = normalise(found)
    told = coarse(whole, most)
    assert len(told) == min(len(whole), most)
    assert members(whole) <= members(told)
    gaps = sorted((whole[1:, 0] - whole[:-1, 1]).tolist())
    assert len(members(told)) == len(members(whole)) + sum(gaps[: max(0, len(whole) - most)])


@given(first=spans, second=spans)
def test_a_partition_covers_everything_once_with_the_first_reason_that_holds(first, second):
    pieces = partition((5, 55), {"one": normalise(first), "two": normalise(second)})
    reasons = {i: reason for a, b, reason in pieces for i in range(a, b)}
    assert sorted(reasons) == list(range(5, 55))
    for i, reason in reasons.items():
        assert reason == ("one" if i in members(first) else "two" if i in members(second) else "")


@given(spans)
def test_a_bin_is_valid_when_all_of_it_is(found):
    mask = TimeGrid("", Timeline(0, 60, ""), 5, 4).mask(normalise(found), np.array([3, 20]))
    for w, start in enumerate([3, 20]):
        for k in range(5):
            assert mask[w, k] == (set(range(start + 4 * k, start + 4 * k + 4)) <= members(found))
