"""Statistics of every session and of the data set, merged in shard order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Ints
from neurofm_shards.types import Block, ColumnData, Ragged
from neurofm_shards.writing.statistics import ChannelStats

#: Samples in these splits are counted; "" is a data set without splits.
COUNTED_SPLITS = ("", "train")


#: Session, column -> statistics.
SessionStats = dict[tuple[str, str], ChannelStats]


def is_quantity(data: ColumnData) -> bool:
    """Say whether a column holds numbers (rather than masks or JSON values)."""
    values = data.values if isinstance(data, Ragged) else data
    parts = [values] if isinstance(values, np.ndarray) else [item for item in values if isinstance(item, np.ndarray)]
    return bool(parts) and parts[0].dtype.kind in "iuf"


def block_statistics(block: Block, columns: Iterable[str]) -> SessionStats:
    """Compute the statistics of a block's columns, for every session in it; samples of test splits are left out."""
    result: SessionStats = {}
    for session, rows in _rows_by_session(block).items():
        for name in columns:
            if name in block.columns:
                add(result, (session, name), _column_statistics(block.columns[name], rows))
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


def _rows_by_session(block: Block) -> dict[str, Ints]:
    rows: dict[str, list[int]] = {}
    for i, metadata in enumerate(block.metadata):
        if metadata.get("split", "") in COUNTED_SPLITS:
            rows.setdefault(str(metadata.get("session_id", "")), []).append(i)
    return {session: np.asarray(numbers, np.int64) for session, numbers in rows.items()}


def _column_statistics(data: ColumnData, rows: Ints) -> ChannelStats | None:
    if isinstance(data, np.ndarray):
        chosen = data if len(rows) == len(data) else data[rows]
        return _array_statistics(chosen, data.ndim - 1)
    parts = [part for part in (data[i] for i in rows.tolist()) if isinstance(part, np.ndarray)]
    if isinstance(data, Ragged) and parts:
        return _array_statistics(np.concatenate(parts), parts[0].ndim)
    stats: SessionStats = {}
    for part in parts:
        add(stats, ("", ""), _array_statistics(part, part.ndim))
    return stats.get(("", ""))


def _array_statistics(values: npt.NDArray[Any], sample_dimensions: int) -> ChannelStats | None:
    if values.dtype.kind not in "iuf" or values.size == 0:
        return None
    channels = values.shape[-1] if sample_dimensions > 1 else 1
    return ChannelStats.of(values.reshape(-1, channels))


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
