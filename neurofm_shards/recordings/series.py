"""Series over time: physical values, time stamps, segments between gaps, and resampling per segment.

The polyphase filter is the one of ``scipy.signal.resample_poly`` (Kaiser window, beta 5, ten zero crossings), applied
in blocks that change nothing, so values inside a segment are those of that function applied to the whole segment. At a
segment's ends, where half of the filter has no samples, its remaining weights are scaled up instead of taking zeros
for data.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError, SourceError
from neurofm_shards.recordings.ticks import TICKS_PER_SECOND
from neurofm_shards.streams import IrregularStream, RegularStream
from neurofm_shards.types import Problem

Series: TypeAlias = RegularStream | IrregularStream
Units = Literal["volts", "uV", "raw"]
_GAP_INTERVALS = 1.5
#: Microvolts in one of each unit of voltage, by how files spell it (lower case).
_MICROVOLTS = {
    **dict.fromkeys(("v", "volt", "volts"), 1e6),
    **dict.fromkeys(("mv", "millivolt", "millivolts"), 1e3),
    **dict.fromkeys(("uv", "\u00b5v", "\u03bcv", "microvolt", "microvolts"), 1.0),
}
_STAMPS_AT_ONCE = 1 << 20
#: Any two stamps would be even.
_FEWEST_EVEN = 3
_VALUES_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Segment:
    """A run of samples at a constant rate: sample ``i`` (``first <= i < stop``) is at ``t0 + (i - first) / rate``."""

    first: int
    stop: int
    t0: float
    rate: float

    @property
    def end(self) -> float:
        """Seconds at which the last sample's interval ends."""
        return self.t0 + (self.stop - self.first) / self.rate


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
    longest : float
        Longest step between time stamps, in seconds, that is no gap.
    problems : tuple of Problem
        What was odd about the time stamps.
    """

    segments: tuple[Segment, ...]
    times: Floats | None
    order: Ints | None
    interval: float
    longest: float
    problems: tuple[Problem, ...] = field(default=())


def check_series(stream: Series) -> None:
    """Refuse a series whose parts do not fit together."""
    width = int(np.prod(stream.shape[1:])) if len(stream.shape) > 1 else 1
    for what, value in (("scales", stream.scale), ("offsets", stream.offset)):
        if np.ndim(value) and np.size(value) != width:
            raise SourceError(f"{stream.path}: {np.size(value)} {what} for {counted(width, 'channel')}")
    if stream.channels and len(stream.channels) != width:
        raise SourceError(f"{stream.path}: {len(stream.channels)} channel ids for {counted(width, 'channel')}")
    if isinstance(stream, RegularStream) and not (stream.rate > 0 and np.isfinite(stream.t0)):
        raise SourceError(f"{stream.path}: rate {stream.rate} Hz from {stream.t0} s is not a clock")


def nothing_held(stream: Series) -> tuple[Problem, ...]:
    """Report a series without one sample."""
    return () if stream.shape[0] else (Problem(stream.path, "holds no value at all", "its values are masked"),)


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
        return Clock((Segment(0, stream.shape[0], stream.t0, stream.rate),), None, None, 1 / stream.rate, math.inf)
    times = np.asarray(stream.timestamps(), dtype=np.float64)
    if times.shape != stream.shape[:1]:
        raise SourceError(f"{stream.path}: {counted(len(times), 'time stamp')} for {stream.shape[0]} samples")
    times, order, problems = ascending(stream.path, times)
    step = typical_step(times)
    longest = longest_step(max_gap or _GAP_INTERVALS * step, times)
    interval = step if 2 * len(steps_where(times, lambda steps: steps == 0)) < len(times) - 1 else 0.0
    cuts = steps_where(times, lambda steps: steps > longest) + 1
    edges = np.concatenate([[0], cuts, [len(times)]]).astype(np.int64)
    segments = tuple(_fit(times, int(a), int(b), interval) for a, b in pairwise(edges) if b > a)
    if order is None and segments and all(segment is not None for segment in segments):
        return Clock(tuple(s for s in segments if s is not None), None, None, interval, longest, problems)
    return Clock((), times, order, interval, longest, problems)


def even_rate(times: Floats) -> float | None:
    """Return the rate of time stamps within half a sample of a clock; None for others, and for fewer than three."""
    if len(times) < _FEWEST_EVEN or not np.isfinite(times).all():
        return None
    found = _fit(times, 0, len(times), 0.0)
    return None if found is None else found.rate


def typical_step(times: Floats) -> float:
    """Return the median step between time stamps, of those that repeat the one before left out where steps remain.

    Of more than a million steps, about as many are looked at, evenly chosen.
    """
    apart = -(-len(times) // _STAMPS_AT_ONCE) or 1
    steps = times[1::apart] - times[:-1:apart]
    steps = steps[steps != 0] if np.count_nonzero(steps) > 1 else steps
    return float(np.median(steps)) if len(steps) else 0.0


def longest_step(seconds: float, times: Floats) -> float:
    """Return the longest step that counts as this many seconds: time stamps are rounded to ticks and to float64."""
    farthest = float(max(abs(times[0]), abs(times[-1]))) if len(times) else 0.0
    return seconds + 1 / TICKS_PER_SECOND + 2 * float(np.spacing(farthest))


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
    what = f"{counted(int((~known).sum()), 'time stamp')} not a number, {steps_back} going back in time"
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
        Physical values as the file has them, in microvolts, or stored numbers.
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
            if stream.unit.lower() not in _MICROVOLTS:
                raise SourceError(f"{stream.path}: unit is {stream.unit!r}, not a voltage: say units=volts")
            factor, self.unit = _MICROVOLTS[stream.unit.lower()], "uV"
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


class SeriesTimes:
    """Time stamps in order; for a constant rate they are computed, never held."""

    def __init__(self, stream: Series) -> None:
        self._stream = stream
        self._order: Ints | None = None
        self._stamps: Floats | None = None
        self.problems: tuple[Problem, ...] = ()
        if isinstance(stream, RegularStream):
            self.count, self.interval = stream.shape[0], 1 / stream.rate
            self.last = stream.t0 + (self.count - 1) / stream.rate
            return
        stamps = np.asarray(stream.timestamps(), dtype=np.float64)
        if stamps.shape != stream.shape[:1]:
            raise SourceError(f"{stream.path}: {counted(len(stamps), 'time stamp')} for {stream.shape[0]} samples")
        self._stamps, self._order, self.problems = ascending(stream.path, stamps)
        self.count = len(self._stamps)
        self.interval = typical_step(self._stamps)
        self.last = float(self._stamps[-1]) if self.count else -math.inf

    def longest(self, seconds: float) -> float:
        """Return the longest step between samples that counts as this many seconds; see :func:`longest_step`."""
        return longest_step(seconds, self.at(np.array([0, self.count - 1])) if self.count else np.zeros(0))

    def around(self, low: float, high: float) -> tuple[int, int]:
        """Return the range of samples from the last one at or before ``low`` to the first one at or after ``high``."""
        if isinstance(self._stream, RegularStream):
            first = math.floor((low - self._stream.t0) * self._stream.rate) - 1
            last = math.ceil((high - self._stream.t0) * self._stream.rate) + 2
        elif self._stamps is not None:
            first = int(np.searchsorted(self._stamps, low, side="right")) - 1
            last = int(np.searchsorted(self._stamps, high, side="left")) + 1
        first = min(max(first, 0), self.count)
        return first, min(max(last, first), self.count)

    def bracket(self, low: Floats, high: Floats) -> tuple[Ints, Ints]:
        """Return the ranges of samples that hold all from each ``low`` to its ``high``, and few others."""
        if isinstance(self._stream, RegularStream):
            first = np.floor((low - self._stream.t0) * self._stream.rate) - 1
            last = np.ceil((high - self._stream.t0) * self._stream.rate) + 2
        else:
            stamps = np.zeros(0) if self._stamps is None else self._stamps
            first, last = np.searchsorted(stamps, low, side="left"), np.searchsorted(stamps, high, side="right")
        return tuple(np.clip(edge, 0, self.count).astype(np.int64) for edge in (first, last))

    def at(self, index: Ints) -> Floats:
        """Return the times of some samples."""
        if isinstance(self._stream, RegularStream):
            return self._stream.t0 + index / self._stream.rate
        return self._stamps[index] if self._stamps is not None else np.zeros(0)

    def part(self, first: int, last: int) -> Floats:
        """Return the times of a range of samples."""
        if isinstance(self._stream, RegularStream):
            return self._stream.t0 + np.arange(first, last) / self._stream.rate
        return self._stamps[first:last] if self._stamps is not None else np.zeros(0)

    def values(self, scaled: Scaled, first: int, last: int) -> Floats:
        """Return the values of a range of samples."""
        if self._order is None or first == last:
            return scaled.read(first, last)
        rows = self._order[first:last]
        low, high = int(rows.min()), int(rows.max()) + 1
        return scaled.read(low, high)[rows - low]


def _scale_in_float32(stored: npt.NDArray[Any], scale: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
    """Convert, then scale in place, few enough values at once that they stay in the cache: faster than both in one."""
    step = max(1, _VALUES_AT_ONCE * len(out) // max(1, out.size))
    for i in range(0, len(out), step):
        part = out[i : i + step]
        np.copyto(part, stored[i : i + step])
        part *= scale


_LARGEST_FACTOR = 1000
_ZERO_CROSSINGS = 10
_KAISER_BETA = 5.0


class Track(ABC):
    """A run of output samples: sample ``m`` is at ``t0 + m / rate`` seconds."""

    t0: float
    rate: float
    count: int

    @abstractmethod
    def load(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return samples ``start`` to ``stop``, shape (stop - start, channels), as ``finish`` wants them."""

    def finish(self, loaded: npt.NDArray[Any], out: npt.NDArray[np.float32]) -> None:
        """Write loaded samples, of any leading shape, to ``out`` as physical values."""
        np.copyto(out, loaded)


class StoredTrack(Track):
    """The stored samples of a segment, unchanged but for their scale."""

    def __init__(self, scaled: Scaled, segment: Segment) -> None:
        self._scaled = scaled
        self._first = segment.first
        self.t0, self.rate, self.count = segment.t0, segment.rate, segment.stop - segment.first

    def load(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return stored numbers."""
        return self._scaled.stored(self._first + start, self._first + stop)

    def finish(self, loaded: npt.NDArray[Any], out: npt.NDArray[np.float32]) -> None:
        """Scale stored numbers."""
        self._scaled.apply(loaded, out)


class PolyphaseTrack(Track):
    """A segment at ``rate * up / down`` samples per second."""

    def __init__(self, scaled: Scaled, segment: Segment, ratio: Fraction) -> None:
        self._scaled = scaled
        self._segment = segment
        self._up, self._down = ratio.numerator, ratio.denominator
        self._half = _ZERO_CROSSINGS * max(self._up, self._down)
        self._upfirdn, self._taps = _filter(self._up, self._down, self._half)
        length = segment.stop - segment.first
        self.t0, self.rate = segment.t0, segment.rate * self._up / self._down
        self.count = -(-length * self._up // self._down)

    def load(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Filter the stored samples that reach into these outputs."""
        up, down, half = self._up, self._down, self._half
        length = self._segment.stop - self._segment.first
        low = -((half - start * down) // up)
        high = ((stop - 1) * down + half) // up + 1
        first, last = max(0, low), min(length, high)
        values = self._scaled.read(self._segment.first + first, self._segment.first + last)
        out = self._apply(values, first, start, stop)
        if first > low or last < high:
            there = self._apply(np.ones((last - first, 1)), first, start, stop)
            full = self._apply(np.ones((high - low, 1)), low, start, stop)
            out *= full / there
        rounded: npt.NDArray[np.float32] = out.astype(np.float32)
        return rounded

    def _apply(self, values: Floats, first: int, start: int, stop: int) -> Floats:
        """Return outputs ``start`` to ``stop``, given inputs from number ``first`` on."""
        shift = self._half - first * self._up
        zeros = -shift % self._down
        taps = np.concatenate([np.zeros(zeros), self._taps])
        found = self._upfirdn(taps, values, self._up, self._down, axis=0)
        skip = start + (shift + zeros) // self._down
        out: Floats = found[skip : skip + stop - start]
        return out


class InterpolatedTrack(Track):
    """Samples whose time stamps are not regular, interpolated linearly between neighbours of one segment."""

    def __init__(self, scaled: Scaled, times: Floats, rows: Ints, rate: float) -> None:
        self._scaled, self._times, self._rows = scaled, times, rows
        self.t0, self.rate = float(times[0]), rate
        self.count = int(np.floor((times[-1] - times[0]) * rate + 1e-6)) + 1

    def load(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return interpolated samples."""
        at = np.minimum(self.t0 + np.arange(start, stop) / self.rate, self._times[-1])
        right = np.clip(np.searchsorted(self._times, at, side="left"), 1, max(1, len(self._times) - 1))
        right = np.minimum(right, len(self._times) - 1)
        left = np.maximum(right - 1, 0)
        rows = self._rows[int(left.min()) : int(right.max()) + 1]
        low, high = int(rows.min()), int(rows.max()) + 1
        values = self._scaled.read(low, high)
        before = values[self._rows[left] - low]
        after = values[self._rows[right] - low]
        steps = self._times[right] - self._times[left]
        weight = np.divide(at - self._times[left], steps, out=np.zeros_like(at), where=steps > 0)[:, None]
        between: npt.NDArray[np.float32] = (before + (after - before) * weight).astype(np.float32)
        return between


def tracks(scaled: Scaled, clock: Clock, rate: float | None) -> list[Track]:
    """Return a series resampled to a rate (None: as stored), one run per gap-free segment."""
    if clock.times is not None:
        return _interpolated(scaled, clock, rate)
    found: list[Track] = []
    for segment in clock.segments:
        ratio = Fraction(1) if rate is None else Fraction(rate / segment.rate).limit_denominator(_LARGEST_FACTOR)
        if ratio == 0:
            raise ConfigError(f"rate={rate} Hz is less than a thousandth of the stored {segment.rate:g} Hz")
        found.append(StoredTrack(scaled, segment) if ratio == 1 else PolyphaseTrack(scaled, segment, ratio))
    return found


def _interpolated(scaled: Scaled, clock: Clock, rate: float | None) -> list[Track]:
    times = clock.times
    if times is None or len(times) == 0:
        return []
    rows = clock.order if clock.order is not None else np.arange(len(times))
    cuts = steps_where(times, lambda steps: steps > clock.longest) + 1
    target = rate or 1 / clock.interval
    return [
        InterpolatedTrack(scaled, part, part_rows, target)
        for part, part_rows in zip(np.split(times, cuts), np.split(rows, cuts), strict=True)
    ]


def _filter(up: int, down: int, half: int) -> tuple[Any, Floats]:
    try:
        from scipy.signal import firwin, upfirdn  # noqa: PLC0415  (optional, and slow to import)
    except ImportError:
        raise ConfigError(
            "resampling needs scipy: run `pip install 'neurofm-shards[resample]'`, or leave the rate out to keep the "
            "stored samples"
        ) from None
    largest = max(up, down)
    taps = firwin(2 * half + 1, 1.0 / largest, window=("kaiser", _KAISER_BETA)) * up
    return upfirdn, np.asarray(taps, dtype=np.float64)
