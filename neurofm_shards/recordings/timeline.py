"""When a recording begins and ends: the epochs table, else the joint extent of its main streams, robustly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import NothingToConvertError, SourceError
from neurofm_shards.recordings.ticks import TICKS_PER_SECOND, to_seconds, to_ticks
from neurofm_shards.streams import AnyStream, IntervalStream, IrregularStream, RegularStream
from neurofm_shards.types import Problem

#: The streams that decide the extent: the first group of modalities that a recording has at all.
MAIN = (("spikes", "lfp", "raw", "ophys"), ("behavior",), ("events",), ("trials", "intervals"))
#: A time is garbage when it is this many times the central 98 % of its stream (at least a minute) away from them.
_FAR = 5.0
_NEAR_SECONDS = 60.0
_DAY_SECONDS = 86_400.0
_STREAM_GAP = int(_DAY_SECONDS) * TICKS_PER_SECOND
#: Streams of fewer times are sparse: the first and last are no part of their middle, and a day is near.
_SPARSE = 200


@dataclass(frozen=True)
class Timeline:
    """Where a recording lies in time.

    Attributes
    ----------
    start, stop : int
        Ticks; half-open. Bins count from ``start``.
    said_by : str
        Path of what decided it.
    problems : tuple of Problem
        Times that were not believed.
    """

    start: int
    stop: int
    said_by: str
    problems: tuple[Problem, ...] = ()


def timeline(streams: Sequence[AnyStream], source_file: str) -> Timeline:
    """Find the extent of a recording, whatever modalities are asked for.

    Raises
    ------
    NothingToConvertError
        Nothing in the recording has a time.
    SourceError
        What would have one cannot be read; the message is that of the first such stream.
    """
    problems: list[Problem] = []
    failures: list[SourceError] = []
    for stream in streams:
        if isinstance(stream, IntervalStream) and stream.modality == "epochs":
            said = _epochs(stream, streams, problems)
            if said is not None:
                return said
    for group in MAIN:
        found = _joint([stream for stream in streams if stream.modality in group], problems, failures)
        if found is not None:
            return found
    if failures:
        raise failures[0]
    raise NothingToConvertError(
        f"{source_file}: nothing in it has a time: looked for spikes, LFP, imaging, behaviour, events and "
        f"trials among {len(streams)} streams"
    )


def within(when: Timeline, start: Floats, stop: Floats) -> Ints:
    """Return intervals in seconds as spans in ticks, cut to the recording; those without a start or stop are left out.

    Ends may be infinite, or beyond what ticks can hold.
    """
    low, high = when.start / TICKS_PER_SECOND - 1, when.stop / TICKS_PER_SECOND + 1
    seconds = np.stack([start, stop], axis=1).astype(np.float64)
    ticks = to_ticks(np.clip(seconds[~np.isnan(seconds).any(axis=1)], low, high))
    return ticks.clip(when.start, when.stop)


def _epochs(stream: IntervalStream, streams: Sequence[AnyStream], problems: list[Problem]) -> Timeline | None:
    """Return the extent of a table of epochs, without those that lie more than a day from all other streams.

    The others are looked at only where the epochs last longer than a day in all.
    """
    known = np.isfinite(stream.start) & np.isfinite(stream.stop) & (stream.start < stream.stop)
    start, stop = stream.start[known], stream.stop[known]
    if len(start) and stop.max() - start.min() > _DAY_SECONDS:
        near = _near(start, stop, streams)
        if not near.all():
            odd = int(np.argmin(near))
            what = f"{int((~near).sum())} epochs lie far from all else ({start[odd]:.6g} to {stop[odd]:.6g} s)"
            problems.append(_distrust(stream.path, what))
        start, stop = start[near], stop[near]
    if len(start) == 0:
        return None
    return Timeline(int(to_ticks(start.min())), int(to_ticks(stop.max())), stream.path, tuple(problems))


def _near(start: Floats, stop: Floats, streams: Sequence[AnyStream]) -> npt.NDArray[np.bool_]:
    """Say which epochs lie within a day of the main streams; all of them where there are none."""
    for group in MAIN:
        found = _joint([stream for stream in streams if stream.modality in group], [], [])
        if found is not None:
            low, high = found.start / TICKS_PER_SECOND - _DAY_SECONDS, found.stop / TICKS_PER_SECOND + _DAY_SECONDS
            near: npt.NDArray[np.bool_] = (start >= low) & (stop <= high)
            return near
    return np.ones(len(start), dtype=bool)


def _joint(streams: Sequence[AnyStream], problems: list[Problem], failures: list[SourceError]) -> Timeline | None:
    extents = []
    for stream in streams:
        try:
            found = _extent(stream, problems)
        except SourceError as error:
            problems.append(Problem(stream.path, str(error), "it does not count for the extent", "error"))
            failures.append(error)
            continue
        if found is not None:
            extents.append((found, stream.path))
    if not extents:
        return None
    (start, stop), said_by = max(extents, key=lambda item: item[0][1] - item[0][0])
    paths = [said_by]
    for (first, last), path in extents:
        if path == said_by:
            continue
        if first > stop + _STREAM_GAP or last < start - _STREAM_GAP:
            where = f"lies at {to_seconds(first):.6g} to {to_seconds(last):.6g} s, more than a day from {said_by}"
            problems.append(_distrust(path, where))
            continue
        start, stop = min(start, first), max(stop, last)
        paths.append(path)
    return Timeline(start, stop, ", ".join(paths), tuple(problems))


def _distrust(path: str, what: str) -> Problem:
    return Problem(path, what, "it does not count for the extent of the recording")


def _extent(stream: AnyStream, problems: list[Problem]) -> tuple[int, int] | None:
    if isinstance(stream, RegularStream):
        last = stream.t0 + stream.shape[0] / stream.rate
        return (int(to_ticks(stream.t0)), int(to_ticks(last))) if stream.shape[0] else None
    if isinstance(stream, IntervalStream):
        times = np.concatenate([stream.start, stream.stop])
    elif isinstance(stream, IrregularStream):
        times = stream.timestamps()
    else:
        times = stream.read()[0]
    found = robust_extent(times, stream.path, problems)
    return None if found is None else (int(to_ticks(found[0])), int(to_ticks(found[1])) + 1)


def robust_extent(times: Floats, path: str, problems: list[Problem]) -> tuple[float, float] | None:
    """Return the first and last believable time of a stream in any order; None where there is none.

    Parameters
    ----------
    times : numpy.ndarray of float64
        Seconds; not-a-number and infinite values are left out.
    path : str
        For the problem that reports outliers.
    problems : list of Problem
        Appended to.
    """
    finite = times if np.isfinite(times).all() else times[np.isfinite(times)]
    if len(finite) == 0:
        return None
    first, last = float(finite.min()), float(finite.max())
    low, high = _middle(finite)
    reach = max(_FAR * (high - low), _NEAR_SECONDS if len(finite) >= _SPARSE else _DAY_SECONDS)
    if first >= low - reach and last <= high + reach:
        return first, last
    inside = finite[(finite >= low - reach) & (finite <= high + reach)]
    odd = len(finite) - len(inside)
    problems.append(
        _distrust(path, f"{odd} of {len(finite)} times lie far from all others ({first:.6g}, {last:.6g} s)")
    )
    return float(inside.min()), float(inside.max())


def _middle(times: Floats) -> tuple[float, float]:
    """Return where the central 98 % of many times lie; of few, all but the first and the last."""
    if len(times) >= _SPARSE:
        low, high = (float(q) for q in np.quantile(times[:: max(1, len(times) // 100_000)], [0.01, 0.99]))
        return low, high
    ordered = np.sort(times)
    inner = ordered[1:-1] if len(ordered) > 2 else ordered
    return float(inner[0]), float(inner[-1])
