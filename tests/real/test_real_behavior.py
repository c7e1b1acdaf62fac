"""Behaviour and trials of the real recordings equal an independent computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference_files import epochs, event_times, series, spike_trains, to_ns, trial_table
from reference_recordings import LICKS
from reference_windows import centres, circular_distance, counts, extent, fixed_starts, interpolated, trials_around

from neurofm_shards.errors import SourceError

pytestmark = pytest.mark.plugins
pytest.importorskip("h5py")

A2929 = "A2929_head_direction.nwb"
ANGLES = [f"acquisition/CompassDirection/{name}" for name in ("rx", "ry", "rz")]
PLACES = [f"acquisition/Position/{name}" for name in "xyz"]
AIND = "aind_689514_behavior_only.nwb"
AIND_EVENTS = [
    f"acquisition/{name}"
    for name in (
        "FIP_falling_time",
        "FIP_rising_time",
        "left_lick_time",
        "left_reward_delivery_time",
        "optogenetics_time",
        "right_lick_time",
        "right_reward_delivery_time",
    )
]


@pytest.fixture(scope="module")
def head_direction(shared_data, windows_of):
    """The windows of A2929, with the middle of each of their bins."""
    path = shared_data / A2929
    start, stop = extent(epochs(path), spike_trains(path)[1])
    starts, _ = fixed_starts(start, stop, 10_000_000, 100, 100)
    plan, block = windows_of(A2929, overlap=0.0)
    return path, plan, block, centres(starts, 10_000_000, 100)


def column_of(plan, path):
    return next(row for row, entry in enumerate(plan.tables["features"]) if entry["path"] == path)


@pytest.mark.parametrize("where", PLACES)
def test_positions_at_bin_centres(head_direction, where):
    path, plan, block, at = head_direction
    wanted, known = interpolated(*series(path, where), at)
    column = column_of(plan, where)
    assert np.array_equal(block.columns["behavior_valid"][:, :, column], known)
    assert np.allclose(block.columns["behavior"][:, :, column][known], wanted[known], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("where", ANGLES)
def test_headings_at_bin_centres_stay_on_the_circle(head_direction, where):
    path, plan, block, at = head_direction
    wanted, known = interpolated(*series(path, where), at, period=math.tau)
    column = column_of(plan, where)
    values = block.columns["behavior"][:, :, column]
    assert np.array_equal(block.columns["behavior_valid"][:, :, column], known)
    assert values[known].min() >= 0
    assert values[known].max() < np.float32(math.tau)
    assert circular_distance(values[known].astype(np.float64), wanted[known], math.tau).max() < 2e-6


def test_behaviour_is_unknown_before_tracking_began(head_direction):
    _, _, block, at = head_direction
    early = at < 670.6
    assert early.any()
    assert not block.columns["behavior_valid"][early].any()
    assert np.isnan(block.columns["behavior"][early]).all()
    assert block.columns["behavior_valid"][(at > 670.7) & (at < 1199.9)].all()


def test_where_a_bin_ends_on_a_time_stamp_the_value_is_the_files_own(shared_data, windows_of):
    times, values = series(shared_data / A2929, PLACES[0])
    _, block = windows_of(
        A2929,
        modalities=("behavior",),
        behavior=({"path": PLACES[0], "at": "bin_end"},),
        bin_size_ms=0.05,
        sampling="trial",
        trial_table="intervals/position_time_support",
        align_range_ms=(0.0, 1000.0),
    )
    ends = to_ns(block.metadata[0]["window_start_s"]) + (np.arange(20_000) + 1) * 50_000
    rows = np.flatnonzero(np.isin(to_ns(times), ends))
    assert len(rows) > 100
    found = block.columns["behavior"][0, :, 0][np.searchsorted(ends, to_ns(times)[rows])]
    assert np.array_equal(found, values[rows].astype(np.float32))


def test_aind_is_behaviour_alone_on_its_own_clock(shared_data, windows_of):
    path = shared_data / AIND
    plan, block = windows_of(AIND, overlap=0.0)
    assert set(block.columns) == {"behavior", "behavior_valid", "behavior_features"}
    trains = event_times(path, AIND_EVENTS)
    start, stop = extent(None, trains, trial_table(path))
    starts, left = fixed_starts(start, stop, 10_000_000, 100, 100)
    assert [entry["window_start_s"] for entry in block.metadata] == (starts / 1e9).tolist()
    assert sum(plan.drops.values()) == left
    assert [entry["path"] for entry in plan.tables["features"]] == AIND_EVENTS
    known = np.array([len(train) > 0 for train in trains])
    wanted = np.where(known, counts(trains, starts, 10_000_000, 100), np.nan)
    assert known.sum() == 5
    assert np.array_equal(block.columns["behavior"], wanted, equal_nan=True)
    assert (block.columns["behavior_valid"] == known).all()
    assert (
        block.metadata[0]["window_start_s"] == 1301166.154496
    )  # a trial begins a second and a half before the first event


@pytest.mark.parametrize("name", [AIND, "anm00239123_photostim_trials.nwb"])
def test_trial_rows_and_labels_of_fixed_windows(shared_data, windows_of, name):
    table = trial_table(shared_data / name)
    labels = ("animal_response", "rewarded_historyL", "laser_location") if name == AIND else ("type", "cue_start_time")
    _, block = windows_of(name, label_columns=labels)
    starts = to_ns([entry["window_start_s"] for entry in block.metadata])
    stops = to_ns([entry["window_stop_s"] for entry in block.metadata])
    rows = trials_around(to_ns(table["start_time"]), to_ns(table["stop_time"]), starts, stops)
    assert [entry["trial"] for entry in block.metadata] == rows
    assert any(row >= 0 for row in rows)
    for entry, row in zip(block.metadata, rows, strict=True):
        for label in labels:
            wanted = table[label][row] if row >= 0 else None
            wanted = None if isinstance(wanted, float) and math.isnan(wanted) else wanted
            assert (entry[label] or None) == (wanted or None)


def test_windows_around_cues_hold_the_reference_counts(shared_data, windows_of):
    name = "anm00239123_photostim_trials.nwb"
    table, (_, trains) = trial_table(shared_data / name), spike_trains(shared_data / name)
    plan, block = windows_of(
        name, sampling="trial", align_field="cue_start_time", align_range_ms=(-500.0, 1000.0), modalities=("spikes",)
    )
    cues = np.array(table["cue_start_time"])
    low, high = extent(None, trains, table)
    starts = to_ns(cues[np.isfinite(cues)]) - 500_000_000
    inside = (starts >= low) & (starts + 1_500_000_000 <= high)
    assert np.array_equal(block.columns["spikes"], counts(trains, starts[inside], 10_000_000, 150))
    assert [entry["trial"] for entry in block.metadata] == np.flatnonzero(np.isfinite(cues))[inside].tolist()
    assert plan.drops["trial without cue_start_time"] == int(np.isnan(cues).sum()) == 70
    assert sum(plan.drops.values()) == 70 + int((~inside).sum())


RELATIVE = ("cue_start_time", "pole_in_time", "pole_out_time")


def test_trials_that_count_from_their_own_start_are_refused_until_they_are_declared_so(shared_data, windows_of):
    name = "anm372793_unsorted_spikes.nwb"
    choice = {
        "sampling": "trial",
        "align_field": "cue_start_time",
        "align_range_ms": (-500.0, 500.0),
        "modalities": ("spikes",),
    }
    with pytest.raises(SourceError, match=r"cue_start_time, pole_in_time, pole_out_time .*relative_columns="):
        windows_of(name, **choice)
    with pytest.raises(SourceError, match="relative_columns="):
        windows_of(name, label_columns=("type",))
    table, (_, trains) = trial_table(shared_data / name), spike_trains(shared_data / name)
    plan, block = windows_of(name, relative_columns=RELATIVE, **choice)
    starts = to_ns(np.array(table["start_time"]) + np.array(table["cue_start_time"])) - 500_000_000
    low, high = extent(None, [*trains, *event_times(shared_data / name, LICKS)], table)
    inside = (starts >= low) & (starts + 1_000_000_000 <= high)
    assert np.array_equal(block.columns["spikes"], counts(trains, starts[inside], 10_000_000, 100))
    assert sum(plan.drops.values()) == int((~inside).sum())


def test_fixed_windows_of_such_a_file_go_on_without_trials_and_say_so(windows_of):
    plan, block = windows_of("anm372793_unsorted_spikes.nwb")
    assert {entry["trial"] for entry in block.metadata} == {-1}
    assert any("relative_columns" in problem.consequence for problem in plan.problems)
