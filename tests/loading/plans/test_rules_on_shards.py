"""Mixtures and rules for batches over written shards: any workers, any ranks, any interruption, the same samples.

The plans alone are tested over many more sizes elsewhere; here each batch is read from disk, and its contents are
compared with what was written.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurofm_shards import WebDatasetWriter, create_webdataset_dataloader
from neurofm_shards.loading.plans.batching import Balanced, OneSession, TokenBudget
from neurofm_shards.loading.plans.mixing import mix, mix_groups
from neurofm_shards.reading.collection import ShardCollection

GLOBAL_BATCH = 8
FIRST, SECOND = 97, 41


def trace(row):
    """What sample ``row`` holds: a length and values that no other sample has."""
    return np.arange(1 + row * 7 % 11, dtype=np.float32) + 100 * row


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two data sets; rows count through both, and sessions differ in size."""
    both = tmp_path_factory.mktemp("rules")
    for name, rows in (("first", range(FIRST)), ("second", range(FIRST, FIRST + SECOND))):
        with WebDatasetWriter(both / name, shard_size=17) as writer:
            for row in rows:
                metadata = {"row": row, "session_id": f"s{int(row**0.5) % 4}", "condition": "lr"[row % 3 == 0]}
                writer.write_sample({"trace": trace(row)}, metadata=metadata)
    return both


RULES = {
    "one session": lambda: {"batching": OneSession(block=2)},
    "balanced": lambda: {"batching": Balanced("condition")},
    "balanced, all": lambda: {"batching": Balanced(("session_id", "condition"), stop="all_exhausted")},
    "budget": lambda: {"batching": TokenBudget(20, column="trace", bucket=30)},
    "subset": lambda: {"where": 'session_id != "s1" and row > 4', "shuffle": "global"},
}
MIXTURES = {
    "mix": lambda first, second: mix([first, second]),
    "mix, weights": lambda first, second: mix([first, second], [1, 2], stop=90),
    "mix, again": lambda first, second: mix([first, second], [3, 1], stop="all_exhausted"),
    "mix of sessions": lambda first, second: mix_groups(first, temperature=3),  # noqa: ARG005
}
NAMES = [*RULES, *MIXTURES]
#: Rules whose batches hold as many samples as they can: ranks divide their sequence, not their batches.
BY_BUDGET = {"budget"}


def make(folders, name, world_size=1, rank=0, num_workers=0, kind="thread", **options):
    batch_size = GLOBAL_BATCH if name in BY_BUDGET else GLOBAL_BATCH // world_size
    data = folders / "first"
    if name in MIXTURES:
        data = MIXTURES[name](ShardCollection.open(data), ShardCollection.open(folders / "second"))
    else:
        options |= RULES[name]()
    options = {"buffer_size": 20, "rank": rank, "world_size": world_size, "worker_type": kind, **options}
    return create_webdataset_dataloader(data, batch_size, num_workers, **options)


def rows_of(batch):
    rows = [each["row"] for each in batch["metadata"]]
    for row, values in zip(rows, batch["trace"], strict=True):
        assert torch.equal(values, torch.from_numpy(trace(row)))
    return rows


def ranks(folders, name, world_size, num_workers=0, state=None, epoch=None, **options):
    """The loaders of all ranks."""
    loaders = [make(folders, name, world_size, rank, num_workers, **options) for rank in range(world_size)]
    for loader in loaders:
        if state is not None:
            loader.load_state_dict(json.loads(json.dumps(state)))
        if epoch is not None:
            loader.set_epoch(epoch)
    return loaders


def steps(loaders, count=None):
    """Take ``count`` global batches, or all that are left; every rank has equally many."""
    iterators = [iter(loader) for loader in loaders]
    found = []
    while count is None or len(found) < count:
        shares = [next(iterator, None) for iterator in iterators]
        if shares[0] is None:
            assert shares == [None] * len(shares)
            break
        found.append([rows_of(share) for share in shares])
    for iterator in iterators:
        iterator.close()
    return found


def flat(found):
    return [row for shares in found for rows in shares for row in rows]


@pytest.fixture(scope="module")
def wholes(folders):
    """Epochs without workers, ranks and interruptions, by rule and number."""
    found = {}

    def whole(name, epoch):
        if (name, epoch) not in found:
            found[name, epoch] = steps(ranks(folders, name, 1, epoch=epoch))
        return found[name, epoch]

    return whole


@pytest.mark.parametrize("name", NAMES)
def test_workers_of_any_number_and_kind_make_the_same_batches(folders, wholes, name):
    for num_workers, kind in [(1, "thread"), (2, "thread"), (7, "thread"), (2, "process"), (7, "process")]:
        (loader,) = ranks(folders, name, 1, num_workers, kind=kind)
        assert [steps([loader]), steps([loader])] == [wholes(name, 0), wholes(name, 1)]
    assert wholes(name, 0) != wholes(name, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_divide_the_sequence_of_one_rank(folders, wholes, name, world_size):
    expected = flat(wholes(name, 1))
    found = steps(ranks(folders, name, world_size, epoch=1))
    assert flat(found)[: len(expected)] == expected
    if name not in BY_BUDGET:
        assert len(found) == len(wholes(name, 1))


@pytest.mark.parametrize("name", ["one session", "subset", "mix", "mix of sessions"])
def test_an_epoch_without_repetitions_has_every_sample_it_should_once(wholes, name):
    found = flat(wholes(name, 0))
    assert len(set(found)) == len(found)
    if name == "subset":
        assert sorted(found) == [row for row in range(5, FIRST) if int(row**0.5) % 4 != 1]
    if name in {"one session", "mix"}:
        assert sorted(found) == list(range(FIRST if name == "one session" else FIRST + SECOND))


RUNS = st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([0, 2]), st.integers(0, 4)), max_size=4)


@pytest.mark.parametrize("name", NAMES)
@given(runs=RUNS, epoch=st.integers(0, 2))
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_interruption_continues_with_any_workers_and_ranks(folders, wholes, name, runs, epoch):
    """A run handed on from topology to topology delivers the epoch's sequence, nothing twice and nothing missed."""
    found, state = [], None
    for world_size, num_workers, count in [*runs, (1, 0, None)]:
        loaders = ranks(folders, name, world_size, num_workers, state, epoch if state is None else None)
        if loaders[0].epoch > epoch:
            break
        found += flat(steps(loaders, count))
        states = [loader.state_dict() for loader in loaders]
        assert states == states[:1] * world_size
        state = states[0]
        assert len(json.dumps(state)) < 1024
    expected = flat(wholes(name, epoch))
    assert found[: len(expected)] == expected
    assert len(found) - len(expected) < 4 * GLOBAL_BATCH  # what ranks repeat at the very end
