"""Where windows lie, which are left out and why, and what a sample says of itself.

Broken on purpose, each of these is caught here: windows cut across invalid times or epochs, dropped windows not
counted, padded bins that show what lies behind the stretch, a grid that does not begin at the recording's start, a
window's stop taken from the next start.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neurofm_shards.errors import NothingToConvertError, SampleIndexError, SourceError
from neurofm_shards.recordings import InMemoryRecording, WindowOptions, windowed
from neurofm_shards.recordings.memory import events, intervals, irregular, regular
from neurofm_shards.streams import Recording


def recording(*more, stop=10.0, start=0.0, spikes=()):
    times = np.sort(np.concatenate([np.random.default_rng(0).random(500) * (stop - start) + start, spikes]))
    streams = [events("units", {"a": times}), intervals("epochs", [start], [stop], modality="epochs"), *more]
    return InMemoryRecording(streams, session_id="ses", subject_id="sub", source_file="f.nwb")


def plan_and_starts(source, **options):
    samples = windowed(source, WindowOptions(**options))
    plan = samples.plan()
    block = samples.read(0, plan.num_samples)
    return plan, [said["window_start_s"] for said in block.metadata], block


def test_windows_follow_each_other_from_the_start_of_the_recording():
    _, starts, block = plan_and_starts(recording(start=1498.88820108, stop=1501.9), overlap=0.5)
    np.testing.assert_array_equal(starts, [1498.88820108, 1499.38820108, 1499.88820108, 1500.38820108, 1500.88820108])
    np.testing.assert_allclose([said["window_stop_s"] for said in block.metadata], np.array(starts) + 1)


def test_overlap_and_stride_say_the_same():
    assert plan_and_starts(recording(), overlap=0.75)[1] == plan_and_starts(recording(), stride=25)[1]
    with pytest.raises(ValueError, match="overlap and stride"):
        WindowOptions(overlap=0.2, stride=5)


def test_what_a_sample_says_of_itself():
    _, _, block = plan_and_starts(recording(start=100.25, stop=104.0), overlap=0)
    assert block.metadata[2] == {
        "session_id": "ses",
        "subject_id": "sub",
        "source_file": "f.nwb",
        "window_start_s": 102.25,
        "window_stop_s": 103.25,
        "origin_s": 100.25,
        "split": "",
        "trial": -1,
    }
    assert all(type(block.metadata[0][key]) is type(value) for key, value in block.metadata[2].items())


@settings(max_examples=80, deadline=None)
@given(
    bad=st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 300)), max_size=4),
    length=st.integers(5, 120),
    stride=st.integers(3, 150),
    policy=st.sampled_from(["drop", "overlap", "pad"]),
    invalid=st.sampled_from(["drop", "mask", "ignore"]),
)
@example(bad=[(0, 1), (218, 101)], length=5, stride=106, policy="pad", invalid="drop")  # more apart than is left
def test_windows_lie_inside_valid_time_and_every_other_one_is_counted(bad, length, stride, policy, invalid):
    invalid_rows = [(a / 100 + 0.0033, (a + n) / 100) for a, n in bad]
    times = intervals("invalid", [a for a, _ in invalid_rows], [b for _, b in invalid_rows], modality="invalid")
    source = recording(times, stop=10.004)
    options = {"sequence_length": length, "stride": stride, "on_last_window": policy, "invalid": invalid}
    plan, starts, block = plan_and_starts(source, **options)
    bins = [round(start * 100) for start in starts]
    np.testing.assert_allclose(starts, np.array(bins) / 100, atol=1e-9)
    touched = {k for a, b in invalid_rows for k in range(1001) if a < (k + 1) / 100 - 1e-12 and b > k / 100 + 1e-12}
    if invalid == "drop":
        for w, first in enumerate(bins):
            inside = [k for k in range(first, first + length) if k in touched or k >= 1001]
            assert policy == "pad" or not inside
            if policy == "pad":
                assert not block.columns["valid"][w][[k - first for k in inside]].any()
                assert block.columns["valid"][w].any()
    if invalid == "mask":
        for w, first in enumerate(bins):
            wanted = [first + k not in touched and first + k < 1000 for k in range(length)]
            np.testing.assert_array_equal(block.columns["valid"][w], wanted)
    if policy == "drop" and not touched:
        whole = max(0, (1000 - length) // stride + 1)
        assert (len(starts), sum(plan.drops.values())) == (whole, 1)
    assert len(starts) == len(set(starts))
    assert starts == sorted(starts)


def test_dropped_windows_and_kept_ones_add_up():
    bad = intervals("invalid", [2.0, 6.5], [3.5, 6.6], modality="invalid")
    plan, starts, _ = plan_and_starts(recording(bad), overlap=0)
    assert starts == [0.0, 1.0, 3.5, 4.5, 5.5, 6.6, 7.6, 8.6]
    # 2.0 to 3.5 would hold a window and half of one, 6.5 to 6.6 part of one; 9.6 to 10 is left over
    assert plan.drops == {"invalid times": 3, "incomplete at the end of a stretch": 1}


def test_the_last_bins_are_dropped_shifted_or_padded():
    source = recording(stop=2.5, spikes=[2.45])
    assert plan_and_starts(source, overlap=0, on_last_window="drop")[1] == [0.0, 1.0]
    assert plan_and_starts(source, overlap=0, on_last_window="overlap")[1] == [0.0, 1.0, 1.5]
    plan, starts, block = plan_and_starts(source, overlap=0, on_last_window="pad")
    assert starts == [0.0, 1.0, 2.0]
    assert block.columns["valid"].sum(axis=1).tolist() == [100, 100, 50]
    assert plan.drops == {}
    assert block.columns["spikes"].sum() == 501


def test_padding_shows_nothing_of_what_lies_behind_the_stretch():
    bad = intervals("invalid", [1.5], [2.0], modality="invalid")
    x = irregular("x", np.ones((400, 1)), np.arange(400) / 100)
    lfp = regular("lfp", np.ones((4000, 1)), 1000.0)
    source = recording(bad, x, lfp, stop=4.0)
    _, starts, block = plan_and_starts(source, overlap=0, on_last_window="pad", spikes="both")
    assert starts == [0.0, 1.0, 2.0, 3.0]
    assert block.columns["valid"][1].tolist() == [True] * 50 + [False] * 50
    assert block.columns["spikes"][1, 50:].sum() == 0
    assert np.isnan(block.columns["behavior"][1, 50:]).all()
    assert np.isnan(block.columns["lfp"][1, 500:]).all()
    assert not block.columns["lfp_valid"][1, 500:].any()
    assert (block.columns["spike_times"][1] < 0.5).all()
    assert len(block.columns["spike_times"][1]) == block.columns["spikes"][1].sum()


def test_epochs_are_chosen_by_tag():
    rows = intervals(
        "epochs",
        [0.0, 4.0, 8.0],
        [4.0, 8.0, 12.0],
        {"tags": [["sleep"], ["wake", "run"], ["sleep"]]},
        modality="epochs",
    )
    source = InMemoryRecording([events("units", {"a": np.linspace(0.1, 11.9, 50)}), rows])
    plan, starts, _ = plan_and_starts(source, overlap=0, epochs=("wake",))
    assert starts == [4.0, 5.0, 6.0, 7.0]
    assert plan.drops == {"outside the chosen epochs": 8}
    with pytest.raises(SourceError, match="no epoch carries the tag nap; present: run, sleep, wake"):
        windowed(source, WindowOptions(epochs=("nap",)))


def test_a_named_modality_that_is_missing_is_an_error_that_lists_what_is_there():
    with pytest.raises(SourceError, match=r"f.nwb has no lfp; it has spikes, present: units \(1 ids\)"):
        windowed(recording(), WindowOptions(modalities=("spikes", "lfp")))


def test_a_session_without_a_modality_can_be_skipped_or_masked():
    plan, starts, _ = plan_and_starts(recording(), modalities=("spikes", "lfp"), missing="skip")
    assert starts == []
    assert plan.drops["session without lfp"] == 19
    _, starts, block = plan_and_starts(recording(), modalities=("spikes", "lfp", "behavior", "ophys"), missing="mask")
    assert len(starts) == 19
    assert block.columns["spikes"].sum() > 0
    assert block.columns["lfp"].shape == (19, 100, 0)
    assert not block.columns["lfp_valid"].any()
    assert block.columns["behavior_valid"].shape == (19, 100, 0)
    only_lfp = InMemoryRecording([regular("lfp", np.zeros((1000, 1)), 100.0)])
    for kind in ("counts", "events", "both"):
        samples = windowed(only_lfp, WindowOptions(modalities=("spikes", "lfp"), missing="mask", spikes=kind))
        block = samples.read(0, 3)
        assert set(block.columns) == {spec.name for spec in samples.plan().columns}


def test_nothing_to_convert_says_what_was_looked_for():
    with pytest.raises(NothingToConvertError, match="nothing in it has a time"):
        windowed(InMemoryRecording([]))
    table = intervals("presentations", [0.0], [1.0], modality="intervals")
    with pytest.raises(NothingToConvertError, match="looked for spikes, LFP, behaviour, imaging and events"):
        windowed(InMemoryRecording([table]))


def test_what_cannot_be_read_says_why_rather_than_that_there_is_nothing():
    def damaged():
        raise SourceError("units: the index wrapped around")

    units = replace(events("units", {"a": [1.0]}), read=damaged)
    with pytest.raises(SourceError, match="the index wrapped around"):
        windowed(InMemoryRecording([units]))
    behavior = regular("wheel", np.ones(100), 10.0, modality="behavior")
    plan = windowed(InMemoryRecording([units, behavior]), WindowOptions(modalities=("behavior",))).plan()
    assert any("the index wrapped around" in problem.what for problem in plan.problems)


def test_limit_windows_counts_the_rest():
    plan, starts, _ = plan_and_starts(recording(), overlap=0, limit_windows=3)
    assert starts == [0.0, 1.0, 2.0]
    assert plan.drops == {"beyond limit_windows": 7}


def test_the_column_valid_is_there_when_windows_can_be_partly_valid():
    assert "valid" not in plan_and_starts(recording())[2].columns
    for options in ({"masks": "always"}, {"on_last_window": "pad"}, {"invalid": "mask"}):
        plan, _, block = plan_and_starts(recording(), **options)
        assert block.columns["valid"].shape == (plan.num_samples, 100)


def test_the_plan_names_every_column_with_its_type_and_shape():
    streams = [
        irregular("x", np.ones((999, 2)), np.arange(999) / 100),
        regular("lfp", np.ones((4000, 3), dtype="<i2"), 400.0),
        regular("F", np.ones((100, 5)), 10.0, modality="ophys"),
    ]
    plan, _, block = plan_and_starts(recording(*streams), spikes="both", masks="always")
    assert [spec.name for spec in plan.columns] == list(block.columns)
    for spec in plan.columns:
        values = block.columns[spec.name]
        if spec.ragged:
            assert values.values.dtype == np.dtype(spec.dtype)
        else:
            assert (values.dtype, values.shape[1:]) == (np.dtype(spec.dtype), spec.shape)
    empty = windowed(recording(*streams), WindowOptions(spikes="both", masks="always")).read(4, 4)
    assert set(empty.columns) == set(block.columns)
    assert len(empty) == 0


def test_ranges_out_of_bounds_are_refused_and_closing_closes_the_recording():
    closed = []
    source = InMemoryRecording([events("units", {"a": np.linspace(0, 5, 40)})], on_close=lambda: closed.append(1))
    with windowed(source) as samples:
        for start, stop in [(-1, 2), (0, 999), (3, 2)]:
            with pytest.raises(SampleIndexError, match="out of range"):
                samples.read(start, stop)
    samples.close()
    assert closed == [1]
    assert isinstance(source, Recording)


def test_the_share_of_windows_in_which_a_modality_is_valid_is_said():
    behavior = regular("x", np.arange(440.0), 100.0, t0=0.0, modality="behavior")
    samples = windowed(recording(behavior, stop=10.0), WindowOptions(sequence_length=100, overlap=0))
    plan = samples.plan()
    mask = np.asarray(samples.read(0, 10).columns["behavior_valid"])
    share = mask.all(axis=(1, 2)).mean()
    assert plan.metadata["valid_share"] == {"spikes": 1.0, "behavior": share} == {"spikes": 1.0, "behavior": 0.4}
    assert not [problem for problem in plan.problems if problem.where == "behavior"]
    kept = windowed(recording(behavior, stop=10.0), WindowOptions(sequence_length=100, overlap=0, min_valid_fraction=1))
    assert kept.plan().num_samples == 4
    brief = regular("x", np.arange(110.0), 100.0, t0=0.0, modality="behavior")
    plan = windowed(recording(brief, stop=300.0), WindowOptions(sequence_length=100, overlap=0)).plan()
    assert [problem.severity for problem in plan.problems if problem.where == "behavior"] == ["warning"]


def test_a_modality_that_is_not_known_is_refused_with_those_that_are():
    recording = InMemoryRecording([events("units", {"1": [0.5, 1.25]}, modality="spiking")])
    said = r"units: its plugin calls it 'spiking' \(did you mean 'spikes'\?\), which is none of spikes, lfp"
    with pytest.raises(SourceError, match=said):
        windowed(recording)
