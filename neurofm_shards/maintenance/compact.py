"""Joins neighbouring shards that are not full, as appending leaves them, into full ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurofm_shards.errors import NoShardsError
from neurofm_shards.format.card import our_cards, write_cards
from neurofm_shards.format.dataset_record import column_entries, make_manifest
from neurofm_shards.format.index_io import forget_cached, load_index
from neurofm_shards.format.manifest import ColumnEntry, Manifest, ShardEntry, write_manifest
from neurofm_shards.maintenance.drop import finished_manifest, renumbered
from neurofm_shards.maintenance.rewriting import Rewriter, writer_settings
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.writing.lock import OutputLock
from neurofm_shards.writing.output_folder import OutputFolder


def compact(folder: str | os.PathLike[str], *, durable: bool = True, dry_run: bool = False) -> dict[str, Any]:
    """Write neighbouring shards that are not full anew, as fewer and full ones.

    Samples keep their order, their keys and their content; each is checked against its checksum while it is copied.
    Full shards stay as they are. New shards get new numbers, in the places of the old ones. All of it becomes visible
    as one step, and a crash in between is finished by the next run.

    Parameters
    ----------
    folder : path
        The data set.
    durable : bool
        Whether everything is synced.
    dry_run : bool
        Only say what would be done.

    Returns
    -------
    dict
        ``shards_before``, ``shards_after``, ``shards_rewritten`` and ``samples_rewritten``.

    Raises
    ------
    ConfigError
        The folder is no finished data set of ours.
    IntegrityError
        A sample is damaged; everything is as it was.
    """
    output = OutputFolder(Path(folder))
    if not output.folder.is_dir():
        raise NoShardsError(f"{folder} is not a folder")
    if dry_run:
        return _report(finished_manifest(output))
    with OutputLock(output.folder):
        output.clean()
        if output.is_marked:
            output.give_up_addition()
        manifest = finished_manifest(output)
        report = _report(manifest)
        if report["shards_rewritten"]:
            with ShardCollection.open(output.folder, verify=True) as collection:
                _Compaction(output, manifest, collection, durable).run()
        return report


@dataclass(frozen=True)
class Run:
    """Neighbouring shards, and the sizes of those that take their place.

    Attributes
    ----------
    first, stop : int
        Shards ``first`` to ``stop`` (exclusive), counted in the order of the data set.
    sizes : tuple of int
        Samples of the new shards; empty where the old ones stay.
    """

    first: int
    stop: int
    sizes: tuple[int, ...] = ()


def runs(counts: Sequence[int], shard_size: int) -> Iterator[Run]:
    """Yield all shards of a data set as runs: those that stay, and those that become fewer.

    Examples
    --------
    >>> list(runs([4, 1, 2, 4, 3], 4))
    [Run(first=0, stop=1, sizes=()), Run(first=1, stop=3, sizes=(3,)), Run(first=3, stop=4, sizes=()), \
Run(first=4, stop=5, sizes=())]
    """
    first = 0
    while first < len(counts):
        stop = first
        while stop < len(counts) and counts[stop] < shard_size:
            stop += 1
        total = sum(counts[first:stop])
        sizes = tuple(min(shard_size, total - done) for done in range(0, total, shard_size))
        if stop - first > len(sizes):
            yield Run(first, stop, sizes)
        else:
            stop = max(stop, first + 1)
            yield Run(first, stop)
        first = stop


def _report(manifest: Manifest) -> dict[str, Any]:
    shards = manifest.shards
    found = list(runs([entry.num_samples for entry in shards], manifest.shard_size))
    rewritten = [entry for run in found if run.sizes for entry in shards[run.first : run.stop]]
    return {
        "shards_before": len(shards),
        "shards_after": len(shards) - len(rewritten) + sum(len(run.sizes) for run in found),
        "shards_rewritten": [entry.shard_name for entry in rewritten],
        "samples_rewritten": sum(entry.num_samples for entry in rewritten),
    }


@dataclass(frozen=True)
class _Compaction:
    output: OutputFolder
    manifest: Manifest
    collection: ShardCollection
    durable: bool

    def run(self) -> None:
        with self.output.staging() as staging:
            entries, removed = self._rewrite(staging)
            mode = self.output.mode()
            columns = [self._columns(entry, staging) for entry in entries]
            manifest = make_manifest(entries, columns, self.manifest)
            write_manifest(staging, manifest, durable=self.durable, mode=mode)
            write_cards(staging, manifest, our_cards(self.output.folder), durable=self.durable, mode=mode)
            for k, name in enumerate(self.collection.shard_names):
                if name in removed:
                    forget_cached(name, self.collection.index(k).fingerprint)
            self.output.replace(staging, removed, durable=self.durable)

    def _rewrite(self, staging: Path) -> tuple[list[ShardEntry], list[str]]:
        """Write the new shards; return the entries of all shards, and the names of those that go."""
        shards = self.manifest.shards
        number = 1 + max(entry.shard_idx for entry in shards)
        entries: list[ShardEntry] = []
        removed: list[str] = []
        for run in runs([entry.num_samples for entry in shards], self.manifest.shard_size):
            old = shards[run.first : run.stop]
            if not run.sizes:
                entries += old
                continue
            names = [entry.shard_name for entry in old]
            removed += names
            settings = writer_settings(self.manifest, durable=self.durable, mode=self.output.common_mode(names))
            rewriter = Rewriter(self.collection, self.manifest, settings, bases={})
            start = int(self.collection.starts[run.first])
            for size in run.sizes:
                path = staging / renumbered(old[0], number)
                record = rewriter.write(np.arange(start, start + size, dtype=np.int64), path, number)
                entries.append(record.entry)
                start, number = start + size, number + 1
        return entries, removed

    def _columns(self, entry: ShardEntry, staging: Path) -> list[ColumnEntry]:
        names = self.collection.shard_names
        if entry.shard_name in names:
            return column_entries(self.collection.index(names.index(entry.shard_name)))
        return column_entries(load_index(staging / entry.shard_name, entry.checksum))
