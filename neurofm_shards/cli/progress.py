"""Progress: listeners that draw bars on a terminal, print plain lines into a log, and write events into a file."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from neurofm_shards.cli.console import note_console, print_note
from neurofm_shards.convert.notes import notes
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
    from rich.console import Console, RenderableType
    from rich.progress import TaskID
    from typing_extensions import Self

#: Seconds between two plain lines.
_LINE_EVERY_S = 5.0
#: Numbers, in which notes may differ that say the same of several inputs.
_NUMBER = re.compile(r"\d[\d.,]*")
#: So many inputs are named of which the same is said.
_NAMED = 3
#: Seconds over which the speed of bars is taken: a shard may take minutes.
_SPEED_OF_S = 900.0
#: What the bars of a conversion are called.
OPENING, _PLANNING, _WRITING = "opening inputs", "planning shards", "writing shards"


@contextmanager
def progress_listener(events: str | None = None, first: str = "") -> Iterator[Listener]:
    """Give a listener that shows progress on stderr and writes events to a file where one is named.

    Parameters
    ----------
    events : path, optional
        A file that one line of JSON is appended to for each event.
    first : str
        The activity that goes on before the first event.
    """
    with ExitStack() as stack:
        console = note_console()
        moves = console.is_terminal and not console.is_dumb_terminal
        shown = stack.enter_context(Bars(console, first)) if moves else _Lines()
        said = stack.enter_context(SaidNotes(console))
        written = [stack.enter_context(_event_file(events))] if events is not None else []
        yield broadcast(shown, said, *written)


@contextmanager
def _event_file(path: str) -> Iterator[Listener]:
    with Path(path).open("ab") as file:

        def write(event: Event) -> None:
            line = {"time": time.time(), **event.to_json()}
            file.write(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
            file.flush()

        yield write


class Rates:
    """How fast a conversion goes, and what it met on the way."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._workers = 0
        self.inputs = self.shards = self.samples = self.bytes = self.failures = self.total_shards = self.done = 0

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
        elif isinstance(event, InputPlanned):
            self.inputs += 1
            self.failures += bool(event.error)
        elif isinstance(event, CallRetried):
            self.failures += 1
        elif isinstance(event, WorkersCounted):
            self._workers = event.alive

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-6)
        parts = [f"{self.inputs / seconds:.3g} inputs/s"]
        if self.total_shards:
            parts = [
                f"{self.shards / seconds:.3g} shards/s",
                f"{self.samples / seconds:,.0f} samples/s",
                f"{size_text(self.bytes / seconds)}/s",
            ]
        if self._workers:
            parts.append(f"{self._workers} worker{'s' if self._workers > 1 else ''}")
        if self.failures:
            parts.append(f"{self.failures} failure{'s' if self.failures > 1 else ''}")
        return ", ".join(parts)

    @property
    def remaining_s(self) -> float | None:
        """Seconds that are left at this speed; None before the first shard."""
        if not self.shards:
            return None
        return (self.total_shards - self.done) * (time.monotonic() - self._start) / self.shards


class Bars(Progress):
    """One bar per activity, and below them the rates of the conversion; a listener.

    Parameters
    ----------
    console : rich.console.Console
        Where they are drawn.
    first : str
        The activity that goes on before the first event.
    """

    def __init__(self, console: Console, first: str = "") -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._named: dict[str, TaskID] = {}
        self._rates = Rates()
        super().__init__(*columns, console=console, transient=True, speed_estimate_period=_SPEED_OF_S)
        if first:
            self._task(first)

    def __call__(self, event: Event) -> None:
        """Draw what has happened."""
        self._rates(event)
        if isinstance(event, ActivityProgressed):
            self.update(self._task(event.activity), completed=event.done, total=event.total)
        elif isinstance(event, PlanningStarted):
            self.update(self._task(OPENING), total=event.total_inputs)
        elif isinstance(event, InputPlanned):
            self.advance(self._task(OPENING))
            if self.finished:
                self._task(_PLANNING)
        elif isinstance(event, ConversionStarted):
            if _PLANNING in self._named:
                total = event.plan["total_shards"]
                self.update(self._task(_PLANNING), total=total, completed=total)
            self.update(self._task(_WRITING), total=event.plan["total_shards"], completed=event.finished_shards)
        elif isinstance(event, ShardCommitted):
            self.advance(self._task(_WRITING))

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return what is drawn (called by rich, ten times a second)."""
        yield self.make_tasks_table(self.tasks)
        if self._named.keys() & {OPENING, _WRITING}:
            yield Text(str(self._rates))

    def _task(self, activity: str) -> TaskID:
        if activity not in self._named:
            self._named[activity] = self.add_task(activity, total=None)
        return self._named[activity]


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
            total, empty = len(plan["inputs"]), len(plan["inputs_without_samples"])
            inputs = f"{total - empty:,} of {total:,} inputs" if empty else f"{total:,} input{'s' * (total != 1)}"
            _print(f"{inputs}, {plan['total_samples']:,} samples, {plan['total_shards']:,} shards{again}")
        if isinstance(event, ShardCommitted) and time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            left = self._rates.remaining_s
            eta = f", about {duration_text(left)} left" if left is not None else ""
            _print(f"{self._rates.done} of {self._rates.total_shards} shards: {self._rates}{eta}")


class SaidNotes:
    """Prints notes as they come; the like of what was said of one input already is counted, and said at the end.

    Parameters
    ----------
    console : rich.console.Console
        Where they are printed.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._like: dict[str, list[str]] = {}

    def __call__(self, event: Event) -> None:
        """Print what an event says, unless it was said before."""
        for note in notes(event):
            kind = _NUMBER.sub("#", note.text.replace(note.input, "")) if note.input else ""
            if kind in self._like:
                self._like[kind].append(note.input)
                continue
            if kind:
                self._like[kind] = []
            print_note(self._console, note.text, note.severity)
        if isinstance(event, ConversionStarted):
            self._print_counts()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Say what was counted."""
        self._print_counts()

    def _print_counts(self) -> None:
        for kind, inputs in self._like.items():
            if inputs:
                more = f" and {len(inputs) - _NAMED:,} more" if len(inputs) > _NAMED else ""
                text = f"{kind.strip(': ')}: the same, with other numbers (#), of {', '.join(inputs[:_NAMED])}{more}"
                print_note(self._console, text, "warning")
        self._like.clear()


def duration_text(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def size_text(number: float) -> str:
    """Return a number of bytes with a unit."""
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def _print(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)  # noqa: T201  (plain lines for logs)
