"""No sample of one split shares a time bin with a sample of another, however the split is made.

Broken on purpose, each of these is caught here: windows assigned to splits after cutting, the purge gap left out,
hashes that depend on the number of sessions, windows around neighbouring trials kept on both sides, padded windows
that show what belongs to the next split.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.errors import SourceError
from neurofm_shards.recordings import InMemoryRecording, SplitOptions, WindowOptions, windowed
from neurofm_shards.recordings.memory import events, intervals, irregular
from neurofm_shards.recordings.windows import share

THIRDS = {"train": 0.5, "val": 0.25, "test": 0.25}


def session(rows, stop=60.0, start=0.0, columns=None, **ids):
    rng = np.random.default_rng(0)
    unit = events("units", {"a": np.sort(rng.random(400) * (stop - start) + start)})
    table = intervals("trials", [a for a, _ in rows], [b for _, b in rows], columns or {})
    x = irregular("x", np.ones((1000, 1)), start + np.linspace(0, stop - start, 1000))
    whole = intervals("epochs", [start], [stop], modality="epochs")
    return InMemoryRecording([unit, table, x, whole], **ids)


trial_rows = st.lists(st.tuples(st.integers(0, 590), st.integers(1, 60)), min_size=1, max_size=25).map(
    lambda rows: [(a / 10, (a + n) / 10) for a, n in rows]
)


@settings(max_examples=120, deadline=None)
@given(
    rows=trial_rows,
    by=st.sampled_from(["time", "trial", "session", "subject"]),
    sampling=st.sampled_from(["fixed", "trial"]),
    policy=st.sampled_from(["drop", "overlap", "pad"]),
    length=st.integers(20, 250),
    purge=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    seed=st.integers(0, 5),
)
def test_no_sample_shares_a_time_bin_with_another_split(rows, by, sampling, policy, length, purge, seed):
    split = SplitOptions(by=by, fractions=THIRDS, purge=purge, seed=seed)
    options = WindowOptions(
        split=split, sampling=sampling, on_last_window=policy, sequence_length=length, overlap=0.5, behavior=None
    )
    samples = windowed(session(rows), options)
    plan = samples.plan()
    block = samples.read(0, plan.num_samples)
    shown: dict[str, list[tuple[float, float]]] = {}
    for w, said in enumerate(block.metadata):
        known = np.flatnonzero(np.isfinite(block.columns["behavior"][w, :, 0]))
        last = said["window_stop_s"] if policy != "pad" else said["window_start_s"] + (known.max(initial=-1) + 1) / 100
        shown.setdefault(said["split"], []).append((said["window_start_s"], last))
    for one, other in itertools.combinations(shown, 2):
        for a, b in itertools.product(shown[one], shown[other]):
            apart = max(b[0] - a[1], a[0] - b[1])
            assert apart > purge * length / 100 - 1e-6, (one, a, other, b)
    if by in {"session", "subject"}:
        assert len(shown) <= 1


@settings(max_examples=60, deadline=None)
@given(
    by=st.sampled_from(["time", "session"]),
    policy=st.sampled_from(["drop", "overlap", "pad"]),
    length=st.integers(20, 250),
    gaps=st.lists(st.tuples(st.integers(1, 58), st.integers(1, 60)), max_size=3),
    least=st.sampled_from([0.0, 1.0]),
)
def test_all_time_is_in_a_window_or_left_out_for_a_reason(by, policy, length, gaps, least):
    options = WindowOptions(
        split=SplitOptions(by=by, fractions=THIRDS), on_last_window=policy, sequence_length=length, overlap=0.25,
        min_valid_fraction=least, invalid="drop" if least == 0 else "mask",
    )  # fmt: skip
    recorded = session([])
    bad = intervals("invalid_times", [a for a, _ in gaps], [a + n / 10 for a, n in gaps], modality="invalid")
    samples = windowed(InMemoryRecording([*recorded.streams, bad]), options)
    facts, block = samples.plan().metadata, samples.read(0, samples.plan().num_samples)
    bins = np.zeros(6000, int)
    for w, said in enumerate(block.metadata):
        start, known = round(said["window_start_s"] * 100), np.isfinite(block.columns["behavior"][w, :, 0])
        bins[start : start + np.flatnonzero(known).max() + 1] = -1  # a padded one holds nothing behind it
    for spans in facts.get("left_out_s", {}).values():
        for start, stop in spans:
            inside = slice(round(start * 100), round(stop * 100))
            assert (bins[inside] != -1).all(), "what lies in a window is not left out"
            bins[inside] += 1
    assert (bins != 0).all()


def test_time_is_divided_in_order_by_the_share_of_valid_time():
    split = SplitOptions(by="time", fractions={"train": 0.8, "val": 0.1, "test": 0.1})
    samples = windowed(session([], stop=1000.0), WindowOptions(split=split, overlap=0))
    splits = [said["split"] for said in samples.read(0, samples.plan().num_samples).metadata]
    assert samples.plan().metadata["splits"] == {"train": 800, "val": 99, "test": 99}
    assert splits == ["train"] * 800 + ["val"] * 99 + ["test"] * 99
    assert samples.plan().drops == {"too near to another split": 2}


def test_invalid_times_do_not_count_as_time_to_divide():
    bad = intervals("invalid", [0.0], [500.0], modality="invalid")
    recording = InMemoryRecording([*session([], stop=1000.0).streams, bad])
    split = SplitOptions(by="time", fractions={"train": 0.5, "test": 0.5})
    assert windowed(recording, WindowOptions(split=split, overlap=0)).plan().metadata["splits"] == {
        "train": 250,
        "test": 249,
    }


@given(st.lists(st.text(min_size=1, max_size=8), unique=True, min_size=1, max_size=30), st.integers(0, 9))
def test_adding_sessions_never_moves_old_ones(sessions, seed):
    split = SplitOptions(seed=seed, fractions=THIRDS)
    alone = {name: share(split, name) for name in sessions}
    assert {name: share(split, name) for name in ["new", *reversed(sessions)] if name in alone} == alone


def test_shares_come_close_to_the_fractions_and_depend_on_the_seed():
    names = [f"session {i}" for i in range(4000)]
    for seed in (0, 1):
        found = [share(SplitOptions(seed=seed, fractions=THIRDS), name) for name in names]
        for split, fraction in THIRDS.items():
            assert abs(found.count(split) / 4000 - fraction) < 0.03
    assert found != [share(SplitOptions(seed=0, fractions=THIRDS), name) for name in names]
    assert share(SplitOptions(fractions={"a": 1.0, "b": 0.0}), "x") == "a"


def test_the_whole_session_or_subject_goes_to_one_split():
    for by, name in (("session", "ses"), ("subject", "sub")):
        split = SplitOptions(by=by)
        recording = session([], session_id="ses", subject_id="sub")
        samples = windowed(recording, WindowOptions(split=split))
        assert {said["split"] for said in samples.read(0, 9).metadata} == {share(split, name)}
    with pytest.raises(SourceError, match="no subject id"):
        windowed(session([], subject_id=""), WindowOptions(split=SplitOptions(by="subject")))


def test_a_split_column_of_the_trial_table_is_honoured():
    rows = [(k * 5.0, k * 5.0 + 4) for k in range(8)]
    said = ["train", "test", "none", "train", "test", "val", None, "train"]
    recording = session(rows, stop=40.0, columns={"split": said})
    split = SplitOptions(by="trial", fractions=THIRDS)
    aligned = windowed(recording, WindowOptions(split=split, sampling="trial"))
    block = aligned.read(0, aligned.plan().num_samples)
    assert [(row["trial"], row["split"]) for row in block.metadata] == [(k, said[k]) for k in (0, 3, 7, 5, 1, 4)]
    assert aligned.plan().splits == (("train", 3), ("val", 1), ("test", 2))
    assert aligned.plan().drops == {"in no split": 2}
    fixed = windowed(recording, WindowOptions(split=split, overlap=0))
    for row in fixed.read(0, fixed.plan().num_samples).metadata:
        if row["trial"] >= 0:
            assert row["split"] == said[row["trial"]]
    assert fixed.plan().drops["in no split"] >= 8
    ignored = windowed(recording, WindowOptions(split=SplitOptions(by="trial", column=None), sampling="trial"))
    assert "in no split" not in ignored.plan().drops


@pytest.mark.parametrize("sampling", ["fixed", "trial"])
@given(lengths=st.lists(st.sampled_from([2.0, 3.0, 4.5, 8.0]), min_size=12, max_size=40), seed=st.integers(0, 9))
@settings(max_examples=10, deadline=None)
def test_trials_are_divided_by_the_fractions_to_within_one_trial(sampling, lengths, seed):
    starts = np.cumsum([0.0, *lengths]).tolist()
    recording = session([(a, b - 0.5) for a, b in itertools.pairwise(starts)], stop=starts[-1])
    split = SplitOptions(by="trial", seed=seed, purge=0)
    options = WindowOptions(split=split, sampling=sampling, sequence_length=50, overlap=0)
    samples = windowed(recording, options)
    counts = dict(samples.plan().splits)
    one_trial = 1 if sampling == "trial" else int(max(lengths) / 0.5)
    lost = sum(samples.plan().drops.values())
    for name, fraction in split.fractions.items():
        assert abs(counts.get(name, 0) - fraction * sum(counts.values())) <= one_trial + lost
    of = {}
    for row in samples.read(0, samples.plan().num_samples).metadata:
        if row["trial"] >= 0:
            assert of.setdefault(row["trial"], row["split"]) == row["split"]


def test_trials_of_small_sessions_meet_the_fractions_together():
    rows = [(k * 5.0, k * 5.0 + 4) for k in range(3)]
    counts = Counter()
    for k in range(300):
        made = session(rows, stop=15.0, session_id=f"s{k}")
        counts.update(
            dict(windowed(made, WindowOptions(split=SplitOptions(by="trial"), sampling="trial")).plan().splits)
        )
    assert [round(counts[name] / sum(counts.values()), 1) for name in ("train", "val", "test")] == [0.8, 0.1, 0.1]


def test_a_hash_of_its_id_alone_decides_on_request_for_a_trial():
    rows = [(k * 5.0, k * 5.0 + 4) for k in range(40)]
    split = SplitOptions(by="trial", fractions=THIRDS, balanced=False, purge=0)
    samples = windowed(session(rows, stop=200.0, session_id="ses"), WindowOptions(split=split, sampling="trial"))
    said = {row["trial"]: row["split"] for row in samples.read(0, samples.plan().num_samples).metadata}
    assert said == {k: share(split, f"ses\0{k}") for k in said}
    assert len(said) == 40


def test_a_split_by_trial_needs_trials():
    recording = InMemoryRecording([events("units", {"a": np.linspace(0, 9, 50)})])
    with pytest.raises(SourceError, match="there is no trial table"):
        windowed(recording, WindowOptions(split=SplitOptions(by="trial")))
    unused = session([(1.0, 2.0)], columns={"ok": [0]})
    plan = windowed(unused, WindowOptions(split=SplitOptions(by="trial"), trial_filter="ok == 1", overlap=0)).plan()
    assert (plan.num_samples, plan.drops) == (0, {"in no split": 60})


def test_fractions_must_add_up():
    with pytest.raises(ValueError, match="add up to 1"):
        SplitOptions(fractions={"train": 0.5, "test": 0.4})
