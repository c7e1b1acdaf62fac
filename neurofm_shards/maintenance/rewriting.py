"""Write samples of existing shards into new ones: what dropping, compacting and merging have in common."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurofm_shards._typing import Rows
from neurofm_shards.blocks import RowBase, shifted
from neurofm_shards.convert.work import rows_per_block
from neurofm_shards.errors import ConfigError, NoShardsError
from neurofm_shards.format.card import our_cards, write_cards
from neurofm_shards.format.dataset_record import ShardRecord, column_entries, make_manifest
from neurofm_shards.format.index_io import forget_cached, load_index
from neurofm_shards.format.manifest import ColumnEntry, Manifest, ShardEntry
from neurofm_shards.format.packed_index import commit_manifest
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.types import Block
from neurofm_shards.writing.lock import OutputLock
from neurofm_shards.writing.output_folder import OutputFolder
from neurofm_shards.writing.shard_writer import ShardWriter
from neurofm_shards.writing.statistics import SessionStats, block_statistics, is_quantity, merged


@dataclass(frozen=True)
class OpenDataSet:
    """A finished data set of ours, open for reading.

    Attributes
    ----------
    output : OutputFolder
        Its folder.
    manifest : Manifest
        Its manifest.
    collection : ShardCollection
        Its samples, opened with ``verify``: damage must not become whole by being written anew.
    """

    output: OutputFolder
    manifest: Manifest
    collection: ShardCollection


@contextmanager
def finished(folder: str | os.PathLike[str], *, locked: bool) -> Iterator[tuple[OutputFolder, Manifest]]:
    """Give a data set's folder and manifest; where it is to be written, locked, and cleared of interrupted changes.

    Raises
    ------
    NoShardsError
        There is no such folder.
    ConfigError
        It is no finished data set of ours.
    """
    output = OutputFolder(Path(folder))
    if not output.folder.is_dir():
        raise NoShardsError(f"{folder} is not a folder")
    if not locked:
        yield output, finished_manifest(output)
        return
    with OutputLock(output.folder):
        output.clean()
        if output.is_marked:
            output.give_up_addition()
        yield output, finished_manifest(output)


def finished_manifest(output: OutputFolder) -> Manifest:
    """Return the manifest of a data set that nothing is being added to (raises ConfigError)."""
    manifest, journal = output.manifest(), output.journal()
    if manifest is None:
        what = (
            "an unfinished conversion; finish it with mode='resume', or"
            if journal is not None
            else "no manifest of ours;"
        )
        raise ConfigError(f"{output.folder} holds {what} make one with repair")
    if journal is not None and journal.header.kind != "convert":
        raise ConfigError(
            f"{output.folder} has an unfinished {journal.header.kind}; finish it first with the same command, or give "
            "it up with repair"
        )
    output.check_not_being_replaced()
    return manifest


@contextmanager
def opened(output: OutputFolder, manifest: Manifest) -> Iterator[OpenDataSet]:
    """Open the samples of a data set."""
    with ShardCollection.open(output.folder, verify=True) as collection:
        yield OpenDataSet(output, manifest, collection)


@dataclass(frozen=True)
class Replacement:
    """New shards in the place of old ones.

    Attributes
    ----------
    first, stop : int
        The old ones: ``first`` to ``stop`` (exclusive), counted in the order of the data set.
    shards : tuple of numpy.ndarray of int64
        The rows of each new one.
    """

    first: int
    stop: int
    shards: tuple[Rows, ...]


def replace_shards(
    data: OpenDataSet,
    replacements: Iterable[Replacement],
    prepare: Callable[[Path], dict[str, Any]],
    *,
    durable: bool,
) -> Manifest:
    """Write new shards, in the places of old ones, and make all of it visible as one step.

    Parameters
    ----------
    data : OpenDataSet
        The data set.
    replacements : iterable of Replacement
        In the order of the data set.
    prepare : callable
        Called with the folder in which the new files are, before they are put in place; returns what the new manifest
        is to say otherwise than the old one.
    durable : bool
        Whether everything is synced.

    Raises
    ------
    IntegrityError
        A sample that was to be written anew is damaged; everything is as it was.
    """
    output = data.output
    with output.staging() as staging:
        entries, removed = _rewritten(data, replacements, staging, durable=durable)
        columns = [_columns(data, entry, staging) for entry in entries]
        manifest = make_manifest(entries, columns, data.manifest, **prepare(staging))
        mode = output.mode()
        commit_manifest(staging, manifest, beside=output.folder, durable=durable, mode=mode)
        write_cards(staging, manifest, our_cards(output.folder), durable=durable, mode=mode)
        for k, name in enumerate(data.collection.shard_names):
            if name in removed:
                forget_cached(name, data.collection.index(k).fingerprint)
        output.replace(staging, removed, durable=durable)
    return manifest


def _rewritten(
    data: OpenDataSet, replacements: Iterable[Replacement], staging: Path, *, durable: bool
) -> tuple[list[ShardEntry], list[str]]:
    """Write the new shards; return the entries of all shards, and the names of those that go."""
    shards = list(data.manifest.shards)
    entries: list[ShardEntry] = []
    removed: list[str] = []
    done, number = 0, 1 + max(entry.shard_idx for entry in shards)
    for each in replacements:
        old = [entry.shard_name for entry in shards[each.first : each.stop]]
        settings = writer_settings(data.manifest, durable=durable, mode=data.output.common_mode(old))
        entries += shards[done : each.first]
        for rows in each.shards:
            path = staging / renumbered(shards[each.first], number)
            entries.append(Rewriter(data.collection, settings).write(rows, path, number).entry)
            number += 1
        removed += old
        done = each.stop
    return entries + shards[done:], removed


def _columns(data: OpenDataSet, entry: ShardEntry, staging: Path) -> list[ColumnEntry]:
    names = data.collection.shard_names
    if entry.shard_name in names:
        return column_entries(data.collection.index(names.index(entry.shard_name)))
    return column_entries(load_index(staging / entry.shard_name, entry.checksum))


def renumbered(entry: ShardEntry, number: int) -> str:
    """Return the name of a shard with another number, as the data set's pattern would make it where that is found out.

    Examples
    --------
    >>> renumbered(ShardEntry(shard_name="m1-0007.tar.gz", shard_idx=7, num_samples=1), 12)
    'm1-0012.tar.gz'
    """
    name, end = entry.shard_name.rsplit(".tar", 1)
    for found in reversed(list(re.finditer(r"[0-9]+", name))):
        if int(found[0]) == entry.shard_idx:
            return f"{name[: found.start()]}{number:0{len(found[0])}d}{name[found.end() :]}.tar{end}"
    return f"shard_{number:06d}.tar{end}"


@dataclass(frozen=True)
class Rewriter:
    """Rewrites samples of one data set.

    Attributes
    ----------
    collection : ShardCollection
        The data set, opened with ``verify``: damage must not become whole by being written anew.
    writer : dict
        Keyword arguments of :class:`ShardWriter`.
    bases : mapping of str to RowBase
        Where the rows of each table stand now.
    """

    collection: ShardCollection
    writer: dict[str, Any]
    bases: Mapping[str, RowBase] = field(default_factory=dict)

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
