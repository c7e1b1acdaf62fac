"""Recognising trial columns that count from the start of each trial although everything else is in session time."""

from __future__ import annotations

import numpy as np

from neurofm_shards._typing import Floats
from neurofm_shards.recordings.streams import IntervalStream
from neurofm_shards.recordings.trains import column

#: Names of spans of time, which are small by nature and no points in time.
_DURATIONS = ("duration", "reaction", "latency", "delay", "interval", "response_time", "timeout", "period", "exposure")
_FEWEST = 3


def recognised_columns(stream: IntervalStream) -> list[str]:
    """Return the time columns that the plugin, or their values, say are relative to the interval's start.

    A column is recognised when its name speaks of time, most of its values do not lie within their own interval, and
    most of them do once the interval's start is added.
    """
    found = list(stream.relative_columns)
    for name, values in stream.columns.items():
        if name in found or "time" not in name.lower() or any(word in name.lower() for word in _DURATIONS):
            continue
        array = column(values)
        if array.dtype.kind in "iuf" and _relative(stream, array.astype(np.float64)):
            found.append(name)
    return found


def session_columns(stream: IntervalStream) -> list[str]:
    """Return the time columns whose values lie within their own interval: in session time beyond doubt."""
    found = []
    for name, values in stream.columns.items():
        array = column(values)
        if "time" in name.lower() and name not in stream.relative_columns and array.dtype.kind in "iuf":
            share = _inside(stream, array.astype(np.float64))
            if share is not None and share[0] >= 0.5:
                found.append(name)
    return found


def _relative(stream: IntervalStream, values: Floats) -> bool:
    share = _inside(stream, values)
    return share is not None and share[0] < 0.5 < share[1]


def _inside(stream: IntervalStream, values: Floats) -> tuple[float, float] | None:
    """Return which share of values lies near its interval, as it is and with the interval's start added."""
    known = np.isfinite(values) & np.isfinite(stream.start)
    if known.sum() < _FEWEST:
        return None
    start, value = stream.start[known], values[known]
    length = _lengths(stream)[known]
    as_session = (value >= start - length) & (value <= start + 2 * length)
    as_relative = (value >= -length) & (value <= 2 * length)
    return float(as_session.mean()), float(as_relative.mean())


def _lengths(stream: IntervalStream) -> Floats:
    """Return the length of each interval; the median one (or step between starts) where it is not known."""
    lengths = stream.stop - stream.start
    known = np.isfinite(lengths)
    steps = np.diff(np.sort(stream.start[np.isfinite(stream.start)]))
    typical = lengths[known] if known.any() else steps
    filled: Floats = np.where(known, lengths, float(np.median(typical)) if len(typical) else 1.0)
    return filled
