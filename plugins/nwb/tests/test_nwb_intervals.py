"""Tables of intervals: what each is for, ragged tags, missing stops, columns that count from the trial's start."""

from __future__ import annotations

import math

import numpy as np
import pytest

from neurofm_shards.errors import SourceError
from neurofm_shards.recordings import WindowOptions, windowed
from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.source import NwbSource

READERS = ("pynwb", "h5py")


def opened(path, reader="auto"):
    with NwbSource(NwbConfig(reader=reader)).open((str(path),)) as recording:
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


def trial_file(write_nwb):
    def fill(nwbfile):
        nwbfile.add_trial_column("side", "d")
        nwbfile.add_trial_column("contrast", "d")
        nwbfile.add_unit_column("quality", "d")
        for _ in range(6):
            nwbfile.add_unit(spike_times=np.arange(0, 10, 0.01), quality="good")
        for row in range(6):
            nwbfile.add_trial(start_time=row + 1.0, stop_time=row + 1.75, side="left", contrast=row / 4)

    return write_nwb(fill)


def leave_unwritten(path, place, rows=(2, 3)):
    """Store a column again in chunks of two rows, without one of them."""
    import h5py

    with h5py.File(path, "a") as file:
        values, said = file[place][()], dict(file[place].attrs)
        dtype = file[place].dtype
        del file[place]
        made = file.create_dataset(place, values.shape, dtype, chunks=(2,))
        for row in range(0, len(values), 2):
            if row not in rows:
                made[row : row + 2] = values[row : row + 2]
        made.attrs.update(said)


def cut(path, reader, **options):
    with NwbSource(NwbConfig(reader=reader)).open((str(path),)) as recording:
        samples = windowed(recording, WindowOptions(**options))
        plan = samples.plan()
        return plan, samples.read(0, plan.num_samples)


@pytest.mark.parametrize("reader", READERS)
def test_trials_whose_start_was_never_written_are_left_out_and_the_others_are_taken(write_nwb, reader):
    path = trial_file(write_nwb)
    leave_unwritten(path, "intervals/trials/start_time")
    plan, block = cut(path, reader, sampling="trial", align_range_ms=(0, 500))
    assert [said["trial"] for said in block.metadata] == [0, 1, 4, 5]
    assert [said["window_start_s"] for said in block.metadata] == [1.0, 2.0, 5.0, 6.0]
    assert plan.drops == {"trial without a start time": 2}
    found = {problem.where: problem.what for problem in plan.problems if problem.severity != "info"}
    assert found["intervals/trials"] == "2 rows: trial without a start time (the first: row 2)"
    assert "2 of 6 rows have no start time (the first: row 2)" in found["intervals/trials/start_time"]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("name", "values"), [
    ("side", ["left", "left", "", "", "left", "left"]), ("contrast", [0.0, 0.25, None, None, 1.0, 1.25]),
])  # fmt: skip
def test_values_of_a_column_that_were_never_written_are_unknown(write_nwb, reader, name, values):
    path = trial_file(write_nwb)
    leave_unwritten(path, f"intervals/trials/{name}")
    plan, block = cut(path, reader, sampling="trial", align_range_ms=(0, 500), label_columns=(name,))
    assert [said[name] for said in block.metadata] == values
    (found,) = [problem for problem in plan.problems if problem.where == f"intervals/trials/{name}"]
    assert found.what == "2 of 6 values were never written (the first: row 2)"


@pytest.mark.parametrize("reader", READERS)
def test_ids_of_units_that_were_never_written_stop_those_who_want_spikes(write_nwb, reader):
    path = trial_file(write_nwb)
    leave_unwritten(path, "units/quality")
    plan, _ = cut(path, reader)
    assert [row["quality"] for row in plan.tables["units"]] == ["good", "good", None, None, "good", "good"]
    leave_unwritten(path, "units/id")
    with pytest.raises(SourceError, match="units/id: 1 of its 3 chunks were never written.*which unit is which"):
        cut(path, reader)


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_column_of_trials_is_left_out_and_damaged_times_leave_the_table_out(write_nwb, reader):
    import h5py

    path = trial_file(write_nwb)
    for name in ("contrast", "stop_time"):
        with h5py.File(path, "a") as file:
            values, said = file[f"intervals/trials/{name}"][()], dict(file[f"intervals/trials/{name}"].attrs)
            del file[f"intervals/trials/{name}"]
            made = file.create_dataset(f"intervals/trials/{name}", data=values, chunks=(6,), compression="gzip")
            made.attrs.update(said)
            made.id.write_direct_chunk((0,), b"no deflate stream")
        streams, problems = opened(path, reader)
        (found,) = [odd for odd in problems if "a chunk is damaged" in odd.what and odd.severity == "error"]
        if name == "contrast":
            assert found.consequence == "the column is left out"
            assert streams["intervals/trials"].start.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert "intervals/trials" not in streams
    plan, _ = cut(path, reader)
    assert plan.num_samples
