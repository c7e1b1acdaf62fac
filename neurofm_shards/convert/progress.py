"""Progress bars of a conversion, for terminals and notebooks, and their rates."""

from __future__ import annotations

import importlib
import io
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from neurofm_shards._console import SafeConsole
from neurofm_shards._wording import size_text
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
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import TaskID

#: Seconds over which the speed of bars is taken: a shard may take minutes.
_SPEED_OF_S = 900.0
#: Seconds between two pictures in a notebook, and their width.
_SHOWN_EVERY_S = 0.2
_NOTEBOOK_WIDTH = 100
#: What the bars of a conversion are called.
OPENING, _PLANNING, _WRITING = "opening inputs", "planning shards", "writing shards"


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
        """Return the bars to draw (called by rich, ten times a second)."""
        yield self.make_tasks_table(self.tasks)
        if self._named.keys() & {OPENING, _WRITING}:
            yield Text(str(self._rates))

    def _task(self, activity: str) -> TaskID:
        if activity not in self._named:
            self._named[activity] = self.add_task(activity, total=None)
        return self._named[activity]


def duration_text(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


class NotebookBars:
    """Bars in the output of a notebook's cell, which is replaced as they move; no widgets are needed.

    Parameters
    ----------
    show : callable
        Shows a text; called with each new one.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._screen = Console(width=_NOTEBOOK_WIDTH, file=io.StringIO(), force_jupyter=False, legacy_windows=False)
        self._bars = Bars(self._screen, OPENING)
        self._shown = 0.0

    def __call__(self, event: Event) -> None:
        """Note what has happened, and show it now and then."""
        self._bars(event)
        if time.monotonic() - self._shown > _SHOWN_EVERY_S:
            self.show()

    def show(self) -> None:
        """Show how far it is."""
        self._shown = time.monotonic()
        with self._screen.capture() as captured:
            self._screen.print(self._bars.get_renderable())
        self._show(captured.get())


@contextmanager
def shown_bars() -> Iterator[Listener]:
    """Give a listener that draws bars, on a terminal or in a notebook; notes are for other listeners."""
    console = SafeConsole(stderr=True, highlight=False)
    if not console.is_jupyter:
        with Bars(console, OPENING) as bars:
            yield bars
        return
    display: Callable[..., Any] = importlib.import_module("IPython.display").display  # there in every notebook
    handle = display({"text/plain": OPENING}, raw=True, display_id=True)
    moving = NotebookBars(lambda text: handle.update({"text/plain": text}, raw=True))
    yield moving
    moving.show()
