"""Constrained batches: the constraint holds, and everything else is as without it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards import WebDatasetWriter
from neurofm_shards.errors import ConfigError, StateError
from neurofm_shards.format.metadata_table import MetadataTable
from neurofm_shards.loading.plans.batching import Balanced, OneSession, TokenBudget, column_lengths
from neurofm_shards.loading.plans.options import PlanOptions
from neurofm_shards.loading.state import LoaderState
from neurofm_shards.reading.collection import ShardCollection

MODES = st.sampled_from([False, True, "global"])
SESSIONS = st.lists(st.integers(1, 25), min_size=1, max_size=6)
LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=80)


def with_sessions(stored, sizes):
    collection = stored(sizes)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    collection.owners = owners
    collection.metadata_table = lambda: MetadataTable.of([{"session_id": f"s{i}", "day": int(i) % 2} for i in owners])
    return collection


def rows_of(request):
    joined = np.concatenate([rows for _, rows in request.parts])
    return joined if request.order is None else joined[request.order]


def steps(rule, collection, mode, world_size, epoch=0, position=0, **arguments):
    plans = [
        rule.plan(collection, PlanOptions(shuffle=mode, rank=r, world_size=world_size, **arguments))
        for r in range(world_size)
    ]
    lists = [list(plan.requests(epoch, position)) for plan in plans]
    assert {len(each) for each in lists} == {plans[0].num_batches(epoch, position)}
    padded = sum(request.padding for each in lists for request in each)
    share = plans[0].share(epoch, position)
    assert padded == share.padded
    found = list(zip(*lists, strict=True))
    kept = sum(map(len, map(unpadded, found)))
    assert kept == plans[0].length(epoch) - position - share.dropped
    return found


def unpadded(step):
    return np.concatenate([rows_of(request)[: len(request) - request.padding] for request in step])


@given(SESSIONS, MODES, st.integers(1, 9), st.integers(1, 4), st.integers(0, 2))
@settings(max_examples=50)
def test_a_batch_of_one_session_holds_one_session_and_the_epoch_is_whole(stored, sizes, mode, batch, world, epoch):
    collection = with_sessions(stored, sizes)
    found = steps(OneSession(), collection, mode, world, epoch, batch_size=batch)
    for step in found:
        for request in step:
            assert len(set(collection.owners[rows_of(request)])) == 1
            assert len(request) <= batch
    assert sorted(np.concatenate(list(map(unpadded, found))).tolist()) == list(range(sum(sizes)))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_an_epoch_of_more_blocks_than_are_planned_at_once_is_whole(stored, world):
    collection = with_sessions(stored, [400, 201])
    found = steps(OneSession(), collection, True, world, batch_size=1)
    assert sorted(np.concatenate(list(map(unpadded, found))).tolist()) == list(range(601))
    halfway = found[100][0].position_after
    again = steps(OneSession(), collection, True, world, position=halfway, batch_size=1)
    assert [unpadded(step).tolist() for step in again] == [unpadded(step).tolist() for step in found[101:]]


@given(SESSIONS, MODES, st.integers(1, 4), st.sampled_from(["one session", "budget"]))
@settings(max_examples=50)
def test_global_batches_are_the_same_for_1_2_and_4_ranks(stored, sizes, mode, block, kind):
    collection = with_sessions(stored, sizes)
    found = []
    for world in (1, 2, 4):
        if kind == "one session":
            of = steps(OneSession(block=block), collection, mode, world, batch_size=4 * block // world)
            found.append([unpadded(step).tolist() for step in of])
        else:
            of = steps(TokenBudget(50, lengths=collection.owners), collection, mode, world, batch_size=block)
            found.append([row for step in of for row in unpadded(step).tolist()])
    assert found[0] == found[1] == found[2]


@given(SESSIONS, MODES, st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), max_size=4), st.data())
@settings(max_examples=50)
def test_any_interruption_and_any_new_number_of_ranks_gives_the_epoch_once(stored, sizes, mode, runs, data):
    collection = with_sessions(stored, sizes)
    lengths = np.array(data.draw(st.lists(st.integers(0, 9), min_size=sum(sizes), max_size=sum(sizes))))
    for rule in (OneSession(), TokenBudget(20, lengths=lengths)):
        position, found = 0, []
        for world, stop_after in [*runs, (2, 10**6)]:
            for step in steps(rule, collection, mode, world, 1, position, batch_size=4)[:stop_after]:
                found += unpadded(step).tolist()
                (position,) = {request.position_after for request in step}
                assert position == len(found)
        whole = rule.plan(collection, PlanOptions(shuffle=mode, batch_size=4))
        assert found == [row for request in whole.requests(1) for row in rows_of(request).tolist()]


@given(LENGTHS, MODES, st.integers(1, 12), st.integers(40, 90), st.booleans(), st.integers(1, 30))
@settings(max_examples=50)
def test_a_budget_is_kept_and_the_epoch_is_whole(stored, lengths, mode, most, tokens, padded, bucket):
    sizes = np.array(lengths)
    rule = TokenBudget(tokens, lengths=sizes, padded=padded, bucket=bucket)
    found = steps(rule, stored([len(lengths)]), mode, 2, batch_size=most)
    for step in found:
        for request in step:
            of = sizes[rows_of(request)]
            assert 0 < len(of) <= most
            assert (of.max() * len(of) if padded else of.sum()) <= tokens
    assert sorted(np.concatenate(list(map(unpadded, found))).tolist()) == list(range(len(lengths)))


def test_similar_lengths_share_a_batch(stored):
    lengths = np.random.default_rng(0).integers(1, 1000, 5000)
    plan = TokenBudget(8000, lengths=lengths).plan(stored([5000]), PlanOptions(shuffle="global", batch_size=64))
    of = [lengths[rows_of(request)] for request in plan.requests(0)]
    assert sum(each.sum() for each in of) / sum(each.max() * len(each) for each in of) > 0.9
    means = [each.mean() for each in of]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2


@given(SESSIONS.filter(lambda sizes: len(sizes) > 1), st.integers(1, 3), st.sampled_from([1, 2]))
@settings(max_examples=50)
def test_a_balanced_batch_has_its_share_of_each_group(stored, sizes, times, world):
    collection = with_sessions(stored, sizes)
    total = times * len(sizes) * 2
    found = steps(Balanced("session_id"), collection, True, world, batch_size=total // world)
    seen = np.concatenate([unpadded(step) for step in found])
    assert len(set(seen.tolist())) == len(seen)
    for step in found[:-1]:
        counts = np.bincount(collection.owners[unpadded(step)], minlength=len(sizes))
        assert (np.abs(counts - total / len(sizes)) <= 1).all()


def test_balancing_can_repeat_the_smaller_groups_instead(stored):
    collection = with_sessions(stored, [40, 10])
    found = steps(Balanced("session_id", stop="all_exhausted"), collection, True, 1, batch_size=10)
    rows = np.concatenate([unpadded(step) for step in found])
    assert set(rows.tolist()) == set(range(50))
    assert (collection.owners[rows] == 1).sum() >= 39


def test_groups_may_be_made_of_several_columns(stored):
    collection = with_sessions(stored, [4, 4, 4])
    for request in OneSession(("day",)).plan(collection, PlanOptions(batch_size=3)).requests(0):
        assert len(set(collection.owners[rows_of(request)] % 2)) == 1
    assert Balanced(("session_id", "day")).plan(collection, PlanOptions(batch_size=3)).length(0) == 10


@pytest.mark.parametrize(
    "rule", [OneSession(block=1), Balanced("session_id"), TokenBudget(1, lengths=np.ones(12, int))]
)
def test_the_shard_of_a_position_is_that_of_its_sample(stored, rule):
    collection = with_sessions(stored, [3, 1, 4, 4])
    plan = rule.plan(collection, PlanOptions(batch_size=4))
    rows = [row for request in plan.requests(0) for row in rows_of(request).tolist()]
    assert [plan.shard_at(0, p) for p in range(len(rows))] == collection.owners[rows].tolist()
    assert plan.shard_at(0, len(rows)) == -1


@pytest.mark.parametrize("rule", [OneSession(), Balanced("session_id"), TokenBudget(30, lengths=np.arange(30))])
def test_states_fit_their_rule_alone(stored, rule):
    collection = with_sessions(stored, [14, 16])
    plan = rule.plan(collection, PlanOptions(batch_size=4))
    position = list(plan.requests(0))[2].position_after
    state = LoaderState.from_dict(json.loads(json.dumps(LoaderState.of(plan, 0, position).to_dict())))
    assert state.resume(rule.plan(collection, PlanOptions(batch_size=4))) == (0, position)
    for other in (
        rule.plan(collection, PlanOptions(batch_size=4, seed=1)),
        rule.plan(collection, PlanOptions(batch_size=3)),
    ):
        with pytest.raises(StateError):
            state.resume(other)


def test_epochs_differ_and_repeat(stored):
    collection = with_sessions(stored, [50, 70])
    for rule in (OneSession(), TokenBudget(300, lengths=np.arange(120))):
        plan = rule.plan(collection, PlanOptions(batch_size=8))
        epochs = [[row for r in plan.requests(e) for row in rows_of(r).tolist()] for e in (0, 1, 0)]
        assert epochs[0] == epochs[2] != epochs[1]


def test_a_position_inside_a_block_is_refused(stored):
    plan = OneSession().plan(with_sessions(stored, [20]), PlanOptions(batch_size=4))
    with pytest.raises(StateError, match="position 3 of epoch 0 is not between two batches"):
        plan.requests(0, 3)


def test_lengths_come_from_the_indexes(tmp_path):
    lengths = [3, 5, 7, 7, 7]  # of two kinds in the first shard, of one in the others
    with WebDatasetWriter(tmp_path, shard_size=2) as writer:
        for length in lengths:
            writer.write_sample({"spikes": np.zeros((length, 2))})
    with ShardCollection.open(tmp_path) as collection:
        assert column_lengths(collection, "spikes").tolist() == lengths
        with pytest.raises(ConfigError, match="no column 'spike' .did you mean 'spikes'"):
            column_lengths(collection, "spike")


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (OneSession(block=3), "block=3 does not divide batch_size=4"),
        (OneSession("subject"), "cannot group by 'subject': there is no metadata column"),
        (Balanced("session_id", block=1), "cannot hold 2 groups"),
        (TokenBudget(9), "either column= or lengths="),
        (TokenBudget(9, lengths=np.arange(3)), "whole numbers were expected"),
        (TokenBudget(9, lengths=np.arange(30)), "longest sample has length 29"),
        (TokenBudget(0, lengths=np.zeros(30, int)), "tokens=0"),
    ],
)
def test_impossible_rules_are_refused(stored, rule, says):
    with pytest.raises(ConfigError, match=says):
        rule.plan(with_sessions(stored, [14, 16]), PlanOptions(batch_size=4))
