"""Turns an events table (NWB 2.9 and later) into a stream of events."""

from __future__ import annotations

import numpy as np

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.streams import EventStream
from neurofm_shards.types import Problem
from neurofm_shards_nwb.content import Table, small_columns

#: More different texts than this are remarks, not kinds of events.
_MOST_KINDS = 256


def describe_event_table(table: Table) -> tuple[EventStream | None, list[Problem]]:
    """Describe an EventsTable: its first text column of few values says what kind each event is.

    Returns
    -------
    (EventStream or None, list of Problem)
        None when the table has no time stamps.
    """
    times = table.columns.get("timestamp")
    if times is None:
        return None, [Problem(table.path, "no timestamp column", "not taken as events")]
    owners, owner, label = _kinds(table)
    other = [name for name in table.columns if name not in ("timestamp", label)]
    problems = [Problem(table.path, f"columns {', '.join(other)}", "left in the file", "info")] if other else []

    def read() -> tuple[Floats, Ints]:
        return times.data.all().astype(np.float64), owner

    stream = EventStream(
        path=table.path,
        modality="events",
        kind_name=table.types[0],
        description=table.description,
        read=read,
        owners=owners,
    )
    return stream, problems


def _kinds(table: Table) -> tuple[tuple[str, ...], Ints, str]:
    """Return the kinds, each event's number among them, and the column that says so; else one kind, the table."""
    for name in sorted(small_columns(table), key=lambda name: name != "annotation"):
        values = table.columns[name].values()
        if values and all(isinstance(value, str) for value in values):
            different, owner = np.unique(np.asarray(values), return_inverse=True)
            if len(different) <= _MOST_KINDS:
                return tuple(str(kind) for kind in different), owner.astype(np.int64).ravel(), name
    return (table.path.rpartition("/")[2],), np.zeros(len(table), dtype=np.int64), ""
