"""Mean, spread and range per channel, of shards, sessions and data sets; mergeable.

The parallel update of mean and squared deviations is that of Chan, Golub and LeVeque (1979).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.types import Block, ColumnData, Ragged

try:
    from neurofm_shards.writing import _moments
except ImportError:  # built without a compiler
    COMPILED = False
else:
    COMPILED = True

#: What the compiled module takes.
_COMPILED_TYPES = frozenset(map(np.dtype, ("u1", "i1", "u2", "i2", "f4", "f8")))

#: Values per pass: few enough that they stay in the processor's cache from one pass to the next.
_CHUNK_VALUES = 1 << 16
_FEW_CHANNELS = 32


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
        rows = max(1, _CHUNK_VALUES // max(values.shape[1], 1))
        if values.shape[1] < _FEW_CHANNELS:
            values = np.asfortranarray(values)  # NumPy sums long rows fast, and many short ones slowly
            return functools.reduce(ChannelStats.merge, map(_of_chunk, _chunks(values, rows)))
        return functools.reduce(ChannelStats.merge, _of_chunks(values, rows))

    def merge(self, other: ChannelStats) -> ChannelStats:
        """Return the statistics of both together. Both have the same channels."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        with np.errstate(invalid="ignore"):  # infinities have no mean or spread
            delta = other.mean - self.mean
            mean, m2 = self.mean + delta * share, self.m2 + other.m2 + delta * delta * self.count * share
        low, high = np.fmin(self.low, other.low), np.fmax(self.high, other.high)
        return ChannelStats(count, self.nans + other.nans, mean, m2, low, high)

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
        """Make statistics from the values of :meth:`to_json`."""
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


def _chunks(values: npt.NDArray[Any], rows: int) -> list[npt.NDArray[Any]]:
    return [values[start : start + rows] for start in range(0, len(values), rows)]


def _of_chunks(values: npt.NDArray[Any], rows: int) -> list[ChannelStats]:
    """Return the statistics of each chunk of so many rows, with the numbers of :func:`_of_chunk`."""
    chunks = _chunks(values, rows)
    if not (COMPILED and values.flags.c_contiguous and values.dtype in _COMPILED_TYPES):
        return [_of_chunk(chunk) for chunk in chunks]
    out = np.empty((4, len(chunks), values.shape[1]))
    _moments.moments(values, rows, out)
    return [_from_moments(out[:, i], chunk) for i, chunk in enumerate(chunks)]


def _from_moments(moments: Floats, chunk: npt.NDArray[Any]) -> ChannelStats:
    mean, m2, low, high = moments
    if not np.isfinite(mean).all():
        return _of_chunk(chunk)
    count = np.full(len(mean), len(chunk), np.int64)
    return ChannelStats(count, np.zeros_like(count), mean, m2, low, high)


def _of_chunk(values: npt.NDArray[Any]) -> ChannelStats:
    numbers = values.astype(np.float64)
    total = numbers.sum(axis=0)
    if not np.isfinite(total).all():  # NaN or infinity; also finite values whose sum is not
        return _of_gappy_numbers(numbers)
    n = len(numbers)
    mean = total / n
    if _are_small_ints(values):
        m2 = np.maximum(np.einsum("ij,ij->j", numbers, numbers) - mean * mean * n, 0.0)
    else:
        numbers -= mean
        m2 = np.einsum("ij,ij->j", numbers, numbers)
    low, high = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
    count = np.full(numbers.shape[1], n, np.int64)
    return ChannelStats(count, np.zeros_like(count), mean, m2, low, high)


def _are_small_ints(values: npt.NDArray[Any]) -> bool:
    """Return whether sums of a chunk's values and of their squares are exact in float64, so that one pass does."""
    return values.dtype.kind in "iu" and values.dtype.itemsize <= 2


def _of_gappy_numbers(numbers: Floats) -> ChannelStats:
    known = ~np.isnan(numbers)
    count = known.sum(axis=0, dtype=np.int64)
    with np.errstate(invalid="ignore", over="ignore"):  # infinities have no mean or spread
        mean = np.where(known, numbers, 0.0).sum(axis=0) / np.maximum(count, 1)
        deviation = np.where(known, numbers - mean, 0.0)
        m2 = np.einsum("ij,ij->j", deviation, deviation)
    low = np.where(known, numbers, np.inf).min(axis=0)
    high = np.where(known, numbers, -np.inf).max(axis=0)
    empty = count == 0
    low, high = np.where(empty, np.nan, low), np.where(empty, np.nan, high)
    return ChannelStats(count, len(numbers) - count, mean, m2, low, high)


def _numbers(values: Floats, seen: npt.NDArray[np.bool_]) -> list[float | None]:
    finite = seen & np.isfinite(values)
    values = values + 0.0  # no -0.0: which of two zeros is the smallest value depends on the processor
    return [value if ok else None for value, ok in zip(values.tolist(), finite.tolist(), strict=True)]


def _floats(values: Sequence[float | None], missing: float) -> Floats:
    return np.array([missing if value is None else value for value in values], np.float64)


#: Samples in these splits are counted; "" is a data set without splits.
COUNTED_SPLITS = ("", "train")


#: Session, column -> statistics.
SessionStats = dict[tuple[str, str], ChannelStats]


def is_quantity(data: ColumnData) -> bool:
    """Return whether a column holds numbers (rather than masks or JSON values)."""
    values = data.values if isinstance(data, Ragged) else data
    parts = [values] if isinstance(values, np.ndarray) else [item for item in values if isinstance(item, np.ndarray)]
    return bool(parts) and parts[0].dtype.kind in "iuf"


def block_statistics(block: Block, columns: Iterable[str]) -> SessionStats:
    """Compute the statistics of a block's columns, for every session in it; samples of test splits are left out."""
    sessions: dict[str, list[int]] = {}
    for i, metadata in enumerate(block.metadata):
        if metadata.get("split", "") in COUNTED_SPLITS:
            sessions.setdefault(str(metadata.get("session_id", "")), []).append(i)
    result: SessionStats = {}
    for session, rows in sessions.items():
        for name in columns:
            if name in block.columns:
                add(result, (session, name), _column_statistics(block.columns[name], np.asarray(rows, np.int64)))
    return result


def add(into: SessionStats, key: tuple[str, str], stats: ChannelStats | None) -> None:
    """Merge statistics into a collection, in the order of the calls."""
    if stats is None:
        return
    before = into.get(key)
    if before is None:
        into[key] = stats
    elif len(before.count) == len(stats.count):
        into[key] = before.merge(stats)


def _column_statistics(data: ColumnData, rows: Ints) -> ChannelStats | None:
    parts: Sequence[Any]
    if isinstance(data, np.ndarray):
        parts, axis = [data if len(rows) == len(data) else data[rows]], 1  # the first axis is that of the samples
    else:
        parts, axis = [part for part in (data[i] for i in rows.tolist()) if isinstance(part, np.ndarray)], 0
        if isinstance(data, Ragged) and parts:
            parts = [np.concatenate(parts)]
    stats: SessionStats = {}
    for part in parts:
        if part.dtype.kind in "iuf" and part.size:
            channels = part.shape[-1] if part.ndim - axis > 1 else 1
            add(stats, ("", ""), ChannelStats.of(part.reshape(-1, channels)))
    return stats.get(("", ""))


def merged(parts: Iterable[SessionStats]) -> SessionStats:
    """Merge the statistics of shards, in shard order, so that the result does not depend on who computed them."""
    total: SessionStats = {}
    for part in parts:
        for key, stats in part.items():
            add(total, key, stats)
    return total


def manifest_statistics(sessions: SessionStats, *, split: bool) -> dict[str, Any]:
    """Return the manifest's entry: per session and, where all sessions have the same channels, for the data set."""
    by_session: dict[str, dict[str, Any]] = {}
    by_column: dict[str, list[ChannelStats]] = {}
    for (session, column), stats in sessions.items():
        by_session.setdefault(session, {})[column] = stats.to_json()
        by_column.setdefault(column, []).append(stats)
    columns = {}
    for column, parts in by_column.items():
        if len({len(part.count) for part in parts}) == 1:
            columns[column] = _fold(parts).to_json()
    return {"split": "train" if split else None, "columns": columns, "sessions": by_session}


def sessions_from_manifest(statistics: Mapping[str, Any]) -> SessionStats:
    """Return the per-session statistics that a manifest holds."""
    return {
        (session, column): ChannelStats.from_json(values)
        for session, columns in statistics.get("sessions", {}).items()
        for column, values in columns.items()
    }


def _fold(parts: Sequence[ChannelStats]) -> ChannelStats:
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total
