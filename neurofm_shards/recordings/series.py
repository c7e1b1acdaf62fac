"""Series over time: physical values, time stamps that are regular or not, and the segments between gaps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import SourceError
from neurofm_shards.recordings.streams import IrregularStream, RegularStream
from neurofm_shards.types import Problem

Series: TypeAlias = RegularStream | IrregularStream
Units = Literal["volts", "uV", "raw"]
_GAP_INTERVALS = 1.5
_MICRO = 1e6
_STAMPS_AT_ONCE = 1 << 20
_VALUES_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Segment:
    """A run of samples at a constant rate: sample ``i`` (``first <= i < stop``) is at ``t0 + (i - first) / rate``."""

    first: int
    stop: int
    t0: float
    rate: float


@dataclass(frozen=True)
class Clock:
    """When the samples of a series were taken.

    Attributes
    ----------
    segments : tuple of Segment
        Runs at a constant rate, in time order, where the series has them throughout; else empty.
    times : numpy.ndarray of float64 or None
        Ascending seconds where it does not.
    order : numpy.ndarray of int64 or None
        Stored row of each of ``times`` where the file's order is another one or rows are left out.
    interval : float
        Median time between samples in seconds; 0 where fewer than half of the time stamps differ from the one before,
        so that there is no rate.
    problems : tuple of Problem
        What was odd about the time stamps.
    """

    segments: tuple[Segment, ...]
    times: Floats | None
    order: Ints | None
    interval: float
    problems: tuple[Problem, ...] = field(default=())


def check_series(stream: Series) -> None:
    """Refuse a series whose parts do not fit together.

    Raises
    ------
    SourceError
        There are not as many scales, offsets or channels as columns, or the rate is not positive.
    """
    width = int(np.prod(stream.shape[1:])) if len(stream.shape) > 1 else 1
    for what, value in (("scales", stream.scale), ("offsets", stream.offset)):
        if np.ndim(value) and np.size(value) != width:
            raise SourceError(f"{stream.path}: {np.size(value)} {what} for {width} channels")
    if stream.channels and len(stream.channels) != width:
        raise SourceError(f"{stream.path}: {len(stream.channels)} channel ids for {width} channels")
    if isinstance(stream, RegularStream) and not (stream.rate > 0 and np.isfinite(stream.t0)):
        raise SourceError(f"{stream.path}: rate {stream.rate} Hz from {stream.t0} s is not a clock")


def channel_names(stream: Series) -> tuple[str, ...]:
    """Return the ids of the channels; ``"0"``, ``"1"``, ... where the file has none."""
    if stream.channels:
        return stream.channels
    return tuple(str(i) for i in range(int(np.prod(stream.shape[1:])) if len(stream.shape) > 1 else 1))


def clock(stream: Series, max_gap: float | None = None) -> Clock:
    """Find out when samples were taken, and whether that is as regular as a clock between gaps.

    Parameters
    ----------
    stream : Series
        The series.
    max_gap : float or None
        Longer steps between time stamps, in seconds, are gaps; None: 1.5 median intervals.

    Raises
    ------
    SourceError
        There are not as many time stamps as samples.
    """
    check_series(stream)
    if isinstance(stream, RegularStream):
        return Clock((Segment(0, stream.shape[0], stream.t0, stream.rate),), None, None, 1 / stream.rate)
    times = np.asarray(stream.timestamps(), dtype=np.float64)
    if times.shape != stream.shape[:1]:
        raise SourceError(f"{stream.path}: {len(times)} time stamps for {stream.shape[0]} samples")
    times, order, problems = ascending(stream.path, times)
    interval = typical_step(times)
    cuts = steps_where(times, lambda steps: steps > (max_gap or _GAP_INTERVALS * interval)) + 1
    edges = np.concatenate([[0], cuts, [len(times)]]).astype(np.int64)
    segments = tuple(_fit(times, int(a), int(b), interval) for a, b in pairwise(edges) if b > a)
    if order is None and segments and all(segment is not None for segment in segments):
        return Clock(tuple(s for s in segments if s is not None), None, None, interval, problems)
    return Clock((), times, order, interval, problems)


def typical_step(times: Floats) -> float:
    """Return the median step between time stamps (of about a million steps, evenly chosen, where there are more)."""
    if len(times) < 2:
        return 0.0
    at = np.arange(0, len(times) - 1, -(-len(times) // _STAMPS_AT_ONCE))
    return float(np.median(times[at + 1] - times[at]))


def steps_where(times: Floats, found: Callable[[Floats], npt.NDArray[np.bool_]]) -> Ints:
    """Return the positions of steps that satisfy a condition, without an array of all steps."""
    parts = [
        np.flatnonzero(found(np.diff(times[at : at + _STAMPS_AT_ONCE + 1]))) + at
        for at in range(0, len(times), _STAMPS_AT_ONCE)
    ]
    return np.concatenate([*parts, np.zeros(0, dtype=np.int64)])


def ascending(path: str, times: Floats) -> tuple[Floats, Ints | None, tuple[Problem, ...]]:
    """Return time stamps in order, the stored row of each (None: as stored), and what had to be done."""
    known = np.isfinite(times)
    steps_back = len(steps_where(times, lambda steps: steps < 0))
    if known.all() and steps_back == 0:
        return times, None, ()
    order = np.flatnonzero(known)
    order = order[np.argsort(times[order], kind="stable")]
    what = f"{int((~known).sum())} time stamps are not a number, {steps_back} go back in time"
    return times[order], order, (Problem(path, what, "dropped and sorted"),)


def _fit(times: Floats, first: int, stop: int, interval: float) -> Segment | None:
    """Return the clock that gives these time stamps to within half a sample, or None."""
    count = stop - first
    t0 = float(times[first])
    if count == 1:
        return Segment(first, stop, t0, 1 / interval) if interval > 0 else None
    period = (float(times[stop - 1]) - t0) / (count - 1)
    if period <= 0:
        return None
    for at in range(first, stop, _STAMPS_AT_ONCE):
        part = times[at : min(stop, at + _STAMPS_AT_ONCE)]
        if np.abs(part - (t0 + np.arange(at - first, at - first + len(part)) * period)).max() >= period / 2:
            return None
    return Segment(first, stop, t0, 1 / period)


class Scaled:
    """Reads physical values, a block at a time.

    Parameters
    ----------
    stream : Series
        Where values come from.
    columns : sequence of int or None
        Which channels, in which order; None for all.
    units : {"volts", "uV", "raw"}
        Physical values as the file has them, in millionths of volts, or stored numbers.
    """

    def __init__(self, stream: Series, columns: list[int] | None = None, units: Units = "volts") -> None:
        self._stream = stream
        self._columns = columns
        width = len(channel_names(stream))
        self.width = width if columns is None else len(columns)
        factor = 1.0
        self.unit = stream.unit
        if units == "raw":
            self.unit = "raw"
        elif units == "uV":
            if stream.unit.lower() not in {"v", "volt", "volts"}:
                raise SourceError(f"{stream.path}: unit is {stream.unit!r}, not volts: say units=volts")
            factor, self.unit = _MICRO, "uV"
        raw = units == "raw"
        self._scale = self._per_channel(1.0 if raw else np.asarray(stream.scale, dtype=np.float64) * factor)
        self._offset = self._per_channel(0.0 if raw else np.asarray(stream.offset, dtype=np.float64) * factor)

    def _per_channel(self, value: Any) -> Floats | float:
        flat = np.asarray(value, dtype=np.float64).ravel()
        if len(flat) == 1:
            return float(flat[0])
        return flat if self._columns is None else flat[self._columns]

    def stored(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows ``start`` to ``stop`` of the chosen channels as they are stored, shape (stop - start, width)."""
        stored = np.asarray(self._stream.read(start, stop))
        if stored.shape[0] != stop - start:
            raise SourceError(
                f"{self._stream.path}: {stored.shape[0]} rows came back for {start} to {stop}: the input is "
                "shorter than it says, or changed"
            )
        flat = stored.reshape(stop - start, math.prod(self._stream.shape[1:]))
        return flat if self._columns is None else flat[:, self._columns]

    def apply(self, stored: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        """Write the physical values of stored numbers (..., width) to ``out``.

        Small integers and float32 are scaled in float32 where that is what is wanted and nothing is added: two
        roundings, 1.2e-7 at most. Everything else is computed in float64.
        """
        if np.any(self._offset):
            np.add(stored.astype(np.float64) * self._scale, self._offset, out=out, casting="unsafe")
        elif not np.ndim(self._scale) and self._scale == 1.0:
            np.copyto(out, stored, casting="unsafe")
        elif out.dtype == np.float32 and np.can_cast(stored.dtype, np.float32):
            _scale_in_float32(stored, np.asarray(self._scale, dtype=np.float32), out)
        else:
            np.multiply(stored, self._scale, out=out, casting="unsafe", dtype=np.float64)

    def read(self, start: int, stop: int) -> Floats:
        """Return rows ``start`` to ``stop`` as physical values in float64, shape (stop - start, width)."""
        stored = self.stored(start, stop)
        out = np.empty(stored.shape, dtype=np.float64)
        self.apply(stored, out)
        return out


def _scale_in_float32(stored: npt.NDArray[Any], scale: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
    """Convert, then scale in place, few enough values at once that they stay in the cache: faster than both in one."""
    step = max(1, _VALUES_AT_ONCE * len(out) // max(1, out.size))
    for i in range(0, len(out), step):
        part = out[i : i + step]
        np.copyto(part, stored[i : i + step])
        part *= scale
