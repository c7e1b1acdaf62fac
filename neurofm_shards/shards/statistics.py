"""Mean, spread and range per channel, mergeable.

The parallel update of mean and squared deviations is that of Chan, Golub and LeVeque (1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ChannelStats:
    """What is known of the values of each channel (last axis of a sample; one channel where samples have one axis).

    Attributes
    ----------
    count, nans : numpy.ndarray of int64, shape (channels,)
        Numbers of values that are finite or infinite, and of NaNs.
    mean, m2 : numpy.ndarray of float64, shape (channels,)
        Mean and sum of squared deviations from it.
    low, high : numpy.ndarray of float64, shape (channels,)
        Smallest and largest value; NaN where there is none.
    """

    count: Ints
    nans: Ints
    mean: Floats
    m2: Floats
    low: Floats
    high: Floats

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> ChannelStats:
        """Compute the statistics of an array of shape (values, channels)."""
        if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
            return cls._of_small_ints(values)
        numbers = values.astype(np.float64)
        known = ~np.isnan(numbers)
        count = known.sum(axis=0, dtype=np.int64)
        whole = bool(known.all())
        filled = numbers if whole else np.where(known, numbers, 0.0)
        mean = filled.sum(axis=0) / np.maximum(count, 1)
        deviation = filled - mean
        if not whole:
            deviation[~known] = 0.0
        m2 = np.einsum("ij,ij->j", deviation, deviation)
        low = numbers.min(axis=0) if whole else np.where(known, numbers, np.inf).min(axis=0)
        high = numbers.max(axis=0) if whole else np.where(known, numbers, -np.inf).max(axis=0)
        empty = count == 0
        return cls(count, len(numbers) - count, mean, m2, np.where(empty, np.nan, low), np.where(empty, np.nan, high))

    @classmethod
    def _of_small_ints(cls, values: npt.NDArray[Any]) -> ChannelStats:
        # Sums of integers are exact, so the mean needs no pass of its own.
        n = len(values)
        total = values.sum(axis=0, dtype=np.int64)
        wide = values.astype(np.int64)
        squares = np.einsum("ij,ij->j", wide, wide)
        mean = total / n
        m2 = np.maximum((squares * n - total * total) / n, 0.0)
        count = np.full(values.shape[1], n, np.int64)
        low, high = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
        return cls(count, np.zeros_like(count), mean, m2, low, high)

    def merge(self, other: ChannelStats) -> ChannelStats:
        """Return the statistics of both together. Both have the same channels."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        delta = other.mean - self.mean
        return ChannelStats(
            count,
            self.nans + other.nans,
            self.mean + delta * share,
            self.m2 + other.m2 + delta * delta * self.count * share,
            np.fmin(self.low, other.low),
            np.fmax(self.high, other.high),
        )

    def to_json(self) -> dict[str, list[int] | list[float | None]]:
        """Return JSON values; a channel without values has None."""
        std = np.sqrt(self.m2 / np.maximum(self.count, 1))
        seen = self.count > 0
        return {
            "count": self.count.tolist(),
            "mean": _numbers(self.mean, seen),
            "std": _numbers(std, seen),
            "min": _numbers(self.low, seen),
            "max": _numbers(self.high, seen),
            "nans": self.nans.tolist(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Sequence[float | None]]) -> ChannelStats:
        """Return what :meth:`to_json` made."""
        count = np.asarray(values["count"], np.int64)
        mean, std = _floats(values["mean"], 0.0), _floats(values["std"], 0.0)
        return cls(
            count,
            np.asarray(values["nans"], np.int64),
            mean,
            std * std * count,
            _floats(values["min"], np.nan),
            _floats(values["max"], np.nan),
        )


def _numbers(values: Floats, seen: npt.NDArray[np.bool_]) -> list[float | None]:
    finite = seen & np.isfinite(values)
    return [value if ok else None for value, ok in zip(values.tolist(), finite.tolist(), strict=True)]


def _floats(values: Sequence[float | None], missing: float) -> Floats:
    return np.array([missing if value is None else value for value in values], np.float64)
