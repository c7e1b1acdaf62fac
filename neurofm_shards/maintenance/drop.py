"""Withdraw samples from a data set: only the shards that hold some are rewritten, and nothing of them is left."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from neurofm_shards._typing import Bools
from neurofm_shards.errors import ConfigError
from neurofm_shards.expressions import Expression, compile_expression, unknown_name
from neurofm_shards.format.manifest import Manifest, read_table, write_rows
from neurofm_shards.maintenance.rewriting import OpenDataSet, Replacement, Rewriter, finished, opened, replace_shards
from neurofm_shards.reading.collection import ShardCollection
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
    with finished(folder, locked=not dry_run) as (output, manifest), opened(output, manifest) as data:
        expression = compile_expression(where)
        drop = _Drop(data, expression.names, _chosen(data.collection, expression), durable)
        report = drop.report()
        return report | drop.run() if report["dropped"] and not dry_run else report


def _chosen(collection: ShardCollection, expression: Expression) -> Bools:
    table = collection.metadata_table()
    columns = {name: table.values(name) for name in table.names if name in expression.names or name == "sample_id"}
    missing = expression.names - set(table.names)
    if missing:
        raise ConfigError(unknown_name("metadata column", min(missing), table.names))
    return np.asarray(expression(columns), np.bool_)


@dataclass(frozen=True)
class _Drop:
    data: OpenDataSet
    names: frozenset[str]
    gone: Bools
    durable: bool

    def report(self) -> dict[str, Any]:
        dropped = int(self.gone.sum())
        if dropped and dropped == len(self.gone):
            raise ConfigError(f"this would drop all {dropped} samples; delete {self.data.output.folder} instead")
        names, replacements = self.data.collection.shard_names, self._replacements()
        return {
            "dropped": dropped,
            "total_samples": len(self.gone) - dropped,
            "shards_rewritten": [names[each.first] for each in replacements if each.shards],
            "shards_removed": [names[each.first] for each in replacements if not each.shards],
        }

    def run(self) -> dict[str, Any]:
        """Withdraw the samples; return which failures were left, and which fields still name them."""
        withdrawn = Withdrawn.of(self.data.collection, self.data.manifest, self.gone, self.names)
        replacements = self._replacements()
        manifest = replace_shards(self.data, replacements, partial(self._prepare, withdrawn), durable=self.durable)
        return {
            "failures_left": [name for failure in manifest.failures for name in failure["files"]],
            "still_named_in": withdrawn.places(manifest),
        }

    def _replacements(self) -> list[Replacement]:
        """Return the replacement of each shard that loses samples: a shard of the others, if there are any."""
        found, starts = [], self.data.collection.starts
        for k in range(len(starts) - 1):
            mask = self.gone[starts[k] : starts[k + 1]]
            if mask.any():
                rows = np.flatnonzero(~mask) + int(starts[k])
                found.append(Replacement(k, k + 1, (rows,) if len(rows) else ()))
        return found

    def _prepare(self, withdrawn: Withdrawn, staging: Path) -> dict[str, Any]:
        """Write the tables that stay, delete what else holds the samples, and return the new manifest's values."""
        output, manifest = self.data.output, self.data.manifest
        self._write_tables(staging, withdrawn)
        facts = {
            "sources": [source for source in manifest.sources if not withdrawn.owns(source)],
            "failures": [failure for failure in manifest.failures if not withdrawn.mentioned_in(failure)],
            "statistics": self._statistics(withdrawn),
        }
        output.remove_replaced()
        output.remove_orphans()
        return facts

    def _statistics(self, withdrawn: Withdrawn) -> dict[str, Any]:
        if not self.data.manifest.statistics:
            return {}
        old = sessions_from_manifest(self.data.manifest.statistics)
        kept = {key: stats for key, stats in old.items() if key[0] not in withdrawn.touched}
        rows = np.flatnonzero(~self.gone & np.isin(withdrawn.sessions, list(withdrawn.touched)))
        kept.update(Rewriter(self.data.collection, {}).statistics(rows))
        return manifest_statistics(kept, split=self.data.manifest.statistics.get("split") is not None)

    def _write_tables(self, staging: Path, withdrawn: Withdrawn) -> None:
        for name, entry in self.data.manifest.tables.items():
            table = read_table(self.data.output.folder, entry)
            left = table[: entry.rows]  # what follows belongs to an addition that never finished
            for source in self.data.manifest.sources:
                if withdrawn.owns(source):
                    base, count = source.get("tables", {}).get(name, (0, 0))
                    left[base : base + count] = [{}] * count
            if left != table:
                mode = self.data.output.mode()
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
