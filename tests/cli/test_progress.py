"""Progress: what is drawn on a terminal, what stands in a log, and what an event file holds."""

from __future__ import annotations

import io
import json
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from neurofm_shards.cli import progress as lines
from neurofm_shards.cli.main import run
from neurofm_shards.cli.progress import SaidNotes, progress_listener
from neurofm_shards.convert import progress
from neurofm_shards.convert.progress import Bars, Rates, duration_text, size_text
from neurofm_shards.events import (
    ActivityProgressed,
    CallRetried,
    ConversionStarted,
    InputPlanned,
    PlanningStarted,
    ShardCommitted,
    WorkersCounted,
)


@pytest.fixture
def clock(monkeypatch):
    """Let the test say what time it is."""
    now = SimpleNamespace(s=1000.0)
    for module in (progress, lines):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.s, time=lambda: 5e8 + now.s))
    return now


def started(total, finished=0):
    plan = {
        "total_shards": total,
        "total_samples": 100 * total,
        "inputs": ["a.nwb", "b.nwb"],
        "inputs_without_samples": [],
        "config": {},
    }
    return ConversionStarted(plan, {}, finished, 100 * finished)


def committed(k, samples=100, size=2_000_000, failures=()):
    entry = {"num_samples": samples, "shard_bytes": size}
    return ShardCommitted(k, entry, failures, "node17", 1.5)


def drawn(bars, width=80):
    """What is on the screen now."""
    screen = Console(width=width, file=io.StringIO(), legacy_windows=False)
    screen.print(bars.get_renderable())
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


@pytest.fixture
def bars(clock):
    console = Console(width=80, file=io.StringIO(), force_terminal=True, highlight=False, legacy_windows=False)
    return Bars(console)


def test_bars_show_counts_rates_workers_and_failures_in_80_columns(bars, clock):
    bars(PlanningStarted(2))
    bars(InputPlanned("a.nwb", 100))
    clock.s += 4
    first, rates = drawn(bars)
    assert " 1/2 " in first
    assert rates == "0.25 inputs/s"
    bars(InputPlanned("b.nwb", 0, error="b.nwb is damaged"))
    bars(started(100_000, finished=33_000))
    bars(WorkersCounted(64))
    clock.s += 10
    for k in range(20):
        bars(committed(k))
    bars(CallRetried("writing shard 7 (a.nwb)", 1, "killed"))
    opening, planning, writing, rates = drawn(bars)
    assert opening.startswith("opening inputs  ━")
    assert "2/2" in opening
    assert planning.startswith("planning shards ━")
    assert "100000/100000" in planning
    assert writing.startswith("writing shards  ━")
    assert "33020/100000" in writing
    assert rates == "2 shards/s, 200 samples/s, 4 MB/s, 64 workers, 2 failures"


def test_the_largest_numbers_are_not_cut(bars, clock):
    bars(started(1_000_000, finished=999_000))
    bars(WorkersCounted(4096))
    clock.s += 100
    for k in range(990):
        bars(committed(k, samples=1_000_000, size=10**10, failures=("x",)))
    lines = drawn(bars)
    assert "…" not in "".join(lines)
    assert " 999990/1000000 " in lines[0]
    assert lines[1:] == ["9.9 shards/s, 9,900,000 samples/s, 99 GB/s, 4096 workers, 990 failures"]


def test_a_lost_worker_is_seen_before_the_next_shard(bars):
    bars(started(10))
    bars(WorkersCounted(2))
    assert "2 workers" in drawn(bars)[1]
    bars(WorkersCounted(1))
    bars(CallRetried("writing shard 7 (a.nwb)", 1, "killed by SIGKILL"))
    assert drawn(bars)[1].endswith(", 1 worker, 1 failure")


def test_notes_are_broken_at_words_and_counted_where_they_are_alike():
    console = Console(width=60, file=io.StringIO(), force_terminal=True, no_color=True, highlight=False)
    with SaidNotes(console) as tell:
        tell(CallRetried("writing shard 7 (a.nwb)", 1, "killed by SIGKILL"))
        for number in range(6):
            name = f"sub-{number}.nwb"
            tell(InputPlanned(name, 5, (f"units: {number + 3} of 2,434 times come too early; sorted",)))
        tell(InputPlanned("z.nwb", 0, ("left out: no data", "and more"), "no data"))
        said = console.file.getvalue()
        assert said.count("too early") == 1
        tell(started(10))
    printed = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())
    assert [line.rstrip() for line in printed.splitlines()] == [
        "warning: again, after a worker was lost while writing shard",
        "  7 (a.nwb): killed by SIGKILL",
        "sub-0.nwb",
        "  warning: units: 3 of 2,434 times come too early; sorted",
        "z.nwb",
        "  error: left out: no data",
        "  error: and more",
        "warning: units: # of # times come too early; sorted: the",
        "  same, with other numbers (#), of sub-1.nwb, sub-2.nwb,",
        "  sub-3.nwb and 2 more",
    ]


def test_time_left_counts_what_was_done_in_this_run(clock, bars):
    bars.get_time = lambda: clock.s
    bars(started(100, finished=90))
    for k in range(4):
        clock.s += 60
        bars(committed(k))
    assert drawn(bars)[0].endswith(" 94/100 0:06:00")


def test_other_activities_have_bars_without_rates(bars):
    bars(ActivityProgressed("validating", 30, 120, "bytes"))
    (line,) = drawn(bars)
    assert line.startswith("validating ━")
    assert " 30/120 " in line


def test_a_log_gets_a_line_every_five_seconds(clock, capsys):
    with progress_listener() as tell:
        tell(started(1000, finished=10))
        tell(WorkersCounted(2))
        for k in range(100):
            clock.s += 0.1
            tell(committed(k))
        tell(committed(100, failures=("a.nwb: samples 3 to 5: bad chunk",)))
    assert capsys.readouterr().err.splitlines() == [
        "2 inputs, 100,000 samples, 1,000 shards, 10 of them already there",
        "60 of 1,000 shards: 10 shards/s, 1,000 samples/s, 20 MB/s, 2 workers, about 0:01:34 left",
        "110 of 1,000 shards: 10 shards/s, 1,000 samples/s, 20 MB/s, 2 workers, about 0:01:29 left",
        "error: left out: a.nwb: samples 3 to 5: bad chunk",
    ]


@pytest.mark.parametrize(
    ("named", "empty", "said"),
    [
        ((), (), "0 inputs, "),
        (("a",), (), "1 input, "),
        (("a", "b", "c"), (), "3 inputs, "),
        (("a", "b", "c"), ("b",), "2 of 3 inputs, "),
        (("a",), ("a",), "0 of 1 input, "),
    ],
)
def test_inputs_that_give_nothing_are_not_counted(named, empty, said, capsys):
    plan = {"inputs": list(named), "inputs_without_samples": list(empty), "total_samples": 7, "total_shards": 2}
    with progress_listener() as tell:
        tell(ConversionStarted(plan, {}, 0, 0))
    assert capsys.readouterr().err == f"{said}7 samples, 2 shards\n"


def test_an_event_file_holds_each_event_as_a_line(toys, toy, tmp_path, capsys):
    paths = toys(a={"n": 5}, b={"n": 4})
    events = tmp_path / "events.jsonl"
    words = ["--shard-size", "3", "-w", "2", "--plugin", toy.__file__, "--events", str(events)]
    assert run(["convert", "-i", *paths, "-o", str(tmp_path / "out"), *words]) == 0
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    names = [line["event"] for line in lines if line["event"] != "workers"]
    assert names == [
        "planning-started",
        *["input-planned"] * 2,
        "conversion-started",
        *["shard-committed"] * 3,
        "conversion-finished",
    ]
    assert all(line["time"] > 1e9 for line in lines)
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    shards = [line for line in lines if line["event"] == "shard-committed"]
    assert sorted(line["shard_idx"] for line in shards) == [0, 1, 2]
    assert sum(line["shard"]["num_samples"] for line in shards) == 9
    assert all(line["host"] and line["seconds"] > 0 for line in shards)
    assert lines[-1]["summary"]["total_samples"] == 9
    before = len(lines)
    assert run(["convert", "-i", *paths, "-o", str(tmp_path / "other"), *words]) == 0
    assert len(events.read_text().splitlines()) > before, "a second run appends"


def test_before_the_first_shard_nothing_is_known(clock):
    rates = Rates()
    rates(started(10))
    assert str(rates) == "0 shards/s, 0 samples/s, 0 B/s"
    assert rates.remaining_s is None
    clock.s += 2
    rates(ShardCommitted(0, None))
    assert str(rates) == "0.5 shards/s, 0 samples/s, 0 B/s"
    assert rates.remaining_s == 18


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (90061, "1 day, 1:01:01")])
def test_durations_are_read_by_people(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (999, "999 B"), (1.2e6, "1.2 MB"), (3e13, "30 TB")])
def test_sizes_have_a_unit(number, text):
    assert size_text(number) == text
