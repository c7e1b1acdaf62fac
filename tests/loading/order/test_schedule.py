"""Schedules: whose turn it is, in closed form; compared with a sorted list of due times."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.order.shuffle import Schedule

WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=7) | st.lists(st.just(1.0), min_size=1, max_size=7)


def listed(schedule, count):
    """The ideal schedule by brute force."""
    due = [((i + 0.5) / w, c, i) for c, w in enumerate(schedule.shares) for i in range(count)]
    return [(c, i) for _, c, i in sorted(due)[:count]]


@given(WEIGHTS, st.integers(0, 150))
@settings(max_examples=60)
def test_counts_and_times_are_those_of_the_list(weights, position):
    schedule = Schedule(weights, 10)
    reference = listed(schedule, 151)
    expected = np.bincount([c for c, _ in reference[:position]], minlength=len(weights))
    assert schedule.counts(position).tolist() == expected.tolist()
    assert schedule.time_of(*reference[position]) == position


@given(WEIGHTS, st.integers(1, 40), st.integers(1, 150), st.integers(0, 9), st.data())
@settings(max_examples=60)
def test_blocks_hold_what_the_list_holds_and_any_stretch_of_them_is_the_same(weights, block, length, key, data):
    schedule = Schedule(weights, block)
    sources, elements = schedule.blocks(0, length, length, key)
    reference = listed(schedule, length)
    for first in range(0, length, block):
        stretch = slice(first, min(first + block, length))
        got = sorted(zip(sources[stretch].tolist(), elements[stretch].tolist(), strict=True))
        assert got == sorted(reference[stretch])
    for source in range(len(weights)):
        assert (np.diff(elements[sources == source]) == 1).all()
    first = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(first + 1, length))
    again = schedule.blocks(first, stop, length, key)
    assert again[0].tolist() == sources[first:stop].tolist()
    assert again[1].tolist() == elements[first:stop].tolist()


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6), st.integers(0, 10**12))
def test_shares_are_kept_to_within_a_few_samples_at_any_distance(weights, position):
    counts = Schedule(weights, 10).counts(position)
    assert counts.sum() == position
    for count, weight in zip(counts.tolist(), weights, strict=True):
        assert abs(count - Fraction(position * weight, sum(weights))) <= len(weights)


def test_the_order_inside_blocks_depends_on_the_key():
    schedule = Schedule([1, 1], 1000)
    first, second = (schedule.blocks(0, 1000, 1000, key)[0] for key in (1, 2))
    assert 400 < (first == second).sum() < 600
    assert 400 < (first[1:] == first[:-1]).sum() < 600


@pytest.mark.parametrize("weights", [[], [0, 1], [-1, 2], [np.nan], [np.inf, 1], [[1, 2]]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ConfigError, match="weights must be positive"):
        Schedule(weights, 10)
