"""Statistics of windows that are cut when they are read: of those that train, column by column, and kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from neurofm_shards._typing import Ints
from neurofm_shards.reading.samples import SampleCollection
from neurofm_shards.stored.plan import Kept
from neurofm_shards.types import Block
from neurofm_shards.writing.statistics import (
    COUNTED_SPLITS,
    ChannelStats,
    SessionStats,
    block_statistics,
    is_quantity,
    manifest_statistics,
    merged,
)

_VALUES_AT_ONCE = 1 << 22


def training_statistics(windows: SampleCollection, columns: Sequence[str]) -> dict[str, Any]:
    """Return statistics of some columns as in a manifest: of windows in the split ``train``, or in none.

    A column that nobody asked for before is read once.
    """
    total: SessionStats = {}
    for name in columns:
        if windows.columns[name].table is None:
            total |= _column(windows, name)
    table = windows.metadata_table()
    return manifest_statistics(total, split=any(table.codes("split")[1]))


def _column(windows: SampleCollection, name: str) -> SessionStats:
    kept = Kept(windows.catalog.folder, windows.fingerprint, f"{name}.statistics")
    found = kept.read()
    if found is not None:
        return {(session, name): ChannelStats.from_json(said) for session, said in found[0]["sessions"].items()}
    stats = merged(_parts(windows, name))
    kept.write({"sessions": {session: said.to_json() for (session, _), said in stats.items()}}, {})
    return stats


def _parts(windows: SampleCollection, name: str) -> Iterator[SessionStats]:
    sessions, codes = windows.metadata_table().values("session_id"), windows.metadata_table().values("split")
    counted = np.flatnonzero(np.isin(codes.astype(str), COUNTED_SPLITS))
    for rows in _batches(windows, name, counted):
        data = windows.gather(rows, [name])[name]
        if is_quantity(data):
            said = [{"session_id": sessions[row]} for row in rows.tolist()]
            yield block_statistics(Block({name: data}, said), [name])


def _batches(windows: SampleCollection, name: str, rows: Ints) -> list[Ints]:
    """Cut rows into batches of few enough values."""
    shape = windows.columns[name].shape or ()
    each = int(np.prod([length or 1 for length in shape], dtype=np.int64))
    step = max(1, min(1000, _VALUES_AT_ONCE // max(1, each)))
    return [rows[first : first + step] for first in range(0, len(rows), step)]
