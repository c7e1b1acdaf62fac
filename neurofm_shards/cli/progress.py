"""Progress: listeners that draw bars on a terminal, print plain lines into a log, and write events into a file."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from neurofm_shards._wording import counted, listed
from neurofm_shards.cli.console import note_console, print_block, print_note
from neurofm_shards.convert.progress import OPENING, Bars, Rates, duration_text
from neurofm_shards.errors import visible
from neurofm_shards.events import (
    ConversionStarted,
    Event,
    Listener,
    Note,
    ShardCommitted,
    broadcast,
    notes,
)

if TYPE_CHECKING:
    from rich.console import Console
    from typing_extensions import Self

#: Seconds between two plain lines.
_LINE_EVERY_S = 5.0
#: Numbers, in which notes may differ that say the same of several inputs.
_NUMBER = re.compile(r"\d[\d.,]*")
#: Inputs that are named where notes of several are equal.
_NAMED = 3


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


def conversion_listener(events: str | None) -> AbstractContextManager[Listener]:
    """Give a listener of a conversion, whose inputs are opened first."""
    return progress_listener(events, OPENING)


@contextmanager
def _event_file(path: str) -> Iterator[Listener]:
    with Path(path).open("ab") as file:

        def write(event: Event) -> None:
            line = {"time": time.time(), **event.to_json()}
            file.write(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
            file.flush()

        yield write


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
            inputs = f"{total - empty:,} of {counted(total, 'input')}" if empty else f"{counted(total, 'input')}"
            _print(
                f"{inputs}, {counted(plan['total_samples'], 'sample')}, {counted(plan['total_shards'], 'shard')}{again}"
            )
        if isinstance(event, ShardCommitted) and time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            left = self._rates.remaining_s
            eta = f", about {duration_text(left)} left" if left is not None else ""
            _print(f"{self._rates.done} of {counted(self._rates.total_shards, 'shard')}: {self._rates}{eta}")


class SaidNotes:
    """Prints notes as they come; repetitions for other inputs are counted, and summed up at the end.

    Parameters
    ----------
    console : rich.console.Console
        Where they are printed.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._like: dict[str, list[str]] = {}

    def __call__(self, event: Event) -> None:
        """Print the notes of an event, in one block where they are about one input, unless they were printed before."""
        new = [note for note in notes(event) if self._is_new(note)]
        for about, alike in groupby(new, key=attrgetter("input")):
            said = [(note.severity, note.text) for note in alike]
            if about:
                print_block(self._console, about, said)
            else:
                for severity, text in said:
                    print_note(self._console, text, severity)
        if isinstance(event, ConversionStarted):
            self._print_counts()

    def _is_new(self, note: Note) -> bool:
        """Return whether no such note was printed before; count it otherwise."""
        kind = _NUMBER.sub("#", note.text) if note.input else ""
        if kind in self._like:
            self._like[kind].append(note.input)
            return False
        if kind:
            self._like[kind] = []
        return True

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Say what was counted."""
        self._print_counts()

    def _print_counts(self) -> None:
        for kind, inputs in self._like.items():
            if inputs:
                text = f"{kind}: the same, with other numbers (#), of {listed(inputs, _NAMED)}"
                print_note(self._console, text, "warning")
        self._like.clear()


def _print(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)  # noqa: T201  (plain lines for logs)
