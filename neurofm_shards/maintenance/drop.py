"""Withdraws samples from a data set: only the shards that hold some are rewritten, and nothing of them is left."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from neurofm_shards._typing import Bools
from neurofm_shards.errors import ConfigError, NoShardsError
from neurofm_shards.expressions import Expression, compile_expression
from neurofm_shards.format.card import our_cards, write_cards
from neurofm_shards.format.dataset_record import column_entries, make_manifest
from neurofm_shards.format.index_io import forget_cached, load_index
from neurofm_shards.format.manifest import ColumnEntry, Manifest, ShardEntry, read_table, write_manifest, write_rows
from neurofm_shards.maintenance.rewriting import Rewriter, writer_settings
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.writing.lock import OutputLock
from neurofm_shards.writing.output_folder import OutputFolder
from neurofm_shards.writing.statistics import manifest_statistics, sessions_from_manifest


def drop_samples(
    folder: str | os.PathLike[str], where: str, *, durable: bool = True, dry_run: bool = False
) -> dict[str, Any]:
    """Withdraw the samples for which an expression over their metadata is true.

    Shards without such samples stay as they are; the others are rewritten under new numbers, in their places of the
    order, and those that become empty are removed. Until the new manifest stands readers find the data set as it was.
    Statistics, sources, failures and side tables are brought up to date: rows of sessions that are gone are emptied,
    but keep their numbers. Indexes in the user's cache and shards that ``repair`` kept go as well. All of
    it becomes visible as one step, and a crash in between is finished by the next run.

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
        ``dropped``, ``total_samples``, ``shards_rewritten`` and ``shards_removed``; once samples were dropped also
        ``failures_left``, inputs that could not be converted and may be about them, and ``still_named_in``, the fields
        of the manifest that still name what was withdrawn.

    Raises
    ------
    ConfigError
        The expression is wrong, nothing would be left, or the folder is no finished data set of ours.
    IntegrityError
        A sample that was to be written anew is damaged; everything is as it was.
    """
    output = OutputFolder(Path(folder))
    if not output.folder.is_dir():
        raise NoShardsError(f"{folder} is not a folder")
    if dry_run:
        with _opened(output, where, durable=durable) as drop:
            return drop.report()
    with OutputLock(output.folder):
        output.clean()
        if output.is_marked:
            output.give_up_addition()
        with _opened(output, where, durable=durable) as drop:
            report = drop.report()
            return report | drop.run() if report["dropped"] else report


@contextmanager
def _opened(output: OutputFolder, where: str, *, durable: bool) -> Iterator[_Drop]:
    manifest = finished_manifest(output)
    with ShardCollection.open(output.folder, verify=True) as collection:
        expression = compile_expression(where)
        yield _Drop(output, manifest, collection, expression.names, _chosen(collection, expression), durable)


def finished_manifest(output: OutputFolder) -> Manifest:
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


def _chosen(collection: ShardCollection, expression: Expression) -> Bools:
    table = collection.metadata_table()
    columns = {name: table.values(name) for name in table.names if name in expression.names or name == "sample_id"}
    missing = expression.names - set(table.names)
    if missing:
        raise ConfigError(f"samples have no metadata {min(missing)!r}; there are: {', '.join(table.names)}")
    return np.asarray(expression(columns), np.bool_)


@dataclass(frozen=True)
class _Drop:
    output: OutputFolder
    manifest: Manifest
    collection: ShardCollection
    names: frozenset[str]
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

    def run(self) -> dict[str, Any]:
        """Withdraw the samples; return what could not be told to be about them, or still names them."""
        withdrawn = Withdrawn.of(self.collection, self.manifest, self.gone, self.names)
        with self.output.staging() as staging:
            entries, removed = self._rewrite(staging)
            manifest = self._updated(entries, staging, withdrawn)
            mode = self.output.mode()
            write_manifest(staging, manifest, durable=self.durable, mode=mode)
            write_cards(staging, manifest, our_cards(self.output.folder), durable=self.durable, mode=mode)
            self._purge(removed)
            self.output.replace(staging, removed, durable=self.durable)
        return {
            "failures_left": [name for failure in manifest.failures for name in failure["files"]],
            "still_named_in": withdrawn.places(manifest),
        }

    def _rewrite(self, staging: Path) -> tuple[list[ShardEntry], list[str]]:
        """Write the shards that some samples are left of anew; return all entries, and the shards that go."""
        settings = writer_settings(self.manifest, durable=self.durable, mode=None)
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
                mode = self.output.common_mode([entry.shard_name])
                rewriter = Rewriter(self.collection, self.manifest, {**settings, "mode": mode}, bases={})
                record = rewriter.write(rows, staging / renumbered(entry, number), number)
                entries.append(record.entry)
                number += 1
        return entries, removed

    def _purge(self, removed: list[str]) -> None:
        """Delete what else holds the samples: caches, shards that repair kept, sidecars without a shard."""
        for k, name in enumerate(self.collection.shard_names):
            if name in removed:
                forget_cached(name, self.collection.index(k).fingerprint)
        self.output.remove_replaced()
        self.output.remove_orphans()

    def _mask(self, k: int) -> Bools:
        return self.gone[self.collection.starts[k] : self.collection.starts[k + 1]]

    def _updated(self, entries: list[ShardEntry], staging: Path, withdrawn: Withdrawn) -> Manifest:
        self._write_tables(staging, withdrawn)
        return make_manifest(
            entries,
            [self._columns(entry, staging) for entry in entries],
            self.manifest,
            sources=[source for source in self.manifest.sources if not withdrawn.owns(source)],
            failures=[failure for failure in self.manifest.failures if not withdrawn.mentioned_in(failure)],
            statistics=self._statistics(withdrawn),
        )

    def _columns(self, entry: ShardEntry, staging: Path) -> list[ColumnEntry]:
        names = self.collection.shard_names
        if entry.shard_name in names:
            return column_entries(self.collection.index(names.index(entry.shard_name)))
        return column_entries(load_index(staging / entry.shard_name, entry.checksum))

    def _statistics(self, withdrawn: Withdrawn) -> dict[str, Any]:
        if not self.manifest.statistics:
            return {}
        old = sessions_from_manifest(self.manifest.statistics)
        kept = {key: stats for key, stats in old.items() if key[0] not in withdrawn.touched}
        rows = np.flatnonzero(~self.gone & np.isin(withdrawn.sessions, list(withdrawn.touched)))
        kept.update(Rewriter(self.collection, self.manifest, {}, bases={}).statistics(rows))
        return manifest_statistics(kept, split=self.manifest.statistics.get("split") is not None)

    def _write_tables(self, staging: Path, withdrawn: Withdrawn) -> None:
        for name, entry in self.manifest.tables.items():
            table = read_table(self.output.folder, entry)
            left = table[: entry.rows]  # what follows belongs to an addition that never finished
            for source in self.manifest.sources:
                if withdrawn.owns(source):
                    base, count = source.get("tables", {}).get(name, (0, 0))
                    left[base : base + count] = [{}] * count
            if left != table:
                mode = self.output.mode()
                write_rows(staging, entry, left, durable=self.durable, mode=mode)


@dataclass(frozen=True)
class Withdrawn:
    """What withdrawn samples are called by, and which sessions they were of.

    Attributes
    ----------
    sessions : numpy.ndarray of str, shape (n,)
        The session of each sample of the data set.
    touched, gone : frozenset of str
        Sessions that lose samples, and those that lose all.
    words : frozenset of str
        Texts that are said of withdrawn samples and of no sample that stays: subjects, sessions, input files.
    """

    sessions: npt.NDArray[Any]
    touched: frozenset[str]
    gone: frozenset[str]
    words: frozenset[str]

    @classmethod
    def of(cls, collection: ShardCollection, manifest: Manifest, gone: Bools, names: Iterable[str]) -> Withdrawn:
        """Find out for the samples where ``gone`` is true; ``names`` are the metadata that they were chosen by."""
        table = collection.metadata_table()
        words: set[str] = set()
        sessions = np.full(len(gone), "", object)
        for name in {*names, "session_id", "subject_id"} & set(table.names):
            if table.kind(name) != "text":
                continue
            values = np.array([str(value) for value in table.values(name)], object)
            words |= set(values[gone].tolist()) - set(values[~gone].tolist())
            sessions = values if name == "session_id" else sessions
        touched = frozenset(sessions[gone].tolist())
        lost = touched - set(sessions[~gone].tolist())
        files = [file for source in manifest.sources if source.get("session_id") in lost for file in source["files"]]
        return cls(sessions, touched, lost, frozenset(words) | frozenset(files))

    def owns(self, source: Mapping[str, Any]) -> bool:
        """Return whether an input is of a session that is gone, or gave no sample and names what is withdrawn."""
        session = source.get("session_id", "")
        return session in self.gone or (session not in set(self.sessions.tolist()) and self.mentioned_in(source))

    def mentioned_in(self, said: object) -> bool:
        """Return whether JSON values name what is withdrawn."""
        text = orjson.dumps(said).decode()
        return any(re.search(rf"(?<![^\W_]){re.escape(_quoted(word))}(?![^\W_])", text) for word in self.words if word)

    def places(self, manifest: Manifest) -> list[str]:
        """Return the fields of a manifest that still name what is withdrawn."""
        values = manifest.model_dump()
        return [name for name, value in values.items() if self.mentioned_in(value)]


def _quoted(word: str) -> str:
    return orjson.dumps(word).decode()[1:-1]


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
