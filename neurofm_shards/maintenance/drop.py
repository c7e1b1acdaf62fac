"""Withdraws samples from a data set: only the shards that hold some are rewritten, and nothing of them is left."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from neurofm_shards._typing import Bools
from neurofm_shards.errors import ConfigError, NoShardsError
from neurofm_shards.expressions import compile_expression
from neurofm_shards.format.card import CARD_NAME, is_our_card, write_card
from neurofm_shards.format.dataset_record import column_entries
from neurofm_shards.format.files import OutputLock, write_atomically
from neurofm_shards.format.index_io import load_index
from neurofm_shards.format.manifest import Manifest, ShardEntry, merge_columns, read_rows, write_manifest
from neurofm_shards.maintenance.rewriting import Rewriter, writer_settings
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.writing.output_folder import Output
from neurofm_shards.writing.statistics import manifest_statistics, sessions_from_manifest


def drop_samples(
    folder: str | os.PathLike[str], where: str, *, durable: bool = True, dry_run: bool = False
) -> dict[str, Any]:
    """Withdraw the samples for which an expression over their metadata is true.

    Shards without such samples stay as they are; the others are rewritten under new numbers, in their places of the
    order, and those that become empty are removed. Until the new manifest stands readers find the data set as it was.
    Statistics, sources and side tables are brought up to date: rows of sessions that are gone are emptied, but keep
    their numbers. All of it becomes visible as one step, and a crash in between is finished by the next run.

    Parameters
    ----------
    folder : path
        The data set.
    where : str
        ``'subject_id == "M1"'``; see :mod:`neurofm_shards.expressions`.
    durable : bool
        Whether everything is synced.
    dry_run : bool
        Only say what would be dropped.

    Returns
    -------
    dict
        ``dropped``, ``total_samples``, ``shards_rewritten`` and ``shards_removed``.

    Raises
    ------
    ConfigError
        The expression is wrong, nothing would be left, or the folder is no finished data set of ours.
    """
    output = Output(Path(folder))
    if not output.folder.is_dir():
        raise NoShardsError(f"{folder} is not a folder")
    with OutputLock(output.folder):
        output.clean()
        manifest = finished_manifest(output)
        with ShardCollection.open(output.folder) as collection:
            drop = _Drop(output, manifest, collection, _chosen(collection, where), durable)
            report = drop.report()
            if not dry_run and report["dropped"]:
                drop.run()
    return report


def finished_manifest(output: Output) -> Manifest:
    """Return the manifest of a data set that nothing is being added to.

    Raises
    ------
    ConfigError
        There is none, or an addition or replacement was interrupted.
    """
    manifest, journal = output.manifest(), output.journal()
    if manifest is None:
        what = "an unfinished conversion" if journal is not None else "no manifest of ours"
        raise ConfigError(f"{output.folder} holds {what}; finish it with convert --resume, or make one with repair")
    if journal is not None and journal.header.kind != "convert":
        raise ConfigError(
            f"{output.folder} has an unfinished {journal.header.kind}; finish it first with the same command, or give "
            "it up with repair"
        )
    output.check_not_being_replaced()
    return manifest


def _chosen(collection: ShardCollection, where: str) -> Bools:
    expression = compile_expression(where)
    table = collection.metadata_table()
    columns = {name: table.values(name) for name in table.names if name in expression.names or name == "sample_id"}
    missing = expression.names - set(table.names)
    if missing:
        raise ConfigError(f"samples have no metadata {min(missing)!r}; there are: {', '.join(table.names)}")
    return np.asarray(expression(columns), np.bool_)


@dataclass(frozen=True)
class _Drop:
    output: Output
    manifest: Manifest
    collection: ShardCollection
    gone: Bools
    durable: bool

    def report(self) -> dict[str, Any]:
        dropped = int(self.gone.sum())
        if dropped and dropped == len(self.gone):
            raise ConfigError(f"this would drop all {dropped} samples; delete {self.output.folder} instead")
        rewritten, removed = [], []
        for k, name in enumerate(self.collection.shard_names):
            mask = self._mask(k)
            if mask.all():
                removed.append(name)
            elif mask.any():
                rewritten.append(name)
        return {
            "dropped": dropped,
            "total_samples": len(self.gone) - dropped,
            "shards_rewritten": rewritten,
            "shards_removed": removed,
        }

    def run(self) -> None:
        staging = self.output.new_staging()
        rewriter = Rewriter(
            self.collection, self.manifest, writer_settings(self.manifest, durable=self.durable), bases={}
        )
        entries: list[ShardEntry] = []
        removed = []
        number = 1 + max(entry.shard_idx for entry in self.manifest.shards)
        for k, entry in enumerate(self.manifest.shards):
            mask = self._mask(k)
            if not mask.any():
                entries.append(entry)
                continue
            removed.append(entry.shard_name)
            if not mask.all():
                rows = np.flatnonzero(~mask) + int(self.collection.starts[k])
                record = rewriter.write(rows, staging / renumbered(entry, number), number)
                entries.append(record.entry)
                number += 1
        manifest = self._updated(entries, staging, rewriter)
        write_manifest(staging, manifest, durable=self.durable)
        if is_our_card(self.output.folder / CARD_NAME):
            write_card(staging, manifest, durable=self.durable)
        self.output.replace(staging, removed, durable=self.durable)

    def _mask(self, k: int) -> Bools:
        return self.gone[self.collection.starts[k] : self.collection.starts[k + 1]]

    def _updated(self, entries: list[ShardEntry], staging: Path, rewriter: Rewriter) -> Manifest:
        sessions = self._sessions()
        kept, touched = set(sessions[~self.gone].tolist()), set(sessions[self.gone].tolist())
        left = [source for source in self.manifest.sources if source.get("session_id", "") in kept]
        total = sum(entry.num_samples for entry in entries)
        columns = merge_columns([self._columns(entry, staging) for entry in entries], total)
        values = {
            "shards": entries,
            "total_shards": len(entries),
            "total_samples": total,
            "columns": columns,
            "modalities": [column.name for column in columns],
            "sources": left if self.manifest.sources else [],
            "statistics": self._statistics(sessions, touched, rewriter),
        }
        self._write_tables(staging, touched - kept)
        return Manifest.model_validate({**self.manifest.model_dump(), **_plain(values)})

    def _sessions(self) -> npt.NDArray[Any]:
        table = self.collection.metadata_table()
        if "session_id" not in table.names:
            return np.full(len(self.gone), "", object)
        return np.array([str(value) for value in table.values("session_id")], object)

    def _columns(self, entry: ShardEntry, staging: Path) -> Any:
        staged = staging / entry.shard_name
        index = load_index(staged if staged.exists() else self.output.folder / entry.shard_name)
        counts = {name: int((column.payload_offsets >= 0).sum()) for name, column in index.columns.items()}
        return column_entries(index, counts)

    def _statistics(self, sessions: npt.NDArray[Any], touched: set[str], rewriter: Rewriter) -> dict[str, Any]:
        if not self.manifest.statistics:
            return {}
        kept = {key: s for key, s in sessions_from_manifest(self.manifest.statistics).items() if key[0] not in touched}
        rows = np.flatnonzero(~self.gone & np.isin(sessions, list(touched)))
        kept.update(rewriter.statistics(rows))
        return manifest_statistics(kept, split=self.manifest.statistics.get("split") is not None)

    def _write_tables(self, staging: Path, gone: set[str]) -> None:
        for name, entry in self.manifest.tables.items():
            rows = read_rows(self.output.folder, entry, entry.rows)
            left = list(rows)
            for source in self.manifest.sources:
                if source.get("session_id", "") in gone:
                    base, count = source.get("tables", {}).get(name, (0, 0))
                    left[base : base + count] = [{}] * count
            if left != rows:
                path = staging / entry.file
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, [orjson.dumps(left, option=orjson.OPT_APPEND_NEWLINE)], durable=self.durable)


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


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [item.model_dump() if hasattr(item, "model_dump") else item for item in value]
        if isinstance(value, list)
        else value
        for name, value in values.items()
    }
