"""``neurofm-shards split``: divides a finished data set, says what is where, and saves it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from neurofm_shards import ShardDataset, create_shards_from_arrays
from neurofm_shards.cli.main import run

SESSIONS = {"a1": 40, "a2": 10, "b1": 30, "c1": 10, "d1": 10}


def write(folder, sessions, metadata=None):
    names = [name for name, count in sessions.items() for _ in range(count)]
    said = [{"session_id": name, "subject_id": name[0], **(metadata or {})} for name in names]
    create_shards_from_arrays(folder, {"x": np.arange(len(names))}, 8, said)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "data", SESSIONS)
    return str(tmp_path / "data")


def splits_of(folder):
    """Return the sessions of each split, as a loader selects them."""
    found = {}
    for name in ("train", "val", "test", "held"):
        try:
            found[name] = {s["metadata"]["session_id"] for s in ShardDataset(folder, split=name)}
        except ValueError:
            continue
    return found


def answer(capsys, *words):
    assert run(["split", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_divides_by_subject_says_the_shares_and_saves(folder, capsys):
    said = answer(capsys, folder, "--by", "subject", "--fractions", "train=0.5", "test=0.5")
    assert said["splits"]["train"] == {"samples": 50, "share": 0.5, "asked": 0.5, "sessions": 2, "subjects": 1} or (
        said["splits"]["train"]["sessions"] == 3
    )
    found = splits_of(folder)
    assert {len(sessions) for sessions in found.values()} == {2, 3}
    assert {frozenset(name[0] for name in sessions) for sessions in found.values()} == {
        frozenset("a"),
        frozenset("bcd"),
    }
    assert said["saved"].endswith("splits")


def test_it_prints_a_table(folder, capsys):
    assert run(["split", folder, "--by", "subject", "--fractions", "train=0.9", "test=0.1"]) == 0
    printed = capsys.readouterr()
    heads, *rows = (line.split() for line in printed.out.splitlines() if line)
    assert heads == ["split", "samples", "share", "asked", "for", "sessions", "subjects"]
    assert rows[0][:4] == ["train", "90", "90.0%", "90.0%"]
    assert rows[1] == ["test", "10", "10.0%", "10.0%", "1", "1"]
    assert "saved in" in printed.out
    assert not printed.err


def test_shares_that_are_off_are_a_warning(folder, capsys):
    assert run(["split", folder, "--by", "subject", "--fractions", "train=0.75", "test=0.25"]) == 0
    assert not capsys.readouterr().err  # 80 % and 20 %
    assert run(["split", folder, "--overwrite", "--fractions", "train=0.97", "test=0.03"]) == 0
    assert "warning: train has 90.0% of the samples instead of 97.0%, test has 10.0%" in capsys.readouterr().err


def test_a_dry_run_saves_nothing(folder, capsys):
    assert answer(capsys, folder, "--dry-run")["saved"] is None
    assert splits_of(folder) == {}
    assert run(["split", folder, "--dry-run"]) == 0
    assert "nothing was saved" in capsys.readouterr().out


def test_named_groups_are_where_they_are_named(folder, capsys):
    words = (
        "--by",
        "subject",
        "--named",
        "test=b",
        "test=c",
        "--named",
        "held=d",
        "--fractions",
        "train=.5",
        "test=.5",
    )
    said = answer(capsys, folder, *words)
    assert splits_of(folder) == {"train": {"a1", "a2"}, "test": {"b1", "c1"}, "held": {"d1"}}
    assert said["splits"]["held"] == {"samples": 10, "share": 0.1, "asked": None, "sessions": 1, "subjects": 1}


@pytest.mark.filterwarnings("ignore:.*already holds a data set")
def test_what_is_split_is_divided_anew_or_extended_only_when_asked(folder, capsys):
    answer(capsys, folder, "--by", "subject")
    before = splits_of(folder)
    assert run(["split", folder]) == 2
    assert "is split already (train 80, " in (said := capsys.readouterr().err)
    assert "--extend" in said
    assert "--overwrite" in said
    write(folder, {"a3": 5, "e1": 15})
    said = answer(capsys, folder, "--by", "subject", "--extend")
    after = splits_of(folder)
    assert all(sessions <= after[name] for name, sessions in before.items())
    assert "a3" in next(sessions for sessions in after.values() if "a1" in sessions)
    assert sum(each["samples"] for each in said["splits"].values()) == 120
    answer(capsys, folder, "--by", "subject", "--overwrite", "--fractions", "all=1")
    assert splits_of(folder) == {}


def test_splits_that_the_samples_name_count_as_splits(tmp_path, capsys):
    write(tmp_path / "data", SESSIONS, {"split": "test"})
    assert run(["split", str(tmp_path / "data")]) == 2
    assert "is split already (test 100)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--fractions", "train=0.5"), "add up to 1"),
        (("--fractions", "train=nan"), "add up to 1"),
        (("--fractions", "train"), "--fractions train: write train=0.8"),
        (("--fractions", "train=much"), "--fractions train=much: write train=0.8"),
        (("--named", "test"), "--named test: write test=mouse7"),
        (("--named", "test=zz"), "'zz'"),
        (("--by", "month"), "'month'"),
        (("--by", "time"), "window_start_s"),
        (("--by", "trial", "--named", "test=a1"), "named= gives splits to sessions or subjects"),
    ],
)
def test_what_cannot_be_done_is_an_error_and_saves_nothing(folder, capsys, words, says):
    assert run(["split", folder, *words]) == 2
    assert says in capsys.readouterr().err
    assert splits_of(folder) == {}


@pytest.mark.parametrize(
    "words",
    [
        ("--named", "test=a", "DIR", "--by", "subject"),
        ("--by", "subject", "--named", "test=a", "DIR"),
        ("--by", "subject", "--fractions", "train=0.5", "test=0.5", "--named", "test=a", "DIR"),
        ("--by", "subject", "--named", "test=a", "DIR", "--fractions", "train=0.5", "test=0.5"),
    ],
    ids=" ".join,
)
def test_the_folder_may_follow_a_list(folder, capsys, words):
    assert run(["split", *(folder if word == "DIR" else word for word in words)]) == 0
    table = capsys.readouterr().out
    assert "saved in" in table
    assert set(splits_of(folder)) >= {"train", "test"}


def test_extending_needs_whole_groups(folder, capsys):
    from neurofm_shards import save_splits

    save_splits(folder, {"train": np.arange(20), "test": np.arange(20, 100)})
    assert run(["split", folder, "--extend"]) == 2
    assert "session 'a1' is in train and in test" in capsys.readouterr().err
