"""Sweeps as windows: each by itself, whole, and nothing of its neighbours; references are made with plain NumPy.

Broken on purpose, each of these is caught here: a sample too few at rates that are no whole nanoseconds, the next sweep
behind a short one, the rows of a stretch counted from the series' start, a scale left out.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.errors import ConfigError, SourceError
from neurofm_shards.recordings import InMemoryRecording, WindowOptions, windowed
from neurofm_shards.recordings.memory import intervals, irregular, regular


def clamp(path, values, rate, t0=0.0, **more):
    return regular(path, values, rate, t0, modality="raw", unit=more.pop("unit", "V"), **more)


def table_of(rows, **columns):
    """Make a table of sweeps: rows of ``(responses, stimuli)``, each a list of ``(path, first, count)``."""
    made = {}
    for at, (name, places) in enumerate((("responses", "response_rows"), ("stimuli", "stimulus_rows"))):
        made[name] = [[path for path, _, _ in row[at]] for row in rows]
        made[places] = [[[first, count] for _, first, count in row[at]] for row in rows]
    times = np.zeros(len(rows))
    return intervals("sweeps", times, times + 1, {**made, **columns}, modality="sweeps")


def opened(streams, **options):
    samples = windowed(InMemoryRecording(streams), WindowOptions(sampling="sweep", **options))
    plan = samples.plan()
    return plan, samples.read(0, plan.num_samples)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 400), min_size=1, max_size=8),
    rate=st.sampled_from([1000.0, 30000 / 7, 24414.0625, 3.3]),
    data=st.data(),
)
def test_each_window_is_one_sweep_to_the_last_sample(lengths, rate, data):
    rng = np.random.default_rng(0)
    values = [rng.integers(-900, 900, n).astype(np.int16) for n in lengths]
    streams = [clamp(f"s{i}", stored, rate, kind_name="C", scale=1e-3) for i, stored in enumerate(values)]
    parts = []
    for i, n in enumerate(lengths):
        first = data.draw(st.integers(0, n - 1))
        parts.append((f"s{i}", first, data.draw(st.sampled_from([-1, n - first, (n - first + 1) // 2]))))
    table = table_of([([part], []) for part in parts])
    bins = data.draw(st.integers(1, 40))
    width = 10.0 if rate > 10 else 1000.0
    plan, block = opened([*streams, table], bin_size_ms=width, sequence_length=bins)
    samples = int(np.floor(rate * bins * width / 1000 + 0.01))
    assert plan.num_samples == len(lengths)
    for i, (_, first, count) in enumerate(parts):
        whole = values[i][first:] if count < 0 else values[i][first : first + count]
        wanted = np.full(samples, np.nan, dtype=np.float32)
        wanted[: len(whole)] = (whole.astype(np.float64) * 1e-3)[:samples]
        assert np.array_equal(block.columns["lfp"][i, :, 0], wanted, equal_nan=True)
        assert block.columns["lfp_valid"][i].tolist() == [at < len(whole) for at in range(samples)]
    longest = max(len(values[i][first:]) if count < 0 else count for i, (_, first, count) in enumerate(parts))
    assert any("go on, up to" in problem.what for problem in plan.problems) == (
        longest / rate > bins * width / 1000 + 1e-9
    )


def simultaneous():
    """Two electrodes at once, in three sweeps that all begin at zero, and the stimulus of the first."""
    rng = np.random.default_rng(1)
    streams = [clamp(f"e{e}s{i}", rng.normal(size=100), 1000.0, kind_name="C") for e in range(2) for i in range(3)]
    streams.append(clamp("stim", rng.normal(size=100), 1000.0, kind_name="Stimulus", unit="A"))
    rows = [([(f"e{e}s{i}", 0, -1) for e in range(2)], [("stim", 0, -1)] if i == 0 else []) for i in range(3)]
    table = table_of(rows, sweep_number=[7, 8, 9], kind=["ramp", "step", "step"])
    return streams, table, {stream.path: stream.read(0, 100).astype(np.float32) for stream in streams}


def test_what_is_recorded_at_once_are_channels_beside_the_stimulus():
    streams, table, values = simultaneous()
    lfp = ({"path": "response"}, {"path": "stimulus"})
    options = {"lfp": lfp, "sequence_length": 10, "label_columns": ("sweep_number", {"column": "kind", "as": "code"})}
    plan, block = opened([*streams, table], **options)
    assert [row["channel"] for row in plan.tables["channels"]] == ["response 0", "response 1", "stimulus"]
    for i in range(3):
        for e in range(2):
            assert np.array_equal(block.columns["lfp"][i, :, e], values[f"e{e}s{i}"])
    assert np.array_equal(block.columns["lfp"][0, :, 2], values["stim"])
    assert np.isnan(block.columns["lfp"][1:, :, 2]).all()
    assert [said["sweep_number"] for said in block.metadata] == [7, 8, 9]
    assert block.columns["kind_code"].tolist() == [0, 1, 1]


def test_sweeps_are_filtered_and_split_like_trials():
    streams, table, values = simultaneous()
    _, block = opened([*streams, table], sequence_length=10, trial_filter="kind == 'step'")
    assert np.array_equal(block.columns["lfp"][0, :, 0], values["e0s1"])
    many = [clamp(f"s{i}", np.full(50, float(i)), 1000.0, kind_name="C") for i in range(60)]
    rows = table_of([([(f"s{i}", 0, -1)], []) for i in range(60)])
    plan, block = opened([*many, rows], sequence_length=5, split={"by": "trial"})
    assert plan.num_samples == 60
    assert {said["split"] for said in block.metadata} == {"train", "val", "test"}
    assert sorted(block.columns["lfp"][:, 0, 0].tolist()) == list(range(60))


def test_sweeps_of_several_kinds_are_a_choice():
    streams = [
        clamp("a", np.arange(40.0), 1000.0, kind_name="Current"),
        clamp("b", np.arange(40.0), 2000.0, kind_name="Current"),
        clamp("c", np.arange(40.0), 1000.0, kind_name="Voltage", unit="A"),
    ]
    table = table_of([([(path, 0, -1)], []) for path in "abc"])
    with pytest.raises(SourceError, match=r"(?s)Current 1000 Hz.*Current 2000 Hz.*Voltage.*trial_table"):
        opened([*streams, table])
    plan, block = opened([*streams, table], trial_table="Current 2000 Hz", sequence_length=2)
    assert plan.num_samples == 1
    assert block.columns["lfp"][0, :, 0].tolist() == list(range(40))


def test_sweeps_that_cannot_be_laid_out_are_left_out_and_said():
    streams = [clamp("a", np.arange(40.0), 1000.0), clamp("b", np.zeros((40, 2)), 1000.0)]
    table = table_of([([("a", 0, -1)], []), ([("b", 0, -1)], []), ([("gone", 0, -1)], [])])
    plan, _ = opened([*streams, table], sequence_length=2)
    assert plan.num_samples == 1
    assert any("2 of 3 sweeps" in problem.what for problem in plan.problems)
    with pytest.raises(SourceError, match="none of 1 sweeps"):
        opened([streams[1], table_of([([("b", 0, -1)], [])])])


@pytest.mark.parametrize(
    "options",
    [
        {"align_range_ms": (-10, 100)},
        {"margin_ms": 10},
        {"align_field": "sweep_number"},
        {"lfp": {"rate": 100}},
        {"lfp": {"units": "raw"}},
    ],
    ids=str,
)
def test_options_that_would_mix_sweeps_are_refused(options):
    streams, table, _ = simultaneous()
    with pytest.raises(ConfigError, match="sampling=sweep takes each sweep by itself"):
        opened([*streams, table], **options)


def test_a_recording_without_sweeps_says_so():
    with pytest.raises(SourceError, match="has no sweeps: sampling=sweep needs patch-clamp"):
        opened([clamp("a", np.arange(40.0), 1000.0)])


def test_sweeps_change_nothing_where_they_are_not_asked_for():
    streams, table, values = simultaneous()
    with windowed(
        InMemoryRecording([*streams, table]), WindowOptions(lfp={"path": "e0s0"}, sequence_length=10)
    ) as made:
        assert np.array_equal(made.read(0, 1).columns["lfp"][0, :, 0], values["e0s0"])


def test_a_sweep_that_does_not_fill_its_window_is_not_valid_throughout():
    streams = [clamp(f"s{n}", np.ones(n), 1000.0) for n in (100, 80, 100, 120)]
    table = table_of([([(stream.path, 0, -1)], []) for stream in streams])
    plan, block = opened([*streams, table], sequence_length=10)
    assert plan.metadata["valid_share"] == {"lfp": 0.75} == {"lfp": block.columns["lfp_valid"].all(axis=1).mean()}
    plan, _ = opened([*streams, table], sequence_length=10, min_valid_fraction=1.0)
    assert plan.num_samples == 3


def stamped(path, values, times, **more):
    return irregular(path, values, times, modality="raw", kind_name="C", unit="V", **more)


@pytest.mark.parametrize("rate", [20000.0, 24414.0625, 1000.0])
@pytest.mark.parametrize(
    "rounded", [lambda t: t, lambda t: t.astype(np.float32).astype(float), lambda t: np.round(t, 5)]
)
def test_sweeps_with_even_time_stamps_are_those_of_a_rate(rate, rounded):
    rng = np.random.default_rng(0)
    lengths = [4000, 250, 1300, 90]
    values = [rng.normal(size=n) for n in lengths]
    times = [rounded(0.3 * i + np.arange(n) / rate) for i, n in enumerate(lengths)]
    rows = table_of([([(f"s{i}", 0, -1)], []) for i in range(4)])
    options = {"sequence_length": 20, "bin_size_ms": 10.0}
    plan, block = opened([*(stamped(f"s{i}", values[i], times[i]) for i in range(4)), rows], **options)
    wanted, reference = opened([*(clamp(f"s{i}", values[i], rate, kind_name="C") for i in range(4)), rows], **options)
    assert plan.num_samples == wanted.num_samples == 4
    assert plan.metadata["modalities"]["lfp"]["rate_hz"] == pytest.approx(rate, rel=1e-4)
    samples = block.columns["lfp"].shape[1]
    assert abs(samples - reference.columns["lfp"].shape[1]) <= 1
    for i, window in enumerate(block.columns["lfp"][:, :, 0]):
        assert np.array_equal(window[: lengths[i]], values[i][:samples].astype(np.float32))
        assert np.isnan(window[lengths[i] :]).all()


def test_stretches_of_one_series_with_pauses_are_sweeps_of_its_rate():
    values = np.arange(3000.0)
    times = np.arange(3000) / 1000 + np.repeat([0.0, 7.0, 90.0], 1000)
    parts = [("all", first, 1000) for first in (0, 1000, 2000)]
    rows = table_of([([part], [("stim", 0, 1000)]) for part in parts])
    streams = [stamped("all", values, times), clamp("stim", np.zeros(1000), 1000.0, unit="A", kind_name="S")]
    plan, block = opened([*streams, rows], lfp=({"path": "response"}, {"path": "stimulus"}))
    assert plan.metadata["modalities"]["lfp"]["rate_hz"] == 1000
    assert np.array_equal(block.columns["lfp"][:, :, 0], values.reshape(3, 1000).astype(np.float32))
    assert not block.columns["lfp"][:, :, 1].any()


def test_sweeps_that_cannot_be_taken_are_counted_with_the_reason():
    even = np.arange(400) / 1000
    uneven = np.cumsum(np.random.default_rng(0).exponential(0.001, 400))
    unknown = np.where(np.arange(400) == 7, np.nan, even)
    streams = [
        stamped("even", np.ones(400), even),
        stamped("uneven", np.ones(400), uneven),
        stamped("unknown", np.ones(400), unknown),
        stamped("short", np.ones(2), even[:2]),
        stamped("wide", np.ones((400, 2)), even),
        stamped("column", np.full((400, 1), 2.0), even),
    ]
    names = ["even", "uneven", "unknown", "short", "wide", "column", "gone"]
    rows = table_of([([(name, 0, -1)], [("uneven", 0, -1)] if name == "even" else []) for name in names])
    plan, block = opened([*streams, rows], sequence_length=40)
    assert block.columns["lfp"][:, 0, 0].tolist() == [1.0, 2.0]
    found = [problem.what for problem in plan.problems if problem.where == "sweeps"]
    assert found == [
        "5 of 7 sweeps have no response of one constant rate (3: its time stamps are not even; "
        "1: its series has the shape (400, 2); 1: its series is not there)",
        "1 stimuli of 7 sweeps have no constant rate (1: its time stamps are not even)",
    ]
