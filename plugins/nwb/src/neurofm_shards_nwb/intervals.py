"""Turns tables of intervals into streams: trials, epochs, presentations, invalid times."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from neurofm_shards._typing import Floats
from neurofm_shards.streams import IntervalStream
from neurofm_shards.types import Problem
from neurofm_shards_nwb.content import Table

_MODALITIES = {"trials": "trials", "epochs": "epochs", "invalid_times": "invalid"}
_TIME_COLUMN = re.compile(r"(^|_)times?$|(^|_)(onset|offset)$", re.IGNORECASE)
#: Times that are lengths of something rather than points on the clock.
_DURATION = re.compile(
    r"duration|reaction|latency|valve|interval|iti|wait|hold|movement|exposure|total|dwell|lag", re.IGNORECASE
)


def describe_intervals(table: Table) -> tuple[IntervalStream | None, list[Problem]]:
    """Describe a TimeIntervals table as a stream.

    Returns
    -------
    (IntervalStream or None, list of Problem)
        None when the table lacks a start or stop column.
    """
    if not {"start_time", "stop_time"} <= set(table.columns):
        return None, [Problem(table.path, "no start_time and stop_time columns", "not taken as intervals")]
    if trouble := _trouble(table):
        return None, [Problem(table.path, trouble, "not taken as intervals", "error")]
    start, stop = _times(table, "start_time"), _times(table, "stop_time")
    columns: dict[str, Any] = {"id": table.row_ids}
    problems: list[Problem] = []
    for name, column in table.columns.items():
        if name in ("start_time", "stop_time"):
            continue
        if len(column) == len(table):
            columns[name] = column.values()
        else:
            what = f"{len(column)} values for {len(table)} rows"
            problems.append(Problem(f"{table.path}/{name}", what, "the column is left out"))
    relative = tuple(name for name, values in columns.items() if _is_relative(name, values, start))
    stream = IntervalStream(
        path=table.path,
        modality=_MODALITIES.get(table.path.rpartition("/")[2], "intervals"),
        kind_name=table.types[0],
        description=table.description,
        start=start,
        stop=stop,
        columns=columns,
        relative_columns=relative,
    )
    return stream, problems + _odd(table, start, stop, relative)


def _trouble(table: Table) -> str:
    """Say why the times of a table are none; empty when they are."""
    for name in ("start_time", "stop_time"):
        data = table.columns[name].data
        if data.dtype.kind not in "fiu" or data.shape != (len(table),):
            return f"{name} is of shape {data.shape} and type {data.dtype.name}, not one number for each of its rows"
    return ""


def _times(table: Table, name: str) -> Floats:
    return table.columns[name].data.all().astype(np.float64)


def _is_relative(name: str, values: list[Any], start: Floats) -> bool:
    """Say whether a time column counts from the start of each interval rather than from the session's.

    Such values lie before their interval's start, are not negative, differ between rows, and do not grow with the
    session: they span less than half of what the starts span.
    """
    if not _TIME_COLUMN.search(name) or _DURATION.search(name) or not all(isinstance(v, (int, float)) for v in values):
        return False
    times = np.asarray(values, dtype=np.float64)
    usable = np.isfinite(times) & np.isfinite(start) & (times >= 0)
    times, begins = times[usable], start[usable]
    if len(times) < 3 or len(np.unique(times)) < 3:
        return False
    return bool(np.mean(times < begins) > 0.9 and np.ptp(times) < np.ptp(begins) / 2)


def _odd(table: Table, start: Floats, stop: Floats, relative: tuple[str, ...]) -> list[Problem]:
    problems = []
    if missing := int(np.count_nonzero(np.isnan(stop))):
        what = f"{missing} of {len(stop)} rows have no stop time"
        end = "the recording's end" if table.path.endswith("invalid_times") else "the next start, or is dropped"
        problems.append(Problem(f"{table.path}/stop_time", what, f"each lasts until {end}"))
    if missing := int(np.count_nonzero(np.isnan(start))):
        what = f"{missing} of {len(start)} rows have no start time"
        problems.append(Problem(f"{table.path}/start_time", what, "these rows are dropped"))
    if backwards := int(np.count_nonzero(stop < start)):
        what = f"{backwards} of {len(stop)} rows stop before they start"
        problems.append(Problem(f"{table.path}/stop_time", what, "these rows are dropped"))
    if relative:
        what = f"{', '.join(relative)} count from each row's start, not from the session's"
        consequence = "trial-aligned windows and trial labels are refused until these columns are declared relative"
        problems.append(Problem(table.path, what, consequence))
    return problems
