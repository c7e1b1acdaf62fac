"""What `inspect` says of recordings and samples, also of those that cannot be converted."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from neurofm_shards.errors import SourceError
from neurofm_shards.plugins.interfaces import Inspection, Source
from neurofm_shards.recordings import InMemoryRecording, IrregularStream, WindowOptions, windowed
from neurofm_shards.recordings.inspection import grouped, inspect_input, inspect_recording, inspect_samples, stream_rows
from neurofm_shards.recordings.memory import events, intervals, irregular, regular
from neurofm_shards.types import Problem


class OneRecording(Source):
    def __init__(self, *streams):
        self.streams = streams
        self.closed = []

    def open(self, paths):
        return InMemoryRecording(
            self.streams, facts={"species": "mouse"}, on_close=lambda: self.closed.append(True), source_file="f.nwb"
        )


def inspected(*streams):
    source = OneRecording(*streams)
    found = inspect_input(source, ("/folder/f.nwb",))
    assert source.closed == [True]
    json.dumps(found.tree, allow_nan=False)
    assert found.title == "f.nwb"
    return found


def test_series_in_blocks_are_said_with_the_rate_that_they_are_given():
    found = inspected(irregular("daq", np.zeros(600), np.repeat(np.arange(6.0), 100)))
    leaf = found.tree["behavior"]["daq"]
    assert (leaf["time stamps"], leaf["rate_hz"], leaf["gaps"]) == ("regular", pytest.approx(100), 0)
    assert any("blocks of 100, one every 1 s" in problem.what for problem in found.problems)


def test_units_are_said_with_number_rates_and_columns():
    unit = events("units", {"6": np.linspace(0.1, 9, 50), "9": [1.0]}, table=[{"quality": "good"}, {"quality": "mua"}])
    leaf = inspected(unit).tree["spikes"]["units"]
    assert (leaf["number"], leaf["events"], leaf["columns"], leaf["ids"]) == (2, 51, ["quality"], ["6", "9"])
    assert leaf["rates_hz"]["most"] > leaf["rates_hz"]["least"]


def test_series_are_said_with_shape_clock_gaps_unit_and_scale():
    times = np.concatenate([np.arange(100), np.arange(100) + 400]) / 100
    streams = (
        regular("lfp", np.zeros((1000, 4), "<i2"), 500.0, 2.0, unit="V", scale=1e-6, calibrated=False),
        irregular("heading", np.zeros((200, 1)), times, unit="rad", circular=(0.0, 6.28)),
        irregular("wheel", np.zeros((200, 1)), times + np.random.default_rng(0).uniform(0, 0.009, 200)),
    )
    found = inspected(*streams)
    lfp = found.tree["lfp"]["lfp"]
    assert (lfp["shape"], lfp["rate_hz"], lfp["first_s"], lfp["unit"], lfp["scale"]) == (
        [1000, 4],
        500.0,
        2.0,
        "V",
        1e-6,
    )
    assert any("uncalibrated" in problem.consequence for problem in found.problems)
    heading = found.tree["behavior"]["heading"]
    assert (heading["time stamps"], heading["gaps"], heading["values"]) == ("regular", 1, "circular")
    wheel = found.tree["behavior"]["wheel"]
    assert (wheel["time stamps"], wheel["gaps"]) == ("irregular", 1)


def test_interval_tables_are_said_with_columns_and_what_is_odd():
    start = 300.0 + 6.4 * np.arange(9)
    table = intervals("trials", start, [math.nan] * 9, {"cue_time": [1.5] * 9})
    found = inspected(table)
    leaf = found.tree["trials"]["trials"]
    assert (leaf["rows"], leaf["columns"], leaf["without a stop time"]) == (9, ["cue_time"], 9)
    assert leaf["relative to the trial's start"] == ["cue_time"]
    assert any("relative_columns=cue_time" in problem.consequence for problem in found.problems)


def test_what_cannot_be_used_is_said_beside_what_can():
    def broken():
        raise SourceError("f.nwb: x: 3 time stamps for 4 samples")

    bad = IrregularStream(
        path="x", modality="behavior", shape=(4,), dtype="<f8", read=lambda *_: np.zeros(4), timestamps=broken
    )
    found = inspected(bad, events("units", {"a": [0.1, 0.5]}), irregular("gone", np.zeros((2, 1)), [math.nan] * 2))
    assert "3 time stamps" in found.tree["behavior"]["x"]["cannot be used"]
    assert found.tree["spikes"]["units"]["events"] == 2
    assert found.tree["behavior"]["gone"]["time stamps"] == "none is a number"
    assert {problem.severity for problem in found.problems} >= {"error"}


def test_a_modality_that_is_not_known_is_a_problem_that_lists_those_that_are():
    found = inspected(events("units", {"1": [0.5, 1.25]}, modality="eeg"))
    problem = found.problems[0]
    assert problem.severity == "error"
    assert "units: its plugin calls it 'eeg', which is none of spikes, lfp, raw" in problem.what


def test_an_input_that_does_not_open_is_a_problem_not_a_crash():
    class Refusing(Source):
        def open(self, paths):
            raise SourceError("f.nwb: truncated")

    found = inspect_input(Refusing(), ("f.nwb",))
    assert found.tree == {}
    assert [(problem.what, problem.severity) for problem in found.problems] == [("truncated", "error")]
    assert "nothing in it has a time" in inspected().problems[0].what


def test_samples_are_said_with_columns_and_drops():
    samples = windowed(InMemoryRecording([events("units", {"a": np.linspace(0, 2.5, 30)})]), WindowOptions(overlap=0))
    tree = inspect_samples(samples, "x").tree
    assert tree["samples"] == 2
    assert tree["columns"]["spikes"] == {"dtype": "|u1", "shape": [100, 1], "unit": "count"}
    assert tree["left out"] == {"incomplete at the end of a stretch": 1}


@pytest.mark.parametrize("named", ["", "a file.nwb: ", "/some/folder/a file.nwb: "])
def test_problems_do_not_begin_with_the_name_of_their_input(named):
    class Refusing(Source):
        def open(self, paths):
            raise SourceError(f"{named}damaged at 3: cut off")

    (problem,) = inspect_input(Refusing(), ("/some/folder/a file.nwb",)).problems
    assert problem.what == "damaged at 3: cut off"


def test_a_source_that_told_why_an_input_is_refused_is_not_repeated():
    known = Problem("a", "nothing to convert", "convert refuses it", "error")
    refused = InMemoryRecording([], source_file="a", problems=(known,))
    assert inspect_recording(refused, "a").problems == (known,)


TREE = {
    "session": {"session_id": "s1"},
    "time": {"start_s": 0.0, "stop_s": 9.0, "seconds": 9.0},
    "spikes": {
        "units": {"number": 3, "events": 1200, "first_s": 0.5, "last_s": 8.5, "rates_hz": {"least": 1.0, "most": 9.25}}
    },
    "lfp": {
        "a/lfp": {"shape": [9000, 4], "unit": "V", "rate_hz": 1e3, "first_s": 0.0, "seconds": 9.0, "values": "step"}
    },
    "behavior": {
        f"a/pos{i}": {"shape": [90], "unit": "cm", "median_rate_hz": 10.0, "first_s": i, "last_s": 8, "gaps": 2}
        for i in range(4)
    },
    "trials": {"trials": {"rows": 12, "columns": ["start"], "without a stop time": 12}},
    "events": {"bad": {"cannot be used": "3 time stamps for 4 values"}},
    "not converted": {"scratch": "DynamicTable, 1 row"},
}  # fmt: skip


def test_each_stream_is_a_row_with_what_is_known_of_it():
    rows = {row.name: row for row in stream_rows(Inspection("f", TREE))}
    assert len(rows) == 9
    units, lfp = rows["units"], rows["a/lfp"]
    assert (units.modality, units.size, units.rate, units.first_s) == (
        "spikes",
        "3 x 1,200 events",
        "1 to 9.25 Hz",
        0.5,
    )
    assert (lfp.size, lfp.rate, lfp.unit, lfp.last_s, lfp.notes) == ("9,000 x 4", "1000 Hz", "V", 9.0, "step")
    assert rows["trials"].notes == "12 without a stop time"
    assert rows["bad"].notes == "cannot be used: 3 time stamps for 4 values"
    assert rows["scratch"].notes == "DynamicTable, 1 row"


def test_streams_that_are_alike_share_a_row():
    rows = grouped(stream_rows(Inspection("f", TREE)))
    (joined,) = [row for row in rows if len(row.names) > 1]
    assert joined.name == "4 alike: a/pos0 ... pos3"
    assert (joined.first_s, joined.last_s, joined.rate, joined.notes) == (0.0, 8.0, "~10 Hz", "2 gaps")
    assert sum(len(row.names) for row in rows) == 9


def refusals(streams):
    """Return what conversion says where it refuses a recording."""
    try:
        windowed(InMemoryRecording(streams), WindowOptions())
    except SourceError as error:
        return [str(error)]
    return []


@pytest.mark.parametrize("factor", [1.0, 1e3, 1e6])
def test_times_that_conversion_refuses_are_told_as_it_tells_them(factor):
    rng = np.random.default_rng(0)
    spikes = events("units", {"a": np.sort(rng.uniform(0, 60, 600)) * factor})
    lever = irregular("lever", np.zeros((6000, 1)), np.sort(rng.uniform(0, 60, 6000)) * (1.0 if factor == 1 else 1e4))
    for streams in ([spikes, regular("lfp", np.zeros((6000, 1)), 100.0)], [lever, regular("lfp", np.zeros(600), 10.0)]):
        told = [problem for problem in inspected(*streams).problems if problem.severity == "error"]
        assert [f"{problem.where}: {problem.what}" for problem in told] == refusals(streams)
    assert bool([problem for problem in inspected(spikes, streams[1]).problems if problem.severity == "error"]) == (
        factor > 1
    )
