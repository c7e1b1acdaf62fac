"""The order of an epoch: everything once, the same again under the same seed, in the shape that was asked for."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.order.bijection import Permutation, combine, derive_key, permute
from neurofm_shards.loading.order.shuffle import ShuffleOrder, group_length

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=50)
MODES = st.sampled_from([False, True, "global"])
SHARDS = st.sampled_from([None, True, False])


def epoch_of(order, epoch=0):
    return order.positions_to_rows(epoch, np.arange(order.num_samples))


@given(SIZES, MODES, st.integers(1, 200), st.integers(), SHARDS, st.integers(0, 5))
def test_an_epoch_has_every_row_exactly_once(sizes, mode, buffer_size, seed, shuffle_shards, epoch):
    order = ShuffleOrder(sizes, mode, buffer_size, seed, shuffle_shards=shuffle_shards)
    assert sorted(epoch_of(order, epoch).tolist()) == list(range(sum(sizes)))


@given(SIZES, MODES, st.integers(1, 200), st.integers(0, 9), SHARDS, st.data())
def test_a_row_depends_on_its_position_alone(sizes, mode, buffer_size, seed, shuffle_shards, data):
    order = ShuffleOrder(sizes, mode, buffer_size, seed, shuffle_shards=shuffle_shards)
    whole = epoch_of(order, 3)
    asked = np.array(data.draw(st.lists(st.integers(0, max(0, sum(sizes) - 1)), max_size=30 if sum(sizes) else 0)))
    again = ShuffleOrder(sizes, mode, buffer_size, seed, shuffle_shards=shuffle_shards)
    again.positions_to_rows(1, asked)  # an order that has been used for another epoch is no different
    assert np.array_equal(again.positions_to_rows(3, asked.astype(np.int64)), whole[asked.astype(np.int64)])


@pytest.mark.parametrize("mode", [True, "global"])
def test_epochs_differ_from_each_other_and_repeat_under_the_same_seed(mode):
    first = ShuffleOrder([100] * 10, mode, 300, seed=5)
    epochs = [epoch_of(first, e) for e in range(4)]
    for one in range(4):
        assert np.array_equal(epochs[one], epoch_of(ShuffleOrder([100] * 10, mode, 300, seed=5), one))
        for other in range(one):
            assert (epochs[one] == epochs[other]).mean() < 0.05
    assert (epochs[0] == epoch_of(ShuffleOrder([100] * 10, mode, 300, seed=6))).mean() < 0.05


def test_without_shuffle_rows_come_as_stored():
    assert np.array_equal(epoch_of(ShuffleOrder([3, 0, 4], False), 7), np.arange(7))


def test_shards_alone_can_be_shuffled():
    rows = epoch_of(ShuffleOrder([5] * 40, False, seed=1, shuffle_shards=True)).reshape(40, 5)
    assert np.array_equal(rows - rows[:, :1], np.tile(np.arange(5), (40, 1)))
    assert sorted(rows[:, 0] // 5) == list(range(40))
    assert not np.array_equal(rows[:, 0] // 5, np.arange(40))


@given(SIZES, st.integers(2, 60), st.integers(0, 99))
def test_shards_can_stay_in_storage_order_while_samples_are_shuffled(sizes, buffer_size, seed):
    rows = epoch_of(ShuffleOrder(sizes, True, buffer_size, seed, shuffle_shards=False))
    assert (np.abs(rows - np.arange(len(rows))) < buffer_size).all()
    if len(rows) > 40 and buffer_size > 20:
        assert not np.array_equal(rows, np.arange(len(rows)))


@given(SIZES.filter(sum), st.integers(1, 100), st.integers(0, 99), st.integers(0, 3))
@settings(max_examples=60)
def test_windows_are_what_the_documentation_says(sizes, buffer_size, seed, epoch):
    assert epoch_of(ShuffleOrder(sizes, True, buffer_size, seed), epoch).tolist() == documented(
        sizes, buffer_size, seed, epoch
    )


def documented(sizes, buffer_size, seed, epoch):
    """The windows of docs/order.md, by plain loops; only the keyed permutations are the program's own."""
    key = derive_key("order", 1, seed, epoch)
    filled = [i for i, size in enumerate(sizes) if size]
    by_turn = Permutation(len(filled), derive_key("shards", key))
    shards = [filled[int(by_turn(np.array([i]))[0])] for i in range(len(filled))]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    per_group = min(len(shards), max(min(16, buffer_size), -(-buffer_size * len(shards) // sum(sizes))))
    found = []
    for g in range(-(-len(shards) // per_group)):
        group = shards[g * per_group : (g + 1) * per_group]
        count = -(-sum(sizes[s] for s in group) // buffer_size)
        for w in range(count):
            piece = []
            for k, s in enumerate(group):
                phase = k * count // per_group
                begin, end = (sizes[s] * w + phase) // count, (sizes[s] * (w + 1) + phase) // count
                piece += range(starts[s] + begin, starts[s] + end)
            if buffer_size > 1 and piece:
                window_key = combine(int(combine(derive_key("windows", key), np.array([g]))[0]), np.array([w]))
                places = permute(
                    np.arange(len(piece), dtype=np.uint64), len(piece), window_key, 24 if buffer_size <= 64 else 8
                )
                piece = [piece[int(p)] for p in places]
            found += piece
    return found


@given(st.lists(st.integers(1, 60), min_size=1, max_size=120), st.integers(1, 400), st.integers(0, 99))
@settings(max_examples=60)
def test_each_shard_is_touched_in_a_bounded_stretch_of_the_epoch(sizes, buffer_size, seed):
    rows = epoch_of(ShuffleOrder(sizes, True, buffer_size, seed))
    shard = np.searchsorted(np.cumsum(sizes), rows, side="right")
    reach = group_length(sum(sizes), len(sizes), buffer_size) * max(sizes)
    for each in range(len(sizes)):
        places = np.flatnonzero(shard == each)
        assert places[-1] - places[0] < reach


@given(st.lists(st.integers(20, 60), min_size=1, max_size=60), st.integers(1, 400), st.integers(0, 99))
@settings(max_examples=60)
def test_no_sample_waits_longer_in_its_shard_than_two_windows(sizes, buffer_size, seed):
    rows = epoch_of(ShuffleOrder(sizes, True, buffer_size, seed))
    starts = np.concatenate(([0], np.cumsum(sizes)))
    reach = 2 * min(buffer_size, sum(sizes))
    for begin, end in pairwise(starts):
        places = np.empty(end - begin, dtype=np.int64)
        mask = (rows >= begin) & (rows < end)
        places[rows[mask] - begin] = np.flatnonzero(mask)
        earlier = np.maximum.accumulate(places)
        assert (earlier - places < reach).all()


def test_a_window_draws_evenly_from_its_shards():
    rows = epoch_of(ShuffleOrder([1000] * 64, True, 1000, seed=3))
    for window in rows.reshape(64, 1000):
        counts = np.bincount(window // 1000, minlength=64)
        assert set(counts[counts > 0]) == {62, 63}
        assert (counts > 0).sum() == 16


def test_small_shards_are_pooled_until_they_fill_a_window():
    rows = epoch_of(ShuffleOrder([10] * 1000, True, 1000, seed=3))
    assert len(np.unique(rows[:1000] // 10)) == 100


def test_a_buffer_that_holds_everything_shuffles_everything():
    rows = epoch_of(ShuffleOrder([250] * 40, True, 10_000, seed=3))
    assert abs(stats.spearmanr(np.arange(10_000), rows).statistic) < 0.05
    assert len(np.unique(rows[:32] // 250)) > 15


def test_samples_are_shuffled_inside_a_window_without_a_trace():
    rows = epoch_of(ShuffleOrder([1000] * 4, True, 1000, seed=9))
    for window in rows.reshape(4, 1000):
        assert abs(stats.spearmanr(np.arange(1000), window).statistic) < 0.15
        assert (np.abs(np.diff(window)) == 1).mean() < 0.02


def test_zero_samples_have_an_order_too():
    for mode in (False, True, "global"):
        assert epoch_of(ShuffleOrder([0, 0], mode)).tolist() == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"shuffle": "shards"}, "'shards'"),
        ({"buffer_size": 0}, "buffer_size is 0"),
        ({"sizes": [2**62, 1]}, "more than"),
    ],
)
def test_impossible_settings_are_refused(arguments, says):
    with pytest.raises(ConfigError, match=says):
        ShuffleOrder(**{"sizes": [1], **arguments})


def test_huge_data_sets_stay_exact():
    order = ShuffleOrder([2**40] * 1000, True, 1, seed=1, shuffle_shards=False)
    last = np.arange(2**40 * 1000 - 3, 2**40 * 1000)
    assert np.array_equal(order.positions_to_rows(0, last), last)
    order = ShuffleOrder([2**50] * 30, True, 1000, seed=1)
    positions = np.random.default_rng(0).integers(0, 2**50 * 30, 2000)
    assert len(np.unique(order.positions_to_rows(0, positions))) == len(np.unique(positions))


BILLION = """
import resource, time
import numpy as np
from neurofm_shards.loading.order.shuffle import ShuffleOrder
ShuffleOrder([5000] * 10, "global").positions_to_rows(0, np.array([7]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
times = []
for seed in range(5):
    begin = time.process_time()
    order = ShuffleOrder([10**6] * 1000, "global", seed=seed)
    order.positions_to_rows(0, np.arange(10**9 - 32, 10**9))
    times.append(time.process_time() - begin)
print(min(times), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_a_billion_samples_are_planned_and_sought_to_their_end_at_once():
    out = subprocess.run([sys.executable, "-c", BILLION], capture_output=True, text=True, check=True).stdout
    seconds, mebibytes = map(float, out.split())
    assert seconds < 1  # 2 ms of processor time on an idle machine; a list would take minutes and gigabytes
    assert mebibytes < 10


def test_this_version_of_the_order_is_kept():
    """A change here silently moves every run that is resumed: raise ORDER_VERSION with it."""
    sizes = [30_000, 5, 0, 700, 40_000]
    at = np.array([0, 1, 2, 29_999, 70_704])
    found = {
        (mode, shuffle_shards): ShuffleOrder(sizes, mode, 1000, 42, shuffle_shards=shuffle_shards)
        .positions_to_rows(1, at)
        .tolist()
        for mode, shuffle_shards in [(True, None), (True, False), (False, True), ("global", None)]
    }
    assert found == KEPT


KEPT = {
    (True, None): [31020, 315, 31044, 13083, 70176],
    (True, False): [737, 315, 761, 30282, 69900],
    (False, True): [30000, 30001, 30002, 29994, 30704],
    ("global", None): [45500, 47109, 38394, 44389, 50434],
}
