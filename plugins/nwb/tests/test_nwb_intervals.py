"""Tables of intervals: what each is for, ragged tags, missing stops, columns that count from the trial's start."""

from __future__ import annotations

import math

import numpy as np
import pytest

from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.source import NwbSource

READERS = ("pynwb", "h5py")


def opened(path, reader="auto"):
    recording = NwbSource(NwbConfig(reader=reader)).open((str(path),))
    return {stream.path: stream for stream in recording.streams}, recording.problems


@pytest.mark.parametrize("reader", READERS)
def test_each_table_has_the_modality_its_name_says(write_nwb, reader):
    from pynwb.epoch import TimeIntervals

    def fill(nwbfile):
        nwbfile.add_trial(start_time=0.0, stop_time=1.0)
        nwbfile.add_epoch(0.0, 5.0, ["task"])
        nwbfile.add_invalid_time_interval(start_time=2.0, stop_time=3.0)
        shown = TimeIntervals(name="gratings_presentations", description="d")
        shown.add_row(start_time=0.5, stop_time=0.7)
        nwbfile.add_time_intervals(shown)

    streams, _ = opened(write_nwb(fill), reader)
    assert {path.removeprefix("intervals/"): stream.modality for path, stream in streams.items()} == {
        "trials": "trials",
        "epochs": "epochs",
        "invalid_times": "invalid",
        "gratings_presentations": "intervals",
    }


@pytest.mark.parametrize("reader", READERS)
def test_ragged_tags_are_lists_of_their_own_row(write_nwb, reader):
    def fill(nwbfile):
        nwbfile.add_epoch(0.0, 5.0, ["sleep", "dark"])
        nwbfile.add_epoch(5.0, 9.0, ["wake"])

    streams, _ = opened(write_nwb(fill), reader)
    assert streams["intervals/epochs"].columns["tags"] == [["sleep", "dark"], ["wake"]]


@pytest.mark.parametrize("reader", READERS)
def test_columns_keep_their_kind(write_nwb, reader):
    def fill(nwbfile):
        for name in ("side", "hit", "contrast", "count", "steps"):
            nwbfile.add_trial_column(name, "d")
        nwbfile.add_trial(start_time=0.0, stop_time=1.0, side="left", hit=True, contrast=0.5, count=3, steps=[1.0, 2.0])
        nwbfile.add_trial(
            start_time=1.0, stop_time=2.0, side="right", hit=False, contrast=np.nan, count=4, steps=[3.0, 4.0]
        )

    trials = opened(write_nwb(fill), reader)[0]["intervals/trials"]
    assert trials.columns["side"] == ["left", "right"]
    assert trials.columns["hit"] == [True, False]
    assert trials.columns["contrast"][0] == 0.5
    assert math.isnan(trials.columns["contrast"][1])
    assert trials.columns["count"] == [3, 4]
    assert trials.columns["steps"] == [[1.0, 2.0], [3.0, 4.0]]
    assert trials.columns["id"] == ["0", "1"]
    assert trials.start.dtype == np.float64


def trials_with(column, values, starts=None):
    def fill(nwbfile):
        nwbfile.add_trial_column(column, "d")
        for row, value in enumerate(values):
            start = 100.0 + 10 * row if starts is None else starts[row]
            nwbfile.add_trial(start_time=start, stop_time=np.nan, **{column: value})

    return fill


RELATIVE = [1.0, 1.2, 1.1, 1.4, 0.9]
SESSION = [101.0, 111.2, 121.1, 131.4, 140.9]


@pytest.mark.parametrize(
    ("column", "values", "relative"),
    [
        ("cue_time", RELATIVE, True),
        ("cue_onset", RELATIVE, True),
        ("cue_time", SESSION, False),
        ("cue_time", [1.0, np.nan, 1.1, 1.4, 0.9], True),
        ("previous_cue_time", [90.0, 101.0, 111.0, 121.0, 131.0], False),
        ("reaction_time", RELATIVE, False),
        ("valve_open_time", RELATIVE, False),
        ("delay_time", [-999.0] * 5, False),
        ("cue_time", [1.0] * 5, False),
        ("contrast", RELATIVE, False),
    ],
)
def test_columns_that_count_from_the_trials_start_are_recognised(write_nwb, column, values, relative):
    streams, problems = opened(write_nwb(trials_with(column, values)))
    assert streams["intervals/trials"].relative_columns == ((column,) if relative else ())
    assert relative == any("declared relative" in problem.consequence for problem in problems)


def test_missing_stops_stay_missing_and_are_counted(write_nwb):
    streams, problems = opened(write_nwb(trials_with("contrast", RELATIVE)))
    assert np.isnan(streams["intervals/trials"].stop).all()
    assert any("5 of 5 rows have no stop time" in problem.what for problem in problems)


def test_intervals_may_overlap_and_keep_their_order(write_nwb):
    def fill(nwbfile):
        for start, stop in ((5.0, 9.0), (0.0, 7.0), (2.0, 3.0)):
            nwbfile.add_trial(start_time=start, stop_time=stop)

    trials = opened(write_nwb(fill))[0]["intervals/trials"]
    assert trials.start.tolist() == [5.0, 0.0, 2.0]
    assert trials.stop.tolist() == [9.0, 7.0, 3.0]
