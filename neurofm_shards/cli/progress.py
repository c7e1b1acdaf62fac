"""Progress: listeners that draw bars on a terminal, print plain lines into a log, and write events into a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from neurofm_shards.cli.console import note_console
from neurofm_shards.errors import visible
from neurofm_shards.events import (
    ActivityProgressed,
    CallRetried,
    ConversionStarted,
    Event,
    InputPlanned,
    Listener,
    PlanningStarted,
    ShardCommitted,
    WorkersCounted,
    broadcast,
)

if TYPE_CHECKING:
    from rich.progress import TaskID

#: Seconds between two plain lines.
_LINE_EVERY_S = 5.0


@contextmanager
def progress_listener(events: str | None = None) -> Iterator[Listener]:
    """Give a listener that shows progress on stderr and writes events to a file where one is named.

    Parameters
    ----------
    events : path, optional
        A file that one line of JSON is appended to for each event.
    """
    with ExitStack() as stack:
        shown = stack.enter_context(_bars()) if sys.stderr.isatty() else _Lines()
        yield broadcast(shown, stack.enter_context(_event_file(events))) if events is not None else shown


@contextmanager
def _event_file(path: str) -> Iterator[Listener]:
    with Path(path).open("ab") as file:

        def write(event: Event) -> None:
            line = {"time": time.time(), **event.to_json()}
            file.write(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
            file.flush()

        yield write


@contextmanager
def _bars() -> Iterator[Listener]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rates]}"),
    )
    with Progress(*columns, console=note_console(), transient=True) as progress:
        yield _Bars(progress)


class Rates:
    """How fast a conversion goes, and what it met on the way."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._workers = 0
        self.shards = self.samples = self.bytes = self.failures = self.total_shards = self.done = 0

    def __call__(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, ConversionStarted):
            self._start = time.monotonic()
            self.total_shards, self.done = event.plan["total_shards"], event.finished_shards
        elif isinstance(event, ShardCommitted):
            self.shards, self.done = self.shards + 1, self.done + 1
            self.failures += len(event.failures)
            if event.shard is not None:
                self.samples += event.shard["num_samples"]
                self.bytes += event.shard["shard_bytes"]
        elif isinstance(event, CallRetried):
            self.failures += 1
        elif isinstance(event, WorkersCounted):
            self._workers = event.alive

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-6)
        parts = [
            f"{self.shards / seconds:.3g} shards/s",
            f"{self.samples / seconds:,.0f} samples/s",
            f"{size_text(self.bytes / seconds)}/s",
        ]
        if self._workers:
            parts.append(f"{self._workers} workers")
        if self.failures:
            parts.append(f"{self.failures} failures")
        return ", ".join(parts)

    @property
    def remaining_s(self) -> float | None:
        """Seconds that are left at this speed; None before the first shard."""
        if not self.shards:
            return None
        return (self.total_shards - self.done) * (time.monotonic() - self._start) / self.shards


class _Bars:
    """One bar per activity, with rates beside that of shards."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._rates = Rates()

    def __call__(self, event: Event) -> None:
        self._rates(event)
        if isinstance(event, ActivityProgressed):
            self._progress.update(self._task(event.activity), completed=event.done, total=event.total)
        elif isinstance(event, PlanningStarted):
            self._progress.update(self._task("inputs"), total=event.total_inputs)
        elif isinstance(event, InputPlanned):
            self._progress.advance(self._task("inputs"))
        elif isinstance(event, ConversionStarted):
            total = event.plan["total_shards"]
            self._progress.update(self._task("shards"), total=total, completed=event.finished_shards)
        elif isinstance(event, ShardCommitted):
            self._progress.advance(self._task("shards"))
            self._progress.update(self._task("shards"), rates=str(self._rates))
        for line in notes(event):
            self._progress.console.print(line, markup=False)

    def _task(self, activity: str) -> TaskID:
        if activity not in self._tasks:
            self._tasks[activity] = self._progress.add_task(activity, total=None, rates="")
        return self._tasks[activity]


class _Lines:
    """Plain lines, now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._rates = Rates()

    def __call__(self, event: Event) -> None:
        self._rates(event)
        if isinstance(event, ConversionStarted):
            plan, done = event.plan, event.finished_shards
            again = f", {done} of them already there" if done else ""
            _print(
                f"{len(plan['inputs'])} inputs, {plan['total_samples']} samples, {plan['total_shards']} shards{again}"
            )
        for line in notes(event):
            _print(line)
        if isinstance(event, ShardCommitted) and time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            left = self._rates.remaining_s
            eta = f", about {left:,.0f} s left" if left is not None else ""
            _print(f"{self._rates.done} of {self._rates.total_shards} shards: {self._rates}{eta}")


def notes(event: Event) -> list[str]:
    """Return what an event says that must not be lost."""
    if isinstance(event, InputPlanned):
        return list(event.notes)
    if isinstance(event, ConversionStarted):
        return split_notes(event.splits)
    if isinstance(event, ShardCommitted):
        return [f"left out: {failure}" for failure in event.failures]
    if isinstance(event, CallRetried):
        return [f"again, after a worker was lost while {event.what}: {event.error}"]
    return []


def split_notes(splits: Mapping[str, int]) -> list[str]:
    """Return how windows are divided, and which splits get none."""
    if not splits:
        return []
    told = ["splits: " + ", ".join(f"{name} {count:,}" for name, count in splits.items())]
    empty = ", ".join(name for name, count in splits.items() if not count)
    if empty:
        told.append(
            f"no samples for {empty}: with few inputs, whole sessions or subjects are too large for small shares "
            "(choose another --split), or windows were dropped (--dry-run says which)"
        )
    return told


def size_text(number: float) -> str:
    """Return a number of bytes with a unit."""
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def _print(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)  # noqa: T201  (plain lines for logs)
