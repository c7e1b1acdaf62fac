"""What events say in sentences: printed by the command line, logged for Python's callers."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from neurofm_shards.events import CallRetried, ConversionStarted, Event, InputPlanned, ModalityMasked, ShardCommitted

_LOG = logging.getLogger("neurofm_shards.convert")


def log_notes(event: Event) -> None:
    """Log what an event says that must not be lost: a warning where it changes numbers, else information."""
    level = logging.INFO if isinstance(event, ConversionStarted) else logging.WARNING
    for line in notes(event):
        _LOG.log(level, "%s", line)


def notes(event: Event) -> list[str]:
    """Return what an event says that must not be lost."""
    if isinstance(event, InputPlanned):
        return list(event.notes)
    if isinstance(event, ModalityMasked):
        more = f" and {len(event.inputs) - 5:,} more" if len(event.inputs) > 5 else ""
        said = f"{event.modality}: {len(event.inputs):,} of {event.total:,} recordings have none"
        return [f"{said}, and get empty, masked columns: {', '.join(event.inputs[:5])}{more}"]
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
