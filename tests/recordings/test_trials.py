"""Trials as they are found, and what samples say of them.

Broken on purpose, each of these is caught here: relative columns believed, a missing stop taken for zero, windows
aligned to the bin grid instead of the event, labels of the neighbouring trial, rows of the filtered instead of the
file's table.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.errors import ConfigError, SourceError
from neurofm_shards.recordings import InMemoryRecording, WindowOptions, windowed
from neurofm_shards.recordings.memory import events, intervals, regular
from neurofm_shards.recordings.trials import recognised_columns

NAN = math.nan


def source(table, stop=20.0, spikes=None):
    times = np.sort(np.random.default_rng(0).random(800) * stop) if spikes is None else spikes
    whole = intervals("epochs", [0.0], [stop], modality="epochs")
    return InMemoryRecording([events("units", {"a": times}), whole, table])


def opened(table, spikes=None, **options):
    samples = windowed(source(table, spikes=spikes), WindowOptions(**options))
    plan = samples.plan()
    return plan, samples.read(0, plan.num_samples)


def trials(n=8, **columns):
    start = 1.0 + 2.0 * np.arange(n)
    return intervals("trials", start, start + 1.5, {"cue_time": list(start + 0.4567891), **columns})


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 190), st.integers(1, 80)), min_size=1, max_size=8),
    length=st.integers(10, 300),
)
def test_a_fixed_window_carries_the_last_started_trial_that_holds_it(rows, length):
    start, stop = [a / 10 for a, _ in rows], [(a + n) / 10 for a, n in rows]
    _, block = opened(intervals("trials", start, stop), sequence_length=length, overlap=0.3)
    for said in block.metadata:
        first, last = said["window_start_s"], said["window_stop_s"]
        holding = [i for i in range(len(rows)) if start[i] <= first + 1e-9 and stop[i] >= last - 1e-9]
        if not holding:
            assert said["trial"] == -1
        else:
            assert start[said["trial"]] == max(start[i] for i in holding)
            assert said["trial"] in holding


def test_aligned_windows_begin_exactly_at_the_event(reference):
    spikes = np.sort(np.random.default_rng(1).random(900) * 20)
    options = {"sampling": "trial", "align_field": "cue_time", "align_range_ms": (-200, 300), "margin_ms": 50}
    plan, block = opened(trials(), spikes=spikes, **options)
    assert block.columns["spikes"].shape == (8, 60, 1)
    assert plan.metadata["margin_bins"] == 5
    cues = [1.0 + 2.0 * k + 0.4567891 for k in range(8)]
    starts = [reference.tick(cue) - 250_000_000 for cue in cues]
    np.testing.assert_array_equal(block.columns["spikes"], reference.counts([spikes], starts, 60, 10_000_000))
    assert [said["align_s"] for said in block.metadata] == pytest.approx(cues, abs=1e-9)
    assert [said["trial"] for said in block.metadata] == list(range(8))
    assert block.metadata[3]["window_start_s"] == starts[3] / 1e9


def test_aligned_windows_of_lfp_begin_at_the_first_sample_behind_the_start():
    lfp = regular("lfp", np.arange(20_000.0)[:, None], 1000.0)
    table = intervals("trials", [1.0, 3.0], [2.0, 4.0], {"go_time": [1.2345, 3.5]})
    samples = windowed(InMemoryRecording([lfp, table]), WindowOptions(sampling="trial", align_field="go_time"))
    first = samples.read(0, 2).columns["lfp"][:, 0, 0]
    assert first.tolist() == [1235.0, 3500.0]


def test_rows_that_cannot_be_used_are_dropped_with_a_count():
    table = intervals(
        "trials",
        [1.0, 3.0, NAN, 7.0, 19.5],
        [2.0, 4.0, 6.0, 8.0, 20.0],
        {"cue_time": [1.1, NAN, 5.0, 7.2, 19.6], "ok": [1, 1, 1, 0, 1]},
    )
    options = {"sampling": "trial", "align_field": "cue_time", "trial_filter": "ok == 1"}
    plan, block = opened(table, **options)
    assert [said["trial"] for said in block.metadata] == [0]
    assert plan.drops == {
        "trial without a start time": 1,
        "trial_filter": 1,
        "trial without cue_time": 1,
        "reaches beyond the recording": 1,
    }


def test_a_trial_that_stops_before_it_starts_is_dropped_with_a_count():
    plan, block = opened(intervals("trials", [1.0, 4.0, 6.0], [2.0, 3.0, 7.0]), sampling="trial")
    assert [said["trial"] for said in block.metadata] == [0, 2]
    assert plan.drops == {"trial that stops before it starts": 1}


def test_rows_that_are_left_out_are_counted_and_the_first_is_named():
    plan, _ = opened(intervals("trials", [1.0, 4.0, NAN, 6.0, NAN], [2.0, 3.0, 5.0, 5.5, NAN]), sequence_length=50)
    found = [problem.what for problem in plan.problems if problem.where == "trials"]
    assert found == [
        "2 rows: trial without a start time (the first: row 2)",
        "2 rows: trial that stops before it starts (the first: row 1)",
    ]


@pytest.mark.parametrize("options", [
    {"sampling": "trial"}, {"label_columns": ("stop_time",)}, {"split": {"by": "trial"}}, {"trial_filter": "side == 1"},
])  # fmt: skip
def test_a_table_without_one_usable_trial_is_an_error_where_trials_are_needed(options):
    table = intervals("trials", [NAN, 4.0, 6.0], [2.0, 3.0, 5.0], {"side": [1, 1, 1]})
    with pytest.raises(
        SourceError, match="none of its 3 rows has times that can be used .trial without a start time: 1"
    ):
        opened(table, **options)
    plan, block = opened(table)
    assert plan.num_samples
    assert {said["trial"] for said in block.metadata} == {-1}


def test_a_window_beyond_the_recording_is_padded_on_request():
    table = intervals("trials", [19.5], [20.0])
    _, block = opened(table, sampling="trial", on_last_window="pad")
    assert block.columns["valid"].tolist() == [[True] * 50 + [False] * 50]


def test_windows_around_trials_keep_out_of_invalid_times():
    bad = intervals("invalid", [3.1], [3.2], modality="invalid")
    whole = intervals("epochs", [0.0], [20.0], modality="epochs")
    unit = events("units", {"a": np.linspace(0.1, 19.9, 99)})
    samples = windowed(InMemoryRecording([unit, whole, bad, trials()]), WindowOptions(sampling="trial"))
    assert samples.plan().drops == {"invalid times": 1}
    assert samples.plan().num_samples == 7


@pytest.mark.parametrize(
    ("policy", "stops"),
    [("next_start", [3.0, 6.0, 20.0]), ("drop", [3.0]), ("align_range", [3.0, 4.5, 6.5])],
)
def test_missing_stop_times_are_filled_in_as_asked(policy, stops):
    table = intervals("trials", [1.0, 4.0, 6.0], [3.0, NAN, NAN])
    plan, block = opened(table, sequence_length=50, overlap=0, nan_stop=policy)
    known = list(zip([1.0, 4.0, 6.0], stops, strict=False))
    for said in block.metadata:
        first, last = said["window_start_s"], said["window_stop_s"]
        inside = [i for i, (a, b) in enumerate(known) if a <= first and last <= b]
        assert said["trial"] == (inside[-1] if inside else -1)
    if policy == "drop":
        assert any("2 rows: trial without a stop time" in problem.what for problem in plan.problems)


def test_labels_have_the_same_keys_and_types_in_every_sample():
    table = trials(side=["left", "right"] * 4, difficulty=[0.5, NAN] * 4, hit=[True, False] * 4, tags=[["a"]] * 8)
    _, block = opened(table, label_columns=("side", "difficulty", "hit"), sequence_length=50)
    keys = {tuple(sorted(said)) for said in block.metadata}
    assert len(keys) == 1
    for said in block.metadata:
        row = said["trial"]
        assert type(said["side"]) is str
        assert said["side"] == ("" if row < 0 else ["left", "right"][row % 2])
        assert said["difficulty"] == (0.5 if row >= 0 and row % 2 == 0 else None)
        assert said["hit"] == (None if row < 0 else row % 2 == 0)
    _, block = opened(table, label_columns=("*",))
    assert {"cue_time", "side", "difficulty", "hit", "start_time", "stop_time"} <= set(block.metadata[0])
    assert "tags" not in block.metadata[0]


@pytest.mark.parametrize(
    "values", [[2**63 + 7, -5, 1, None], [2**53 + 1, 0.5, 1, None], [2**63 + 7, 2**53 + 1, 1, 0], [True, None, False]]
)
def test_numbers_of_a_table_are_exact_in_filters_and_labels(values):
    around = {"sampling": "trial", "align_field": "start_time", "align_range_ms": (0, 1000), "label_columns": ("*",)}
    _, block = opened(trials(len(values), root=values), **around)
    assert [said["root"] for said in block.metadata] == values
    for value in values:
        said = "is None" if value is None else f"== {value!r}"
        _, block = opened(trials(len(values), root=values), **around, trial_filter=f"root {said}")
        assert [said["root"] for said in block.metadata] == [value]


def as_code(*names):
    return tuple({"column": name, "as": "code"} for name in names)


def test_labels_become_codes_whose_meaning_is_in_a_table():
    columns = {"side": ["right", "left", "", "left"] * 2, "Difficulty (%)": [2.0, NAN, 1.0, 2.0] * 2, "hit": [True] * 8}
    plan, block = opened(trials(**columns), label_columns=("side", *as_code(*columns)), sequence_length=50)
    specs = {spec.name: spec for spec in plan.columns}
    for field, name in (("side", "side"), ("difficulty", "Difficulty (%)"), ("hit", "hit")):
        spec, codes = specs[f"{field}_code"], block.columns[f"{field}_code"]
        assert (spec.dtype, spec.shape, spec.table) == ("<i4", (), f"labels-{field}")
        assert codes.dtype == np.int32
        values = [row["value"] for row in plan.tables[f"labels-{field}"]]
        assert values == sorted(set(values))
        for code, said in zip(codes.tolist(), block.metadata, strict=True):
            known = columns[name][said["trial"]] if said["trial"] >= 0 else ""
            assert code == (values.index(known) if known in values else -1)
    assert [row["value"] for row in plan.tables["labels-difficulty"]] == [1, 2]
    assert {"side"} == {"side", "hit"} & set(block.metadata[0])


def test_a_label_of_a_trial_goes_with_the_window_cut_from_it():
    table = intervals("trials", [1.0, 1.0, 4.0], [3.0, 3.0, 6.0], {"side": ["b", "a", "b"]})
    _, block = opened(table, label_columns=as_code("side"), sampling="trial", align_range_ms=(0, 500))
    assert block.columns["side_code"].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        ({"tags": [["a"]] * 8}, ("tags",), "several values per trial"),
        ({"Side": ["a"] * 8, "side": ["b"] * 8}, ("Side", "side"), "second column side_code"),
        ({}, ("colour",), "no column 'colour'"),
        ({}, ("*",), r"no column '\*'"),
    ],
)
def test_labels_that_no_code_stands_for_are_refused(columns, names, message):
    with pytest.raises(ConfigError, match=message):
        opened(trials(**columns), label_columns=as_code(*names))


def test_labels_are_said_to_files_as_they_were_given():
    options = WindowOptions(label_columns=("side", *as_code("hit")))
    said = options.model_dump(mode="json")["label_columns"]
    assert said == ["side", {"column": "hit", "as": "code"}]
    assert WindowOptions.model_validate_json(options.model_dump_json()) == options


def test_columns_that_are_not_there_are_errors_that_list_those_that_are():
    for options in (
        {"label_columns": ("colour",)},
        {"sampling": "trial", "align_field": "colour"},
        {"relative_columns": ("colour",)},
    ):
        with pytest.raises(ConfigError, match="no column 'colour'; present: start_time, stop_time, cue_time"):
            opened(trials(), **options)
    with pytest.raises(ConfigError, match="trial, which samples already say"):
        opened(trials(trial=[1] * 8), label_columns=("trial",))


def test_a_trial_table_is_a_choice():
    odd = intervals("stim_presentations", [1.0], [2.0], {"image": ["cat"]}, modality="intervals")
    with pytest.raises(
        SourceError, match=r"interval tables present: .*stim_presentations \(1 intervals\).*trial_table"
    ):
        opened(odd, sampling="trial")
    _, block = opened(odd, trial_table="stim_presentations", label_columns=("image",), sampling="trial")
    assert [said["image"] for said in block.metadata] == ["cat"]


def relative():
    start = 300.0 + 6.4 * np.arange(30)
    return intervals("trials", start, [NAN] * 30, {"cue_time": [1.5] * 30, "pole_time": [0.7] * 30})


def test_columns_that_count_from_the_trial_are_recognised():
    assert recognised_columns(relative()) == ["cue_time", "pole_time"]
    assert recognised_columns(trials()) == []
    assert recognised_columns(trials(reaction_time=[0.3] * 8, duration_time=[1.0] * 8, count=[1] * 8)) == []


def test_trials_with_relative_columns_are_refused_until_declared_but_fixed_windows_go_on():
    unit = events("units", {"a": np.linspace(300, 490, 999)})
    recording = InMemoryRecording([unit, relative()])
    samples = windowed(recording, WindowOptions())
    assert {said["trial"] for said in samples.read(0, 50).metadata} == {-1}
    assert any("trial = -1" in problem.consequence for problem in samples.plan().problems)
    for options in ({"label_columns": ("cue_time",)}, {"sampling": "trial"}, {"trial_filter": "cue_time > 1"}):
        with pytest.raises(SourceError, match="relative_columns=cue_time,pole_time"):
            windowed(recording, WindowOptions(**options))
    declared = WindowOptions(
        sampling="trial", align_field="cue_time", relative_columns=("cue_time", "pole_time"), on_last_window="pad"
    )
    block = windowed(recording, declared).read(0, 3)
    assert [said["align_s"] for said in block.metadata] == pytest.approx([301.5, 307.9, 314.3])
    windowed(recording, WindowOptions(absolute_columns=("cue_time", "pole_time"), sampling="trial"))


def test_small_numbers_beside_session_times_are_taken_for_durations_unless_used():
    table = trials(valve_open_time=[0.03] * 8)
    table = intervals(
        "trials",
        table.start + 100,
        table.stop + 100,
        {"cue_time": list(table.start + 100.4), "valve_open_time": [0.03] * 8},
    )
    unit = events("units", {"a": np.linspace(90, 130, 99)})
    recording = InMemoryRecording([unit, table])
    assert {said["trial"] for said in windowed(recording).read(0, 60).metadata} != {-1}
    with pytest.raises(SourceError, match="valve_open_time seem to count"):
        windowed(recording, WindowOptions(sampling="trial", align_field="valve_open_time"))


def test_a_range_must_be_whole_bins():
    with pytest.raises(ValueError, match=r"is 10.5 bins"):
        WindowOptions(sampling="trial", align_range_ms=(0, 105))
    with pytest.raises(ValueError, match="not a range"):
        WindowOptions(align_range_ms=(5, 5))


def test_trials_outside_of_the_recording_are_said_with_the_option():
    table = intervals("trials", [5.0, 15.0, 400.0], [6.0, 16.0, 401.0])
    plan, _ = opened(table, sampling="trial")
    assert plan.num_samples == 2
    (problem,) = [problem for problem in plan.problems if problem.where == "trials"]
    assert problem.what.startswith("1 window around trials would reach beyond the recording (0 to 20 s")
    assert "extent=all" in problem.consequence
