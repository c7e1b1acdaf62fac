"""Splits of a finished data set: groups stay together, nothing shares time, nothing moves when data is added."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards import ShardDataset, create_shards_from_arrays
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.splits import Splits, split
from neurofm_shards.maintenance.repair import repair

EMPTYING = 0  # a seed that leaves a split of the ten sessions below empty


def text(values):
    return np.array(list(values), dtype=object)


def sessions(count, each=5, first=0):
    ids = np.repeat(np.arange(first, first + count), each)
    return {"session_id": text(f"ses.{i}" for i in ids), "subject_id": text(f"M{i // 3}" for i in ids)}


def windows_of(data):
    """Windows of 0.5 to 2 s, at any distance, in two sessions, in any storage order."""
    starts = data.draw(st.lists(st.integers(0, 400), min_size=40, max_size=120))
    lengths = data.draw(st.lists(st.integers(5, 20), min_size=len(starts), max_size=len(starts)))
    owner = data.draw(st.lists(st.sampled_from(["a", "b"]), min_size=len(starts), max_size=len(starts)))
    begin = np.array(starts) * 0.1 + 1.7e9
    return {
        "session_id": text(owner),
        "window_start_s": begin,
        "window_stop_s": begin + np.array(lengths) * 0.1,
        "trial": np.array(starts) // 9 - 1,
    }


def shares_time(table, found, gap=0.0):
    """Compare every window of a split with every window of every other, one by one."""
    for one, other in combinations(found.rows, 2):
        for i in found.rows[one]:
            for j in found.rows[other]:
                if table["session_id"][i] == table["session_id"][j]:
                    latest = max(table["window_start_s"][i], table["window_start_s"][j])
                    if latest < min(table["window_stop_s"][i], table["window_stop_s"][j]) + gap - 1e-6:
                        return True
    return False


@given(st.data(), st.sampled_from(["time", "trial"]), st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_no_two_splits_share_a_moment(data, by, purge):
    table = windows_of(data)
    try:
        found = split(table, by, {"train": 0.6, "val": 0.2, "test": 0.2}, purge=purge)
    except ConfigError as error:
        assert "empty" in str(error)  # noqa: PT017  (a split that cannot be filled is said to be so)
        return
    assert not shares_time(table, found, purge * 0.5)
    held = np.concatenate(list(found.rows.values()))
    assert len(np.unique(held)) == len(held) == len(table["trial"]) - sum(found.dropped.values())


def test_the_leak_test_notices_a_leak():
    table = {"session_id": text("aa"), "window_start_s": np.array([0.0, 0.5]), "window_stop_s": np.array([1.0, 1.5])}
    assert shares_time(table, Splits({"train": np.array([0]), "test": np.array([1])}))


def test_time_is_cut_in_the_order_and_shares_asked_for():
    start = np.arange(1000.0)
    table = {"session_id": text("a" * 1000), "window_start_s": start, "window_stop_s": start + 1}
    found = split(table, "time", {"train": 0.7, "val": 0.1, "test": 0.2})
    assert found.rows["train"].tolist() == list(range(700))
    assert found.rows["val"].tolist() == list(range(701, 800))
    assert found.rows["test"].tolist() == list(range(801, 1000))
    assert found.dropped == {"too near to another split": 2}


def test_overlapping_windows_at_a_cut_are_left_out():
    start = np.arange(0, 100, 0.5)
    table = {"session_id": text("a" * 200), "window_start_s": start, "window_stop_s": start + 1}
    found = split(table, "time", {"train": 0.5, "test": 0.5}, purge=0)
    assert not shares_time(table, found)
    assert found.dropped == {"too near to another split": 1}


@pytest.mark.parametrize("by", ["session", "subject"])
def test_by_hash_groups_stay_together_and_more_data_moves_none(by):
    few, many = sessions(40), sessions(60)
    halves = {"train": 0.5, "test": 0.5}
    before, after = (split(table, by, halves, seed=3, balanced=False) for table in (few, many))
    for name, rows in before.rows.items():
        assert set(rows) == {row for row in after.rows[name] if row < 200}
    of = {name: set(few[f"{by}_id"][rows]) for name, rows in before.rows.items()}
    assert not any(of[one] & of[other] for one, other in combinations(of, 2))
    assert sum(before.groups.values()) == len(set(few[f"{by}_id"]))


@pytest.mark.parametrize("balanced", [True, False])
def test_fractions_are_met_by_many_groups_and_the_seed_matters(balanced):
    table = sessions(2000, each=1)
    one, other = (split(table, seed=seed, balanced=balanced) for seed in (1, 2))
    assert abs(one.counts()["train"] - 1600) < (1 if balanced else 80)
    assert not np.array_equal(one.rows["test"], other.rows["test"])


def test_an_empty_split_is_an_error_and_balancing_fills_it():
    table = sessions(10)
    with pytest.raises(ConfigError, match="leaves .* empty .*balanced=True") as caught:
        split(table, seed=EMPTYING, balanced=False)
    assert not set("{}") & set(str(caught.value))
    for seed in range(50):
        assert split(table, seed=seed).counts() == {"train": 40, "val": 5, "test": 5}


def test_shares_are_of_samples_not_of_sessions():
    ids = np.repeat(np.arange(8), [700, 100, 40, 40, 40, 40, 20, 20])
    found = split({"session_id": text(f"s{i}" for i in ids)})
    assert found.shares() == {"train": 0.8, "val": 0.1, "test": 0.1}
    assert found.fractions == {"train": 0.8, "val": 0.1, "test": 0.1}
    assert not found.notes


@pytest.mark.parametrize("balanced", [True, False])
def test_shares_that_whole_groups_do_not_allow_are_warned_of(caplog, balanced):
    ids = np.repeat(np.arange(12), [900, *[10] * 11])
    found = split({"session_id": text(f"s{i}" for i in ids)}, fractions={"a": 0.5, "b": 0.5}, balanced=balanced)
    assert {round(share, 3) for share in found.shares().values()} == {0.891, 0.109} or not balanced
    note = f"a has {found.shares()['a']:.1%} of the samples instead of 50.0%"
    assert note in found.notes[0]
    assert ("balanced=True" in found.notes[0]) == (not balanced)
    assert found.notes[0] in caplog.text


@pytest.mark.parametrize("balanced", [True, False])
def test_named_groups_are_where_they_are_named(balanced):
    table = sessions(12)
    found = split(
        table, "subject", {"train": 0.75, "test": 0.25}, named={"test": "M0", "held out": ["M3"]}, balanced=balanced
    )
    subjects = {name: set(table["subject_id"][rows]) for name, rows in found.rows.items()}
    assert "M0" in subjects["test"]
    assert subjects["held out"] == {"M3"}
    assert found.groups["held out"] == 1
    if balanced:  # of the three that are left, as M0 is all of its split
        assert subjects == {"train": {"M1", "M2"}, "test": {"M0"}, "held out": {"M3"}}


@pytest.mark.parametrize(
    ("named", "by", "says"),
    [
        ({"test": ["M7"]}, "subject", "no group 'M7'|unknown group 'M7'"),
        ({"test": ["M0"], "train": ["M0"]}, "subject", "'M0' to a split more than once"),
        ({"test": ["M0"]}, "time", "named= gives splits to sessions or subjects"),
    ],
)
def test_names_that_cannot_be_honoured_are_explained(named, by, says):
    with pytest.raises(ConfigError, match=says):
        split(sessions(12), by, named=named)
    with pytest.raises(ConfigError, match="column=None"):
        split({**sessions(12), "split": text(["train"] * 60)}, named={"test": ["M0"]})


def test_conversion_and_loading_assign_groups_alike():
    from neurofm_shards.recordings.group_splits import share
    from neurofm_shards.recordings.options import SplitOptions

    table = sessions(200, each=1)
    found = split(table, seed=7, balanced=False)
    options = SplitOptions(by="session", fractions={"train": 0.8, "val": 0.1, "test": 0.1}, seed=7)
    for name, rows in found.rows.items():
        assert {share(options, each) for each in table["session_id"][rows]} == {name}


def test_a_trial_stays_whole_and_windows_in_no_trial_are_left_out():
    trial = np.repeat(np.arange(-1, 99), 3)
    found = split({"session_id": text("a" * 300), "trial": trial}, "trial")
    assert found.dropped == {"in no trial": 3}
    assert "not checked" in found.notes[0]
    of = [set(trial[rows]) for rows in found.rows.values()]
    assert sum(map(len, of)) == len(set.union(*of)) == 99


def test_splits_that_the_metadata_names_are_honoured():
    table = {**sessions(2), "split": text(["train"] * 4 + ["test"] * 4 + ["", None])}
    found = split(table, "session")
    assert found.counts() == {"train": 4, "test": 4}
    assert found.dropped == {"in no split": 2}
    with pytest.raises(ConfigError, match="empty"):
        split(table, "session", {"a": 0.001, "b": 0.999}, column=None, balanced=False)


@pytest.mark.parametrize(
    ("table", "arguments", "says"),
    [
        ({"trial": np.arange(3)}, {}, "no metadata column 'session_id'; there are: trial"),
        ({"session_id": text(["a", None, ""])}, {}, "2 samples without session_id"),
        ({"session_id": text("abc")}, {"fractions": {"a": 0.5}}, "add up to 1"),
        ({"session_id": text("abc")}, {"by": "hour"}, "by='hour'"),
        (
            {"session_id": text("ab"), "window_start_s": np.array([0, np.nan]), "window_stop_s": np.array([1.0, 2])},
            {"by": "time"},
            "no window_start_s",
        ),
    ],
)
def test_what_cannot_be_split_is_explained(table, arguments, says):
    with pytest.raises(ConfigError, match=says):
        split(table, **arguments)


def test_what_is_no_data_set_is_refused_with_what_to_give_instead(tmp_path):
    create_shards_from_arrays(tmp_path / "d", {"x": np.zeros((4, 2))})
    with pytest.raises(ConfigError, match=r"not ShardDataset; .*give its \.collection"):
        split(ShardDataset(tmp_path / "d"))


def test_subjects_that_are_called_like_sessions_are_in_doubt_without_a_manifest(tmp_path, caplog):
    ids = zip("abcd", "ammn", strict=True)
    metadata = [{"session_id": session, "subject_id": subject, "source_file": "x.nwb"} for session, subject in ids]
    create_shards_from_arrays(tmp_path / "data", {"x": np.zeros((4, 1))}, metadata=metadata)
    (tmp_path / "data" / "dataset_metadata.json").unlink()
    repair(tmp_path / "data")
    columns = {name: np.array([each[name] for each in metadata]) for name in metadata[0]}
    for data in (tmp_path / "data", columns):
        caplog.clear()
        split(data, by="subject", fractions={"train": 0.5, "test": 0.5})
        assert "the subject of 1 of 4 sessions is called like the session or its file" in caplog.text
        split(data, by="session", fractions={"train": 0.5, "test": 0.5})
        assert len(caplog.messages) == 1
