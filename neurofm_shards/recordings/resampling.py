"""Series at another rate: polyphase filtering per gap-free segment, in blocks that change nothing.

The filter is the one of ``scipy.signal.resample_poly`` (Kaiser window, beta 5, ten zero crossings), so values inside a
segment are those of that function applied to the whole segment. At a segment's ends, where half of the filter has no
samples, its remaining weights are scaled up instead of taking zeros for data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import ConfigError
from neurofm_shards.recordings.series import Clock, Scaled, Segment, steps_where

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


def tracks(scaled: Scaled, clock: Clock, rate: float | None, max_gap: float | None) -> list[Track]:
    """Return what a series gives at a rate (None: as stored), one run per gap-free segment."""
    if clock.times is not None:
        return _interpolated(scaled, clock, rate, max_gap)
    found: list[Track] = []
    for segment in clock.segments:
        ratio = Fraction(1) if rate is None else Fraction(rate / segment.rate).limit_denominator(_LARGEST_FACTOR)
        if ratio == 0:
            raise ConfigError(f"rate={rate} Hz is less than a thousandth of the stored {segment.rate:g} Hz")
        found.append(StoredTrack(scaled, segment) if ratio == 1 else PolyphaseTrack(scaled, segment, ratio))
    return found


def _interpolated(scaled: Scaled, clock: Clock, rate: float | None, max_gap: float | None) -> list[Track]:
    times = clock.times
    if times is None or len(times) == 0:
        return []
    rows = clock.order if clock.order is not None else np.arange(len(times))
    cuts = steps_where(times, lambda steps: steps > (max_gap or 1.5 * clock.interval)) + 1
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
