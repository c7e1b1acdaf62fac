"""Spikes in windows, against plain loops.

Broken on purpose, each of these is caught here: a bin off by one (``ticks - start + 1``), spikes outside clipped into
the end bins, floating floor division in place of ticks, closed last bin, counts that wrap, unsorted times left
unsorted, the units of a filter not renumbered, unobserved time counted as silence.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.errors import ConfigError, SourceError
from neurofm_shards.recordings import InMemoryRecording, WindowOptions, windowed
from neurofm_shards.recordings.memory import events, intervals, regular
from neurofm_shards.recordings.trains import in_order


def epochs(start, stop):
    return intervals("epochs", [start], [stop], modality="epochs")


def starts_of(samples):
    block = samples.read(0, samples.plan().num_samples)
    return [round(said["window_start_s"] * 1e9) for said in block.metadata], block


seconds = st.floats(min_value=0, max_value=2.0, allow_nan=False).map(lambda t: round(t, 4))
trains = st.lists(st.lists(st.one_of(seconds, st.just(float("nan"))), max_size=30), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    trains=trains,
    origin=st.sampled_from([0.0, 1498.888201, 4.3e6]),
    bin_ms=st.sampled_from([10.0, 7.5, 33.3]),
    length=st.integers(1, 12),
    stride=st.integers(1, 15),
)
def test_counts_are_those_of_a_plain_loop(reference, trains, origin, bin_ms, length, stride):
    shifted = [[t + origin for t in times] for times in trains]
    streams = [events("units", {str(i): times for i, times in enumerate(shifted)}), epochs(origin, origin + 2)]
    options = WindowOptions(bin_size_ms=bin_ms, sequence_length=length, stride=stride, suspicious_spike_times="allow")
    samples = windowed(InMemoryRecording(streams), options)
    starts, block = starts_of(samples)
    bin_ticks = round(bin_ms * 1e6)
    first = reference.tick(origin)
    assert starts == [first + k * bin_ticks for k in reference.tiles(0, int(2e9 // bin_ticks), length, stride)]
    np.testing.assert_array_equal(block.columns["spikes"], reference.counts(shifted, starts, length, bin_ticks))


@settings(max_examples=40, deadline=None)
@given(trains=trains, bin_ms=st.sampled_from([1.0, 10.0, 50.0]))
def test_the_counts_of_a_tiling_add_up_to_the_spikes_in_it(trains, bin_ms):
    streams = [events("units", {str(i): times for i, times in enumerate(trains)}), epochs(0.0, 2.0)]
    options = WindowOptions(bin_size_ms=bin_ms, sequence_length=20, overlap=0, suspicious_spike_times="allow")
    samples = windowed(InMemoryRecording(streams), options)
    _, block = starts_of(samples)
    inside = sum(1 for times in trains for t in times if 0 <= t < 2.0)
    assert block.columns["spikes"].sum() == inside


def test_a_spike_on_an_edge_belongs_to_the_bin_that_begins_there():
    streams = [events("units", {"a": [0.29, 0.57, 0.58]}), epochs(0, 1)]
    counts = windowed(InMemoryRecording(streams), WindowOptions(overlap=0)).read(0, 1).columns["spikes"][0, :, 0]
    assert np.flatnonzero(counts).tolist() == [29, 57, 58]


def test_unsorted_times_and_not_a_number_are_sorted_dropped_and_counted():
    unit = events("units", {"a": [0.5, 0.1, np.nan, 0.3, 0.2], "b": [0.4]})
    samples = windowed(InMemoryRecording([unit, epochs(0, 1)]), WindowOptions(spikes="both"))
    facts = samples.plan().metadata["modalities"]["spikes"]
    assert (facts["total"], facts["not_a_number"], facts["unsorted_steps"], facts["kept"]) == (6, 1, 2, 5)
    said = [problem.what for problem in samples.plan().problems]
    assert any("1 of 6 times are not a number" in what for what in said)
    times = samples.read(0, 1).columns["spike_times"][0]
    np.testing.assert_allclose(times, [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)


def test_spikes_outside_are_excluded_and_reported_never_clipped():
    unit = events("units", {"a": [-0.001, 0.0, 0.999999, 1.0, 5.0]})
    samples = windowed(InMemoryRecording([unit, epochs(0, 1)]), WindowOptions())
    assert samples.read(0, 1).columns["spikes"].sum() == 2
    assert any("3 of 5 times lie outside" in problem.what for problem in samples.plan().problems)


def test_too_many_spikes_in_a_bin_are_an_error_that_names_the_option():
    unit = events("units", {"a": np.linspace(0.1, 0.101, 300)})
    recording = InMemoryRecording([unit, epochs(0, 1)])
    with pytest.raises(SourceError, match="counts_dtype=uint16"):
        windowed(recording, WindowOptions()).read(0, 1)
    counts = windowed(recording, WindowOptions(counts_dtype="uint16")).read(0, 1).columns["spikes"]
    assert (counts.dtype, counts.max()) == (np.uint16, 300)


def test_the_stored_type_follows_from_the_bin_size():
    recording = InMemoryRecording([events("units", {"a": [0.1]}), epochs(0, 30)])
    assert windowed(recording, WindowOptions(bin_size_ms=50)).plan().columns[0].dtype == "|u1"
    assert windowed(recording, WindowOptions(bin_size_ms=51)).plan().columns[0].dtype == "<u2"


@settings(max_examples=40, deadline=None)
@given(trains=st.lists(st.lists(seconds, max_size=30), min_size=1, max_size=4))
def test_events_can_be_binned_again(reference, trains):
    streams = [events("units", {str(i): times for i, times in enumerate(trains)}), epochs(0, 2)]
    options = WindowOptions(spikes="both", sequence_length=50, bin_size_ms=20, suspicious_spike_times="allow")
    samples = windowed(InMemoryRecording(streams), options)
    block = samples.read(0, samples.plan().num_samples)
    times, units = block.columns["spike_times"], block.columns["spike_units"]
    assert times.values.dtype == np.float32
    for i in range(len(block)):
        assert (times[i] < 1.0).all()
        assert len(times[i]) == block.columns["spikes"][i].sum()
        per_unit = np.bincount(units[i], minlength=len(trains))
        np.testing.assert_array_equal(per_unit, block.columns["spikes"][i].sum(axis=0))
        assert (np.diff(times[i]) >= 0).all()


def test_events_alone_carry_their_units_too():
    recording = InMemoryRecording([events("units", {"a": [0.1], "b": [0.2]}), epochs(0, 1)])
    samples = windowed(recording, WindowOptions(spikes="events"))
    assert [spec.name for spec in samples.plan().columns] == ["spike_times", "spike_units", "unit_ids"]
    assert samples.plan().columns[2].table == "units"


def test_units_are_known_by_their_own_ids():
    unit = events("units", {"191": [0.1], "6": [0.2, 0.3]}, table=[{"quality": "good"}, {"quality": "mua"}])
    samples = windowed(InMemoryRecording([unit, epochs(0, 1)], session_id="ses.01/a"), WindowOptions())
    rows = samples.plan().tables["units"]
    assert [row["id"] for row in rows] == ["ses.01/a/units/191", "ses.01/a/units/6"]
    assert [row["num_spikes"] for row in rows] == [1, 2]
    assert rows[1]["firing_rate_hz"] == pytest.approx(2.0)
    assert samples.read(0, 1).columns["unit_ids"].tolist() == [[0, 1]]


def test_ids_that_repeat_are_an_error():
    unit = events("units", {"a": [0.1]})
    twice = type(unit)(path="units", modality="spikes", read=unit.read, owners=("7", "7"))
    with pytest.raises(SourceError, match="more than once: 7"):
        windowed(InMemoryRecording([twice, epochs(0, 1)]), WindowOptions())


def test_filters_keep_units_and_renumber_them():
    table = [{"quality": "good"}, {"quality": None}, {"quality": "good"}]
    unit = events("units", {"a": [0.1], "b": [0.2], "c": [0.3, 0.4, 0.5]}, table=table)
    recording = InMemoryRecording([unit, epochs(0, 1)])
    samples = windowed(recording, WindowOptions(unit_filter='quality == "good"', min_firing_rate_hz=0.5))
    assert [row["unit"] for row in samples.plan().tables["units"]] == ["a", "c"]
    assert samples.read(0, 1).columns["spikes"].sum(axis=(0, 1)).tolist() == [1, 3]
    fast = windowed(recording, WindowOptions(min_firing_rate_hz=2.0))
    assert [row["unit"] for row in fast.plan().tables["units"]] == ["c"]
    none = windowed(recording, WindowOptions(min_firing_rate_hz=1e3, spikes="both"))
    assert none.read(0, 1).columns["spikes"].shape == (1, 100, 0)
    assert any("none of 3 units is left" in problem.what for problem in none.plan().problems)
    with pytest.raises(ConfigError, match="depth.*firing_rate_hz.*quality"):
        windowed(recording, WindowOptions(unit_filter="depth > 3"))


def test_times_that_look_like_sample_numbers_are_refused_unless_allowed():
    unit = events("units", {"a": np.arange(1, 21) * 30.0})
    with pytest.raises(SourceError, match="look like sample numbers.*suspicious_spike_times=allow"):
        windowed(InMemoryRecording([unit]), WindowOptions())
    allowed = windowed(InMemoryRecording([unit]), WindowOptions(suspicious_spike_times="allow"))
    assert any("sample numbers" in problem.what for problem in allowed.plan().problems)


def test_times_that_restart_in_every_trial_are_refused_and_a_few_steps_back_are_not():
    rng = np.random.default_rng(0)
    restarting = np.concatenate([np.sort(rng.random(10)) * 3 for _ in range(20)])
    with pytest.raises(SourceError, match="restarted in every trial"):
        windowed(InMemoryRecording([events("units", {"a": restarting})]), WindowOptions())
    steady = np.sort(rng.random(2434)) * 2000
    steady[100::120] -= 15
    windowed(InMemoryRecording([events("units", {"a": steady})]), WindowOptions())


def test_several_unit_tables_are_a_choice():
    recording = InMemoryRecording([events("units", {"a": [0.1]}), events("sorted/units2", {"b": [0.2]}), epochs(0, 1)])
    with pytest.raises(SourceError, match=r"units \(1 ids\), sorted/units2 \(1 ids\).*unit_table_path"):
        windowed(recording, WindowOptions())
    samples = windowed(recording, WindowOptions(unit_table_path="units2"))
    assert samples.plan().tables["units"][0]["unit"] == "b"
    with pytest.raises(SourceError, match="matches nothing; present: units"):
        windowed(recording, WindowOptions(unit_table_path="nowhere"))


def test_units_observed_alike_bound_the_windows():
    spans = np.array([[1.0, 3.0]])
    unit = events("units", {"a": [0.5, 2.0], "b": [2.5]}, observed=lambda: [spans, spans])
    samples = windowed(InMemoryRecording([unit, epochs(0, 4)]), WindowOptions(overlap=0))
    block = samples.read(0, samples.plan().num_samples)
    assert [said["window_start_s"] for said in block.metadata] == [1.0, 2.0]
    assert samples.plan().drops == {"not observed": 2}
    assert "spikes_valid" not in block.columns
    assert samples.plan().tables["units"][0]["firing_rate_hz"] == pytest.approx(0.5)


def test_units_observed_at_different_times_get_a_mask_each():
    observed = [np.array([[0.0, 2.0]]), np.array([[1.005, 2.0]]), None]
    unit = events("units", {"a": [0.5], "b": [1.5], "c": []}, observed=lambda: observed)
    samples = windowed(InMemoryRecording([unit, epochs(0, 2)]), WindowOptions(overlap=0))
    mask = samples.read(0, 2).columns["spikes_valid"]
    assert mask[:, :, 0].all()
    assert mask[:, :, 2].all()
    assert not mask[0, :, 1].any()
    assert np.flatnonzero(~mask[1, :, 1]).tolist() == [0], "a bin that is observed in part is not observed"
    strict = windowed(InMemoryRecording([unit, epochs(0, 2)]), WindowOptions(overlap=0, min_valid_fraction=0.9))
    assert strict.plan().drops == {"below min_valid_fraction: spikes": 1}


def test_a_garbage_time_does_not_decide_how_long_a_recording_is():
    rng = np.random.default_rng(0)
    unit = events("units", {"a": [-1.5e9, *np.sort(rng.random(200) * 100 + 1500)]})
    plan = windowed(InMemoryRecording([unit]), WindowOptions()).plan()
    assert 1500 <= plan.metadata["origin_s"] < 1503
    assert any("1 of 201 times lie far from all others" in problem.what for problem in plan.problems)


def test_the_extent_does_not_depend_on_the_modalities_asked_for():
    streams = [events("units", {"a": [10.0, 20.0]}), regular("lfp", np.zeros((3000, 1)), 100.0, 5.0)]
    for modalities in (None, ("spikes",), ("lfp",)):
        plan = windowed(InMemoryRecording(streams), WindowOptions(modalities=modalities)).plan()
        assert plan.metadata["extent_s"] == [5.0, 35.0]


def test_event_streams_are_counted_when_asked_for_or_when_there_is_nothing_else():
    licks = events("licks", {"left": [0.105, 0.107], "right": [0.5]}, modality="events")
    alone = windowed(InMemoryRecording([licks, epochs(0, 1)]), WindowOptions())
    assert alone.read(0, 1).columns["events"].sum(axis=(0, 1)).tolist() == [2, 1]
    assert alone.plan().tables["codes"][1]["unit"] == "right"
    with_units = InMemoryRecording([licks, events("units", {"a": [0.1]}), epochs(0, 1)])
    assert "events" not in windowed(with_units, WindowOptions()).read(0, 1).columns
    both = windowed(with_units, WindowOptions(modalities=("spikes", "events")))
    assert {"events", "spikes"} <= set(both.read(0, 1).columns)


@given(
    data=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=60),
    listed=st.sampled_from(["unit by unit", "mixed"]),
    first=st.sampled_from([0, -5_000_000_000, 1_700_000_000_000_000_000]),
    apart=st.sampled_from([1, 10**9, 9 * 10**17]),
)
def test_times_are_sorted_as_a_stable_sort_would_whatever_lies_between_them(data, listed, first, apart):
    owners = np.array([owner for owner, _ in data], dtype=np.int32)
    if listed == "unit by unit":
        owners.sort()
    ticks = np.array([step for _, step in data], dtype=np.int64) * apart + first
    order = sorted(range(len(ticks)), key=ticks.tolist().__getitem__)
    found, whose = in_order(ticks.copy(), owners)
    assert found.tolist() == ticks[order].tolist()
    assert whose.tolist() == owners[order].tolist()
    assert whose.dtype == np.int32
