"""Events: what long-running work reports, to plugins' observer hooks, progress bars, logs and event files alike.

Every event is a frozen dataclass of plain values. A listener is any callable that takes one; it runs in the thread that
does the work, so it must be quick, and an exception that it raises ends the work.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

_LOG = logging.getLogger("neurofm_shards.convert")


@dataclass(frozen=True)
class Event:
    """Base of all events.

    Attributes
    ----------
    name : str
        What event files call it.
    """

    name: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Return the event as JSON values, its name under ``event``."""
        return {"event": self.name, **vars(self)}


Listener = Callable[[Event], None]


@dataclass(frozen=True)
class ActivityProgressed(Event):
    """An activity of known length went on.

    Attributes
    ----------
    activity : str
        What is going on, as a bar is labelled: ``"validating"``.
    done, total : int
        How far it is, and where it ends.
    unit : str
        ``"bytes"``, or empty for a plain count.
    """

    name: ClassVar[str] = "progress"
    activity: str
    done: int
    total: int
    unit: str = ""


@dataclass(frozen=True)
class PlanningStarted(Event):
    """So many inputs are about to be opened."""

    name: ClassVar[str] = "planning-started"
    total_inputs: int


@dataclass(frozen=True)
class InputPlanned(Event):
    """An input was opened, or failed.

    Attributes
    ----------
    input : str
        Its name.
    num_samples : int
        Samples that it gives.
    notes : tuple of str
        What is odd about it, in sentences.
    error : str
        Why it failed; empty when it did not.
    """

    name: ClassVar[str] = "input-planned"
    input: str
    num_samples: int
    notes: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class ModalityMasked(Event):
    """Some recordings lack a modality that others have: theirs is empty and masked.

    Attributes
    ----------
    modality : str
        Its name.
    inputs : tuple of str
        Names of the inputs without it.
    total : int
        How many recordings there are.
    """

    name: ClassVar[str] = "modality-masked"
    modality: str
    inputs: tuple[str, ...]
    total: int


@dataclass(frozen=True)
class ConversionStarted(Event):
    """Writing starts.

    Attributes
    ----------
    plan : mapping
        ``total_samples``, ``total_shards``, ``inputs`` (names), ``inputs_without_samples`` (those that failed or are
        empty) and ``config``: what the hook of this name is told.
    splits : mapping of str to int
        Planned samples of each split; empty where none was asked for.
    finished_shards, finished_samples : int
        What an interrupted run has left finished.
    warnings : tuple of str
        What the splits are not that was asked for, in sentences.
    """

    name: ClassVar[str] = "conversion-started"
    plan: Mapping[str, Any]
    splits: Mapping[str, int] = field(default_factory=dict)
    finished_shards: int = 0
    finished_samples: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShardCommitted(Event):
    """A shard is in place, or turned out empty.

    Attributes
    ----------
    shard_idx : int
        Its number.
    shard : mapping or None
        Its entry in the manifest; None when every sample was dropped.
    failures : tuple of str
        Why stretches of inputs were left out.
    host : str
        Where it was written.
    seconds : float
        How long that took.
    """

    name: ClassVar[str] = "shard-committed"
    shard_idx: int
    shard: Mapping[str, Any] | None
    failures: tuple[str, ...] = ()
    host: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class CallRetried(Event):
    """A worker was lost, and what it was doing is done again.

    Attributes
    ----------
    what : str
        What it was doing.
    attempt : int
        How many workers were lost doing it.
    error : str
        How the worker was lost.
    """

    name: ClassVar[str] = "call-retried"
    what: str
    attempt: int
    error: str


@dataclass(frozen=True)
class WorkersCounted(Event):
    """The number of live workers changed."""

    name: ClassVar[str] = "workers"
    alive: int


@dataclass(frozen=True)
class ConversionFinished(Event):
    """The manifest is written; ``summary`` is what ``finalize()`` returns."""

    name: ClassVar[str] = "conversion-finished"
    summary: Mapping[str, Any]


def ignore(event: Event) -> None:
    """Listen to nothing."""


def broadcast(*listeners: Listener) -> Listener:
    """Return a listener that passes each event on, in order."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell


@dataclass(frozen=True)
class Note:
    """What must not be lost: information, a warning where it changes numbers, or an error that ends nothing.

    Attributes
    ----------
    severity : str
        ``"info"``, ``"warning"`` or ``"error"``.
    text : str
        A sentence.
    input : str
        The input that it is about, which the text does not name; empty where it is about several.
    """

    severity: Literal["info", "warning", "error"]
    text: str
    input: str = ""


def log_notes(event: Event) -> None:
    """Log the notes of an event."""
    for note in notes(event):
        text = f"{note.input}: {note.text}" if note.input else note.text
        _LOG.log(logging.INFO if note.severity == "info" else logging.WARNING, "%s", text)


def notes(event: Event) -> list[Note]:
    """Return the notes of an event."""
    if isinstance(event, InputPlanned):
        return [Note("error" if event.error else "warning", line, event.input) for line in event.notes]
    if isinstance(event, ModalityMasked):
        names = ", ".join(os.path.basename(name) for name in event.inputs[:5])  # noqa: PTH119  (names, not places)
        more = f" and {len(event.inputs) - 5:,} more" if len(event.inputs) > 5 else ""
        said = f"{event.modality}: {len(event.inputs):,} of {event.total:,} recordings have none"
        return [Note("warning", f"{said}, and get empty, masked columns: {names}{more}")]
    if isinstance(event, ConversionStarted):
        return [Note("warning", line) for line in event.warnings]
    if isinstance(event, ShardCommitted):
        return [Note("error", f"left out: {failure}") for failure in event.failures]
    if isinstance(event, CallRetried):
        return [Note("warning", f"again, after a worker was lost while {event.what}: {event.error}")]
    return []
