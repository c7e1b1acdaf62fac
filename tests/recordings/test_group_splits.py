"""Groups are divided as whole groups allow: compared with every way there is, one by one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.recordings import group_splits
from neurofm_shards.recordings.group_splits import divide, divide_recordings, shares_off
from neurofm_shards.recordings.options import SplitOptions

FRACTIONS = st.sampled_from(
    [
        {"train": 0.8, "val": 0.1, "test": 0.1},
        {"train": 0.5, "test": 0.5},
        {"a": 0.6, "b": 0.4, "never": 0.0},
        {"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25},
        {"all": 1.0},
    ]
)


def cost(sizes, of, fractions):
    """What is to be small: splits without samples, the largest difference, the sum of differences."""
    counted = [name for name, share in fractions.items() if share > 0]
    counts = [sum(sizes[group] for group, name in of.items() if name == each) for each in counted]
    off = [abs(n - fractions[name] * sum(counts)) for n, name in zip(counts, counted, strict=True)]
    return counts.count(0), round(max(off), 4), round(sum(off), 4)


def best(sizes, fractions, fixed):
    free = [group for group in sizes if group not in fixed]
    names = [name for name, share in fractions.items() if share > 0]
    return min(
        cost(sizes, {**fixed, **dict(zip(free, way, strict=True))}, fractions)
        for way in product(names, repeat=len(free))
    )


@given(st.lists(st.integers(1, 500), min_size=1, max_size=7), FRACTIONS, st.integers(0, 5), st.data())
@settings(max_examples=100, deadline=None)
def test_few_groups_are_divided_in_the_best_of_all_ways(numbers, fractions, seed, data):
    sizes = {f"g{i}": n for i, n in enumerate(numbers)}
    fixed = data.draw(st.dictionaries(st.sampled_from(list(sizes)), st.sampled_from([*fractions, "other"]), max_size=2))
    found = divide(sizes, fractions, seed, fixed)
    assert list(found) == list(sizes)
    assert found.items() >= fixed.items()
    assert {name for group, name in found.items() if group not in fixed} <= {n for n, f in fractions.items() if f > 0}
    assert cost(sizes, found, fractions) == best(sizes, fractions, fixed)


@given(st.lists(st.integers(1, 10_000), min_size=30, max_size=120), st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_many_groups_meet_the_fractions(numbers, seed):
    sizes = {f"g{i}": n for i, n in enumerate(numbers)}
    fractions = {"train": 0.7, "val": 0.1, "test": 0.2}
    found = divide(sizes, fractions, seed)
    empty, largest, _ = cost(sizes, found, fractions)
    room = max(numbers) / sum(numbers)  # one group larger than a split can be all that is wrong
    assert not empty
    assert largest / sum(numbers) <= max(0.01, room - 0.1)


def test_the_order_of_groups_does_not_matter_and_the_seed_does():
    sizes = {f"g{i}": 10 for i in range(10)}
    turned = dict(reversed(sizes.items()))
    fractions = {"train": 0.8, "test": 0.2}
    ways = [frozenset(divide(sizes, fractions, seed).items()) for seed in range(20)]
    assert ways == [frozenset(divide(turned, fractions, seed).items()) for seed in range(20)]
    assert len(set(ways)) > 10


def test_recordings_of_one_group_stay_together_and_what_is_there_counts():
    options = SplitOptions(by="subject", fractions={"train": 0.5, "test": 0.5}, named={"test": ["m3"]})
    found = divide_recordings(options, ["m1", "m3", "m1", "m2"], [30, 10, 30, 60], {"m0": 50}, {"m0": "test"})
    of = divide({"m0": 50, "m1": 60, "m3": 10, "m2": 60}, options.fractions, 0, {"m0": "test", "m3": "test"})
    assert found == [of["m1"], "test", of["m1"], of["m2"]]


def test_ten_thousand_groups_are_divided_to_the_sample():
    rng = np.random.default_rng(0)
    sizes = {f"g{i}": int(n) for i, n in enumerate(rng.integers(1, 2000, 10_000))}
    fractions = {"train": 0.8, "val": 0.1, "test": 0.1}
    _, largest, _ = cost(sizes, divide(sizes, fractions, 0), fractions)
    assert largest < 3


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({"train": 84, "test": 16}, ""),
        ({"train": 86, "test": 14}, "train has 86.0% of the samples instead of 80.0%, test has 14.0%"),
        ({"train": 80, "test": 20, "named alone": 900}, ""),
        ({}, ""),
    ],
)
def test_shares_that_are_more_than_five_points_off_are_named(counts, says):
    assert shares_off(counts, {"train": 0.8, "test": 0.2}, "session", balanced=True).startswith(says)
    assert bool(shares_off(counts, {"train": 0.8, "test": 0.2}, "session", balanced=True)) == bool(says)


@pytest.mark.parametrize("heavy", [1, 30])
def test_many_groups_among_which_a_few_outweigh_the_others_cost_bounded_work(monkeypatch, heavy):
    count, calls = 20_000, []
    rng = np.random.default_rng(heavy)
    sizes = {f"g{i}": int(size) for i, size in enumerate(rng.integers(1, 100, count))}
    light = sum(sizes.values())
    for group in rng.choice(count, heavy, replace=False):
        sizes[f"g{group}"] = 2 * light // heavy
    plain = group_splits.group_hash
    monkeypatch.setattr(group_splits, "group_hash", lambda *said: (calls.append(None), plain(*said))[1])
    monkeypatch.setattr(group_splits, "_HASHED", 5 * count)
    fractions = {"train": 0.8, "val": 0.1, "test": 0.1}
    found = divide(sizes, fractions, 0)
    assert len(calls) < (1 + 5 + 1) * count  # to begin, in five turns, and a few groups in each of the others
    held = {name: sum(sizes[group] for group, split in found.items() if split == name) for name in fractions}
    total = sum(sizes.values())
    assert all(abs(held[name] - fractions[name] * total) < 100 for name in fractions)
    assert found == divide(sizes, fractions, 0)
    assert found != divide(sizes, fractions, 1)


def test_a_group_that_is_more_than_its_share_stands_alone_where_most_is_wanted(monkeypatch):
    monkeypatch.setattr(group_splits, "_HASHED", 60_000)
    sizes = {f"g{i}": 1 for i in range(30_000)} | {"giant": 1_000_000}
    found = divide(sizes, {"test": 0.1, "train": 0.6, "val": 0.3}, 0)
    assert [group for group, split in found.items() if split == "train"] == ["giant"]
    counts = [sum(1 for split in found.values() if split == name) for name in ("test", "val")]
    assert min(counts) > 0
