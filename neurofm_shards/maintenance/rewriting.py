"""Writes samples of existing shards into new ones: what withdrawing and merging have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurofm_shards._typing import Rows
from neurofm_shards.convert.work import rows_per_block, shifted
from neurofm_shards.format.dataset_record import ShardRecord
from neurofm_shards.format.manifest import Manifest
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.types import Block
from neurofm_shards.writing.shard_writer import ShardWriter
from neurofm_shards.writing.statistics import SessionStats, block_statistics, is_quantity, merged


@dataclass(frozen=True)
class Rewriter:
    """Rewrites samples of one data set.

    Attributes
    ----------
    collection : ShardCollection
        The data set, opened with ``verify``: damage must not become whole by being written anew.
    manifest : Manifest
        Its manifest.
    writer : dict
        Keyword arguments of :class:`ShardWriter`.
    bases : mapping of str to int
        Added to the row numbers of each table.
    """

    collection: ShardCollection
    manifest: Manifest
    writer: dict[str, Any]
    bases: Mapping[str, int]

    def write(self, rows: Rows, path: Path, shard_idx: int, numbers: Rows | None = None) -> ShardRecord:
        """Write rows into a new shard.

        Parameters
        ----------
        rows : numpy.ndarray of int64, shape (n,)
            Which samples.
        path : Path
            The shard.
        shard_idx : int
            Its number.
        numbers : numpy.ndarray of int64, shape (n,), optional
            Numbers of new automatic keys; None keeps the samples' own ids.
        """
        step = rows_per_block(tuple(self.collection.columns.values()))
        with ShardWriter(path, shard_idx, **self.writer) as writer:
            for start in range(0, len(rows), step):
                part = slice(start, start + step)
                block = self.block(rows[part], named=numbers is None)
                writer.write_block(block, None if numbers is None else numbers[part])
            return writer.close()

    def block(self, rows: Rows, *, named: bool) -> Block:
        """Read rows as a block, with the ids they were given where ``named``."""
        columns = self.collection.gather(rows)
        metadata = self.collection.metadata(rows)
        moved = {
            name: shifted(data, self.bases.get(self.collection.columns[name].table or "", 0))
            for name, data in columns.items()
        }
        keys = [str(item["sample_id"]) for item in metadata] if named else None
        return Block(moved, metadata, keys=keys)

    def statistics(self, rows: Rows) -> SessionStats:
        """Compute the statistics of rows."""
        columns = self.collection.columns
        names = [name for name, spec in columns.items() if spec.table is None and spec.dtype is not None]
        step = rows_per_block(tuple(columns.values()))
        parts = []
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            block = Block(self.collection.gather(some, names), self.collection.metadata(some))
            parts.append(block_statistics(block, [name for name in names if is_quantity(block.columns[name])]))
        return merged(parts)


def writer_settings(manifest: Manifest, *, durable: bool, mode: int | None) -> dict[str, Any]:
    """Return how a data set's shards were written, as keyword arguments of :class:`ShardWriter`."""
    return {
        "codecs": {column.name: column.codec for column in manifest.columns if column.codec},
        "compression": manifest.config.get("compression", manifest.compression),
        "specs": {column.name: column.spec for column in manifest.columns},
        "durable": durable,
        "mode": mode,
    }
