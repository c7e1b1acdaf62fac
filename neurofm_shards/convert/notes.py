"""What events say in sentences: printed by the command line, logged for Python's callers."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Literal

from neurofm_shards.events import CallRetried, ConversionStarted, Event, InputPlanned, ModalityMasked, ShardCommitted

_LOG = logging.getLogger("neurofm_shards.convert")


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
    """Log what an event says that must not be lost."""
    for note in notes(event):
        text = f"{note.input}: {note.text}" if note.input else note.text
        _LOG.log(logging.INFO if note.severity == "info" else logging.WARNING, "%s", text)


def notes(event: Event) -> list[Note]:
    """Return what an event says that must not be lost."""
    if isinstance(event, InputPlanned):
        return [Note("error" if event.error else "warning", line, event.input) for line in event.notes]
    if isinstance(event, ModalityMasked):
        names = ", ".join(os.path.basename(name) for name in event.inputs[:5])  # noqa: PTH119  (names, not places)
        more = f" and {len(event.inputs) - 5:,} more" if len(event.inputs) > 5 else ""
        said = f"{event.modality}: {len(event.inputs):,} of {event.total:,} recordings have none"
        return [Note("warning", f"{said}, and get empty, masked columns: {names}{more}")]
    if isinstance(event, ConversionStarted):
        return [Note("warning", line) for line in event.split_warnings]
    if isinstance(event, ShardCommitted):
        return [Note("error", f"left out: {failure}") for failure in event.failures]
    if isinstance(event, CallRetried):
        return [Note("warning", f"again, after a worker was lost while {event.what}: {event.error}")]
    return []
