"""Batches of ranks: they divide the one order, evenly, from any position on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm_shards.errors import ConfigError, StateError
from neurofm_shards.loading.plans.options import PlanOptions
from neurofm_shards.loading.plans.plan import SinglePlan

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=12)
MODES = st.sampled_from([False, True, "global"])


def rows_of(request):
    joined = np.concatenate([rows for _, rows in request.parts])
    return joined if request.order is None else joined[request.order]


def plans(collection, world_size, **settings):
    return [SinglePlan(collection, PlanOptions(rank=r, world_size=world_size, **settings)) for r in range(world_size)]


def steps(of_ranks, epoch=0, position=0):
    """The requests of all ranks, step by step; every rank must have equally many."""
    lists = [list(plan.requests(epoch, position)) for plan in of_ranks]
    assert len({len(each) for each in lists}) == 1
    assert {plan.num_batches(epoch, position) for plan in of_ranks} == {len(lists[0])}
    return list(zip(*lists, strict=True))


def delivered(step):
    """One global batch without its padding, and how much that was."""
    kept = [rows_of(request)[: len(request) - request.padding] for request in step]
    return np.concatenate(kept), sum(request.padding for request in step)


@given(SIZES, MODES, st.integers(1, 9), st.integers(1, 5), st.integers(0, 3), st.integers(1, 50))
def test_the_union_of_all_ranks_is_the_epoch_exactly_once_plus_declared_padding(
    stored, sizes, mode, batch_size, world_size, epoch, buffer_size
):
    of_ranks = plans(stored(sizes), world_size, shuffle=mode, batch_size=batch_size, buffer_size=buffer_size)
    found, padding = [], 0
    for step in steps(of_ranks, epoch):
        rows, padded = delivered(step)
        found.append(rows)
        padding += padded
    assert sorted(np.concatenate([*found, []])) == list(range(sum(sizes)))
    assert padding == of_ranks[0].share(epoch).padded < world_size


@given(SIZES, MODES, st.integers(1, 4), st.integers(0, 3))
def test_global_batches_are_the_same_for_1_2_and_4_ranks(stored, sizes, mode, quarter, epoch):
    collection = stored(sizes)
    found = []
    for world_size in (1, 2, 4):
        of_ranks = plans(collection, world_size, shuffle=mode, batch_size=4 * quarter // world_size)
        found.append([delivered(step)[0].tolist() for step in steps(of_ranks, epoch)])
    assert found[0] == found[1] == found[2]


@given(SIZES, MODES, st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(0, 5)), max_size=6))
def test_any_chain_of_interruptions_and_new_topologies_gives_the_epoch_once(stored, sizes, mode, runs):
    collection = stored(sizes)
    position, found = 0, []
    for batch_size, world_size, stop_after in [*runs, (3, 2, 10**6)]:
        of_ranks = plans(collection, world_size, shuffle=mode, batch_size=batch_size, buffer_size=20)
        for step in steps(of_ranks, 2, position)[:stop_after]:
            found += delivered(step)[0].tolist()
            (position,) = {request.position_after for request in step}
            assert position == len(found)
    whole = SinglePlan(collection, PlanOptions(shuffle=mode, batch_size=max(1, sum(sizes)), buffer_size=20))
    assert found == [row for request in whole.requests(2) for row in rows_of(request).tolist()]


@given(SIZES, st.integers(1, 9), st.integers(1, 5), st.sampled_from(["pad", "drop"]), st.booleans(), st.data())
def test_what_is_padded_and_dropped_is_known_before_the_first_batch(
    stored, sizes, batch_size, world_size, even, drop_last, data
):
    position = data.draw(st.integers(0, sum(sizes)))
    settings = {"batch_size": batch_size, "even": even, "drop_last": drop_last}
    of_ranks = plans(stored(sizes), world_size, shuffle="global", **settings)
    share = of_ranks[0].share(0, position)
    global_batches = steps(of_ranks, 0, position)
    assert share.num_batches == len(global_batches)
    assert sum(padded for _, padded in map(delivered, global_batches)) == share.padded
    assert sum(len(rows) for rows, _ in map(delivered, global_batches)) == sum(sizes) - position - share.dropped
    for step in global_batches:
        assert len({len(request) for request in step}) == 1
    if drop_last:
        assert {len(request) for step in global_batches for request in step} <= {batch_size}


@given(SIZES, st.integers(1, 9), st.integers(1, 5), st.sampled_from(["pad", "drop"]), st.booleans())
def test_what_a_rank_is_said_to_get_is_what_it_gets(stored, sizes, batch_size, world_size, even, drop_last):
    for plan in plans(stored(sizes), world_size, batch_size=batch_size, even=even, drop_last=drop_last):
        requests = list(plan.requests(0))
        assert plan.totals(0) == (sum(map(len, requests)), sum(request.padding for request in requests))


def test_padding_repeats_the_first_samples_of_the_epoch(stored):
    of_ranks = plans(stored([5]), 4, shuffle=False, batch_size=1)
    last = steps(of_ranks)[-1]
    assert [rows_of(request).tolist() for request in last] == [[4], [0], [1], [2]]
    assert [request.padding for request in last] == [0, 1, 1, 1]
    assert [request.position_after for request in last] == [5] * 4


def test_more_ranks_than_samples_still_get_a_batch_each(stored):
    last = steps(plans(stored([2]), 5, shuffle=False, batch_size=3))[-1]
    assert [rows_of(request).tolist() for request in last] == [[0], [1], [0], [1], [0]]


def test_an_uneven_epoch_can_be_an_error_before_the_first_batch(stored):
    plan = SinglePlan(stored([7]), PlanOptions(batch_size=2, world_size=2, even="error"))
    with pytest.raises(ConfigError, match="last global batch has 3 samples, which 2 ranks cannot share"):
        plan.requests(0)
    assert SinglePlan(stored([6]), PlanOptions(batch_size=2, world_size=2, even="error")).num_batches(0) == 2


@given(SIZES.filter(sum), MODES, st.data())
def test_a_subset_goes_through_the_same_order(stored, sizes, mode, data):
    collection = stored(sizes)
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, sum(sizes) - 1)))), dtype=np.int64)
    plan = SinglePlan(collection, PlanOptions(shuffle=mode, batch_size=4, buffer_size=10), subset=chosen)
    found = [row for request in plan.requests(1) for row in rows_of(request).tolist()]
    assert sorted(found) == chosen.tolist()
    assert plan.length(1) == len(chosen)


@pytest.mark.parametrize("rows", [[3, 2], [1, 1], [-1], [9]])
def test_a_subset_that_is_not_ascending_rows_is_refused(stored, rows):
    with pytest.raises(ConfigError, match="ascending, unique rows"):
        SinglePlan(stored([5]), subset=np.array(rows))


@pytest.mark.parametrize("position", [-1, 6])
def test_a_position_outside_of_the_epoch_is_refused(stored, position):
    with pytest.raises(StateError, match="outside of epoch 0, which has 5 samples"):
        SinglePlan(stored([5])).requests(0, position)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 2, "world_size": 2}, "rank 2 of world size 2"),
        ({"even": "maybe"}, "even='maybe'"),
    ],
)
def test_impossible_divisions_are_refused(stored, settings, says):
    with pytest.raises(ConfigError, match=says):
        SinglePlan(stored([5]), PlanOptions(**settings))


def test_the_shard_of_a_position_is_that_of_its_sample(stored):
    plan = SinglePlan(stored([3, 0, 4]), PlanOptions(shuffle=False))
    assert [plan.shard_at(0, p) for p in range(8)] == [0, 0, 0, 2, 2, 2, 2, -1]


def test_a_run_at_the_end_of_its_epoch_is_finished(stored):
    assert SinglePlan(stored([5]), PlanOptions(batch_size=2)).finished(0, 5)
    assert SinglePlan(stored([5]), PlanOptions(batch_size=2, drop_last=True)).finished(0, 4)
    assert not SinglePlan(stored([5]), PlanOptions(batch_size=2)).finished(0, 4)
    assert not SinglePlan(stored([1]), PlanOptions(batch_size=2, drop_last=True)).finished(0, 0)
