"""Reports: how random an order is, and what each rank gets; computed apart here."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from neurofm_shards.format.metadata_table import MetadataTable
from neurofm_shards.loading.order.shuffle import ShuffleOrder
from neurofm_shards.loading.plans.batching import OneSession
from neurofm_shards.loading.plans.options import PlanOptions
from neurofm_shards.loading.plans.plan import SinglePlan
from neurofm_shards.loading.shuffle_quality import plan_report, shuffle_report


def described(stored, sizes, sessions=None):
    collection = stored(sizes)
    rows = [{"i": i} if sessions is None else {"session_id": sessions[i]} for i in range(sum(sizes))]
    collection.metadata_table = lambda: MetadataTable.of(rows)
    return collection


def longest_run(values):
    best = run = 1
    for one, other in pairwise(values):
        run = run + 1 if one == other else 1
        best = max(best, run)
    return best


@pytest.mark.parametrize("mode", [False, True, "global"])
def test_figures_are_those_of_the_order(stored, mode):
    sizes = [100] * 30
    found = shuffle_report(described(stored, sizes), buffer_size=300, batch_size=20, modes=[mode])
    (got,) = found.modes
    rows = ShuffleOrder(sizes, mode, 300, 42).positions_to_rows(0, np.arange(3000))
    batches = (rows // 100).reshape(-1, 20).tolist()
    assert got.groups_per_batch == pytest.approx(np.mean([len(set(batch)) for batch in batches]))
    assert got.longest_run == pytest.approx(np.mean([longest_run(batch) for batch in batches]))
    assert got.rank_correlation == pytest.approx(stats.spearmanr(np.arange(3000), rows).statistic)
    assert got.adjacent_rate == pytest.approx(np.mean(np.abs(np.diff(rows)) == 1))
    assert got.expected_adjacent == pytest.approx(2 / 3000)
    assert (found.num_samples, found.num_shards, found.grouped_by, found.looked_at) == (3000, 30, "shard", 3000)


def test_a_global_shuffle_meets_expectation_and_storage_order_does_not(stored):
    found = shuffle_report(described(stored, [200] * 50), batch_size=32)
    none, window, everything = found.modes
    assert [mode.mode for mode in found.modes] == ["none", "local", "global"]
    assert everything.groups_per_batch == pytest.approx(everything.expected_groups, rel=0.02)
    assert everything.longest_run == pytest.approx(everything.expected_run, rel=0.1)
    assert abs(everything.rank_correlation) < 0.05
    assert none.rank_correlation == pytest.approx(1)
    assert none.longest_run > 25
    assert none.groups_per_batch < 2 < window.groups_per_batch < window.expected_groups


def test_the_expectation_is_that_of_drawing_without_replacement(stored):
    got = shuffle_report(described(stored, [5, 10, 35]), batch_size=8).modes[0].expected_groups
    assert got == pytest.approx(sum(1 - stats.hypergeom(50, n, 8).pmf(0) for n in (5, 10, 35)))


def test_sessions_are_counted_where_they_are_known(stored):
    sessions = ["a"] * 50 + ["b"] * 50
    found = shuffle_report(described(stored, [10] * 10, sessions), batch_size=10)
    assert (found.grouped_by, found.num_groups) == ("session_id", 2)


def test_a_large_data_set_is_looked_at_in_part(stored):
    collection = stored([10**6] * 1000)
    collection.metadata_table = lambda: MetadataTable.of([])
    collection.starts = collection.starts // 1000
    collection.num_samples = 10**6
    found = shuffle_report(collection, batch_size=32)
    assert found.looked_at == 2**18
    assert found.modes[0].rank_correlation == pytest.approx(1)
    assert abs(found.modes[2].rank_correlation) < 0.02


@pytest.mark.parametrize("sizes", [[0], [1], [3, 2]])
def test_tiny_data_sets_have_a_report_too(stored, sizes):
    assert len(shuffle_report(described(stored, sizes)).modes) == 3


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 5), st.integers(0, 4), st.sampled_from(["pad", "drop"]))
def test_a_plan_report_says_what_the_ranks_get(stored, samples, batch_size, world_size, workers, even):
    plans = [
        SinglePlan(stored([samples]), PlanOptions(batch_size=batch_size, rank=r, world_size=world_size, even=even))
        for r in range(world_size)
    ]
    found = plan_report(plans, batch_size, workers)
    for plan, share in zip(plans, found.ranks, strict=True):
        requests = list(plan.requests(0))
        assert share.batches == len(requests) == sum(share.worker_batches)
        assert share.samples == sum(map(len, requests))
        assert share.padding == sum(request.padding for request in requests)
        assert max(share.worker_batches) - min(share.worker_batches) <= 1
    assert sum(share.samples for share in found.ranks) == samples + found.padded - found.dropped


def test_a_plan_report_of_constrained_batches(stored):
    collection = described(stored, [7, 4], ["a"] * 7 + ["b"] * 4)
    plans = [OneSession().plan(collection, PlanOptions(batch_size=3, rank=r, world_size=2)) for r in range(2)]
    found = plan_report(plans, 3)
    assert sum(share.samples for share in found.ranks) == 11 + found.padded
    assert [share.batches for share in found.ranks] == [3, 3]
