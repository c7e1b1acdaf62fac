"""Mixtures: deterministic, resumable and divided among ranks like a single data set."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.errors import ConfigError, StateError
from neurofm_shards.format.metadata_table import MetadataTable
from neurofm_shards.loading.plans.mixing import Mix, mix, mix_groups
from neurofm_shards.loading.plans.options import PlanOptions
from neurofm_shards.loading.state import LoaderState

MODES = st.sampled_from([False, True, "global"])
DATA = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=4)


def drawn(request):
    """(data set, row) of each sample of a batch, in its order."""
    joined = [(number, row) for number, rows in request.parts for row in rows.tolist()]
    return joined if request.order is None else [joined[i] for i in request.order.tolist()]


def epoch_of(plan, epoch=0, position=0):
    return [pair for request in plan.requests(epoch, position) for pair in drawn(request)]


def collections_of(stored, data):
    return [stored(sizes, f"data {i}") for i, sizes in enumerate(data)]


@given(DATA, MODES, st.integers(1, 9), st.integers(0, 3))
@settings(max_examples=50)
def test_without_weights_an_epoch_has_every_sample_of_every_data_set_once(stored, data, mode, batch_size, epoch):
    plan = mix(collections_of(stored, data)).plan(PlanOptions(shuffle=mode, batch_size=batch_size, buffer_size=7))
    assert sorted(epoch_of(plan, epoch)) == [(i, row) for i, sizes in enumerate(data) for row in range(sum(sizes))]


@given(DATA, st.data(), MODES, st.sampled_from(["first_exhausted", "all_exhausted", 37]), st.integers(0, 3))
@settings(max_examples=50)
def test_each_data_set_runs_through_epochs_of_its_own_across_epochs_of_the_mix(stored, data, draw, mode, stop, epochs):
    weights = draw.draw(st.lists(st.floats(0.1, 10), min_size=len(data), max_size=len(data)))
    plan = mix(collections_of(stored, data), weights, stop=stop).plan(
        PlanOptions(shuffle=mode, batch_size=4, buffer_size=7)
    )
    pairs = [pair for epoch in range(epochs + 1) for pair in epoch_of(plan, epoch)]
    assert len(pairs) == sum(plan.length(epoch) for epoch in range(epochs + 1))
    for number, sizes in enumerate(data):
        rows = [row for n, row in pairs if n == number]
        for first in range(0, len(rows), sum(sizes)):
            inner = rows[first : first + sum(sizes)]
            assert len(set(inner)) == len(inner)


@given(DATA, st.data())
@settings(max_examples=50)
def test_an_epoch_stops_with_the_first_or_the_last_data_set(stored, data, draw):
    weights = draw.draw(st.lists(st.floats(0.1, 10), min_size=len(data), max_size=len(data)))
    sizes = [sum(each) for each in data]
    for stop, reached in [("first_exhausted", any), ("all_exhausted", all)]:
        plan = mix(collections_of(stored, data), weights, stop=stop).plan(PlanOptions(shuffle="global", batch_size=3))
        ends = [plan.counts.tolist(), plan._schedule.counts(plan.length(0) - 1).tolist()]
        assert reached(n >= size for n, size in zip(ends[0], sizes, strict=True))
        assert not reached(n >= size for n, size in zip(ends[1], sizes, strict=True))


@given(DATA, MODES, st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(0, 5)), max_size=4))
@settings(max_examples=50)
def test_any_interruption_and_any_new_topology_continues_the_same_order(stored, data, mode, runs):
    sources = mix(collections_of(stored, data), range(1, len(data) + 1), stop=50)
    position, found = 0, []
    for batch_size, world_size, stop_after in [*runs, (3, 2, 10**6)]:
        of_ranks = [
            sources.plan(PlanOptions(shuffle=mode, batch_size=batch_size, buffer_size=9, rank=r, world_size=world_size))
            for r in range(world_size)
        ]
        steps = list(zip(*(plan.requests(1, position) for plan in of_ranks), strict=True))
        for step in steps[:stop_after]:
            for request in step:
                found += drawn(request)[: len(request) - request.padding]
            position = step[0].position_after
            assert position == len(found)
    assert found == epoch_of(sources.plan(PlanOptions(shuffle=mode, batch_size=50, buffer_size=9)), 1)


def test_weights_decide_how_often_each_is_drawn_from(stored):
    plan = mix([stored([1000]), stored([1000], "b")], [3, 1], stop=800).plan(PlanOptions(batch_size=32))
    numbers = [number for number, _ in epoch_of(plan)]
    assert numbers.count(0) == 600
    assert np.mean([abs(np.mean(numbers[i : i + 32]) - 0.25) < 0.1 for i in range(0, 800, 32)]) > 0.4


def test_temperature_lies_between_sizes_and_evenness(stored):
    sources = [stored([10_000]), stored([100], "b")]
    shares = [np.divide(*mix(sources, temperature=t).weights) for t in (1, 2, float("inf"))]
    assert shares == pytest.approx([100, 10, 1])


def test_data_sets_of_one_size_are_not_shuffled_alike(stored):
    pairs = epoch_of(mix([stored([500]), stored([500], "b")]).plan(PlanOptions(shuffle="global", batch_size=10)))
    one, other = ([row for n, row in pairs if n == number] for number in (0, 1))
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 20


def test_sessions_of_one_data_set_are_mixed_by_temperature(stored):
    collection = stored([60, 40])
    collection.metadata_table = lambda: MetadataTable.of([{"session_id": "a" if i < 90 else "b"} for i in range(100)])
    plan = mix_groups(collection, temperature=float("inf"), stop=40).plan(PlanOptions(batch_size=8))
    rows = [row for _, row in epoch_of(plan)]
    assert sum(row >= 90 for row in rows) == 20
    assert [len(request.parts) for request in plan.requests(0)] == [1] * 5


def test_subsets_are_drawn_from_alone(stored):
    plan = mix([stored([9]), stored([9], "b")], subsets=[np.array([2, 5]), None]).plan(PlanOptions(batch_size=4))
    assert sorted(epoch_of(plan)) == [(0, 2), (0, 5), *((1, row) for row in range(9))]


def test_a_state_of_a_mix_fits_it_alone_and_stays_small(stored):
    sources = [stored([5, 6], f"data {i}") for i in range(50)]
    plan = mix(sources).plan(PlanOptions(batch_size=4))
    state = LoaderState.of(plan, 0, 16)
    assert len(json.dumps(state.to_dict())) < 1024
    assert state.resume(mix(sources).plan(PlanOptions(batch_size=2, world_size=4))) == (0, 16)
    others = [
        mix(sources, np.arange(1, 51)).plan(),
        mix(sources[:49]).plan(),
        mix(sources).plan(PlanOptions(seed=1)),
        mix(sources).plan(PlanOptions(shuffle="global")),
        mix(sources, stop=99).plan(),
    ]
    for other in others:
        with pytest.raises(StateError, match="belongs to another run"):
            state.resume(other)


def test_the_shard_of_a_position_is_that_of_its_sample(stored):
    plan = mix([stored([3, 4])]).plan(PlanOptions(shuffle=False))
    assert [plan.shard_at(0, p) for p in range(8)] == [0, 0, 0, 1, 1, 1, 1, -1]


@pytest.mark.parametrize(
    ("sizes", "arguments", "says"),
    [
        ([], {}, "no data sets"),
        ([[3], [0]], {}, "data set 1"),
        ([[3], [3]], {"weights": [1]}, "1 weight for 2 sources"),
        ([[3], [3]], {"weights": [1, 0]}, "weights must be positive"),
        ([[3], [3]], {"weights": [1, 1], "temperature": 2}, "or a temperature"),
        ([[3]], {"temperature": 0}, "temperature is 0"),
        ([[3]], {"stop": "never"}, "stop='never'"),
        ([[3]], {"stop": 0}, "stop=0"),
        ([[3]], {"subsets": []}, "1 data set and 0 subsets"),
    ],
)
def test_impossible_mixtures_are_refused(stored, sizes, arguments, says):
    with pytest.raises(ConfigError, match=says):
        mix(collections_of(stored, sizes), **arguments)


def test_a_mixture_lists_its_data_sets_in_the_order_of_requests(stored):
    sources = [stored([3]), stored([4], "b")]
    assert isinstance(mix(sources), Mix)
    assert mix(sources).collections == sources
