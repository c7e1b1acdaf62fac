"""Join data sets with equal columns into a new one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import numpy as np

from neurofm_shards._typing import Ints
from neurofm_shards._wording import counted, listed
from neurofm_shards.blocks import RowBase, add_rows
from neurofm_shards.convert.agreement import agreed_columns
from neurofm_shards.convert.session import overlaid
from neurofm_shards.errors import ConfigError, NoShardsError
from neurofm_shards.format.card import write_cards
from neurofm_shards.format.dataset_record import ShardRecord, make_manifest
from neurofm_shards.format.keys import automatic_number
from neurofm_shards.format.manifest import Manifest, TableEntry, read_rows, summary, write_rows
from neurofm_shards.format.packed_index import commit_manifest
from neurofm_shards.maintenance.rewriting import OpenDataSet, Rewriter, finished_manifest, opened, writer_settings
from neurofm_shards.reading.samples import OnDifferent, check_alike
from neurofm_shards.writing.lock import OutputLock
from neurofm_shards.writing.output_folder import REPLACING, OutputFolder
from neurofm_shards.writing.statistics import SessionStats, add, manifest_statistics, sessions_from_manifest

_LOG = logging.getLogger("neurofm_shards.maintenance")


def merge(
    folders: Sequence[str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    *,
    durable: bool = True,
    overwrite: bool = False,
    on_different: OnDifferent = "error",
) -> dict[str, Any]:
    """Join data sets into a new one; the old ones stay as they are.

    Samples keep their order. Automatic keys are numbered anew, named ones stay. Rows of side tables are joined, and the
    columns that refer to them follow. The settings that all were made with are those of the new data set; each input
    keeps those of its own that others do not share. Saved splits stay behind, which is logged. Nothing is visible
    before all of it is written.

    Parameters
    ----------
    folders : sequence of path
        The data sets, in order.
    output_dir : path
        The new data set.
    durable : bool
        Whether everything is synced.
    overwrite : bool
        Replace a data set that is in ``output_dir``.
    on_different : "error" or "allow"
        What to do where bins, lengths of windows or rates of series differ between the data sets, or where a subject
        that they were split by is in several splits. Values in different physical units are never joined: a column has
        one unit.

    Returns
    -------
    dict
        The summary of the new data set.

    Raises
    ------
    ConfigError
        Columns, sessions or keys do not go together, or bins, rates or the splits of subjects differ.
    """
    if len(folders) < 2:
        raise ConfigError(f"merge joins two data sets or more, and was given {len(folders)}")
    output = OutputFolder(Path(output_dir))
    with ExitStack() as stack:
        parts = [stack.enter_context(_opened(Path(folder), output.folder)) for folder in folders]
        _check(parts, on_different)
        stack.enter_context(OutputLock(output.folder))
        if not (overwrite and output.is_ours()):
            output.check_free(REPLACING)
        output.clean()
        output.give_up_replacement()
        with output.staging() as staging:
            manifest = _Merge(parts, staging, durable).run()
            old = output.shard_names() if overwrite else set()
            output.replace(staging, old - {entry.shard_name for entry in manifest.shards}, durable=durable)
        if saved := [str(part.output.folder) for part in parts if part.manifest.splits]:
            what = f"splits that were saved with {listed(saved, 3)} are not those of {output.folder}"
            _LOG.warning("%s: divide it anew (neurofm_shards.split and save_splits, or the command split)", what)
    return summary(output.folder, manifest)


@contextmanager
def _opened(folder: Path, target: Path) -> Iterator[OpenDataSet]:
    if folder.resolve() == target.resolve():
        raise ConfigError(f"{folder} is both joined and written; name another output")
    output = OutputFolder(folder)
    if not folder.is_dir():
        raise NoShardsError(f"{folder} is not a folder")
    with opened(output, finished_manifest(output)) as data:
        yield data


def _check(parts: Sequence[OpenDataSet], on_different: OnDifferent) -> None:
    named_columns = [(str(part.output.folder), part.manifest.specs) for part in parts]
    agreed_columns(named_columns, other_type="convert one of them anew, so that they are alike")
    kinds = {part.manifest.compression for part in parts}
    named = [(c.name, c.codec) for part in parts for c in part.manifest.columns]
    differing = len(set(named)) > len({name for name, _ in named})
    if len(kinds) > 1 or differing:
        raise ConfigError(
            f"data sets differ in compression {sorted(kinds)} or codecs; convert them alike to merge them"
        )
    named_parts = [(str(part.output.folder), part.collection) for part in parts]
    remedy = "say on_different='allow' to join them as they are"
    check_alike(named_parts, "merge", remedy, on_different, units=False)
    folders: set[Path] = set()
    owners: dict[str, Path] = {}
    for part in parts:
        folder = part.output.folder
        if folder.resolve() in folders:
            raise ConfigError(f"{folder} is named twice: its samples would be there twice")
        folders.add(folder.resolve())
        for source in part.manifest.sources:
            other = owners.setdefault(source["session_id"], folder)
            if other != folder:
                raise ConfigError(f"{other} and {folder} both hold session {source['session_id']!r}")
    if on_different == "error":
        _check_subjects(parts)


def _check_subjects(parts: Sequence[OpenDataSet]) -> None:
    """Refuse data sets of which one was split by subject, where a subject is in one split here, in another there."""
    homes: dict[str, dict[str, str]] = {}
    by_subject = False
    for part in parts:
        for source in part.manifest.sources:
            windows = overlaid(part.manifest.config, source.get("config", {})).get("windows") or {}
            by_subject |= (windows.get("split") or {}).get("by") == "subject"
            facts = source.get("facts", {})
            for split in filter(None, facts.get("splits", {})):
                homes.setdefault(facts.get("subject_id") or "", {}).setdefault(split, part.output.folder.name)
    torn = {name: splits for name, splits in homes.items() if name and len(splits) > 1}
    if by_subject and torn:
        told = [f"{name} ({', '.join(map(' in '.join, splits.items()))})" for name, splits in torn.items()]
        raise ConfigError(
            f"split by subject: {counted(len(torn), 'subject')} would be in more than one split: {listed(told, 5)}. "
            "Say on_different='allow' to join them as they are, and divide the result anew: neurofm-shards split "
            "FOLDER --by subject --overwrite"
        )


class _Merge:
    """Writes the joined data set into a staging folder."""

    def __init__(self, parts: Sequence[OpenDataSet], staging: Path, durable: bool) -> None:
        self._parts = parts
        #: As strict as the strictest of what is joined.
        self._mode = reduce(and_, (mode for part in parts if (mode := part.output.mode()) is not None))
        self._staging = staging
        self._durable = durable
        self._rows: dict[str, list[Mapping[str, Any]]] = {}
        self._sources: list[dict[str, Any]] = []
        self._named: set[str] = set()
        self._next = 1
        self._shards_written = 0

    def run(self) -> Manifest:
        records = [record for part in self._parts for record in self._shards(part)]
        return self._manifest(records)

    def _shards(self, part: OpenDataSet) -> Iterator[ShardRecord]:
        bases = self._add_tables(part)
        self._sources += [_moved(source, bases, part.manifest.config) for source in part.manifest.sources]
        settings = writer_settings(part.manifest, durable=self._durable, mode=self._mode)
        rewriter = Rewriter(part.collection, settings, bases)
        for k in range(len(part.collection.shard_names)):
            rows = np.arange(part.collection.starts[k], part.collection.starts[k + 1], dtype=np.int64)
            idx = self._shards_written
            self._shards_written += 1
            path = self._staging / f"shard_{idx:06d}{_suffix(part.collection.shard_names[k])}"
            yield rewriter.write(rows, path, idx, self._numbers(part, k))
        self._next += part.manifest.next_key - 1

    def _numbers(self, part: OpenDataSet, k: int) -> Ints | None:
        keys = part.collection.shard_keys(k)
        numbers = [automatic_number(key) for key in keys]
        if None not in numbers:
            return np.array(numbers, np.int64) + (self._next - 1)
        twice = self._named & set(keys)
        if twice or any(number is not None for number in numbers):
            raise ConfigError(
                f"{part.output.folder}: key {min(twice or set(keys))!r} cannot be kept: another data set has it, or "
                "automatic and named keys are mixed in one shard"
            )
        self._named.update(keys)
        return None

    def _add_tables(self, part: OpenDataSet) -> dict[str, RowBase]:
        return {
            name: add_rows(name, self._rows.setdefault(name, []), read_rows(part.output.folder, entry, entry.rows))
            for name, entry in part.manifest.tables.items()
        }

    def _manifest(self, records: Sequence[ShardRecord]) -> Manifest:
        manifests = [part.manifest for part in self._parts]
        config = _common_settings([item.config for item in manifests])
        manifest = make_manifest(
            [record.entry for record in records],
            [record.columns for record in records],
            shard_size=max(item.shard_size for item in manifests),
            compression=manifests[0].compression,
            compression_distribution=manifests[0].compression_distribution,
            next_key=self._next,
            statistics=self._statistics(manifests),
            tables=self._write_tables(),
            sources=[_with_own_settings(source, config) for source in self._sources],
            failures=[failure for item in manifests for failure in item.failures],
            config=config,
            software={name: version for item in manifests for name, version in item.software.items()},
        )
        write_cards(self._staging, manifest, durable=self._durable, mode=self._mode)
        commit_manifest(self._staging, manifest, durable=self._durable, mode=self._mode)
        return manifest

    def _statistics(self, manifests: Sequence[Manifest]) -> dict[str, Any]:
        if not any(item.statistics for item in manifests):
            return {}
        total: SessionStats = {}
        for item in manifests:
            for key, stats in sessions_from_manifest(item.statistics).items():
                add(total, key, stats)
        split = any(item.statistics.get("split") is not None for item in manifests)
        return manifest_statistics(total, split=split)

    def _write_tables(self) -> dict[str, TableEntry]:
        entries = {}
        for name, rows in self._rows.items():
            entry = TableEntry(file=f".neurofm/tables/{name}.json", rows=len(rows))
            write_rows(self._staging, entry, rows, durable=self._durable, mode=self._mode)
            entries[name] = entry
        return entries


def _moved(source: Mapping[str, Any], bases: Mapping[str, RowBase], config: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: base for name, base in bases.items() if isinstance(base, int)}
    tables = {name: [base + own[name], count] for name, (base, count) in source.get("tables", {}).items()}
    return {**source, "tables": tables, "config": overlaid(config, source.get("config", {}))}


def _with_own_settings(source: dict[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """Let a source say the settings that it was converted with and others were not, and no others."""
    own = _beyond(source.pop("config"), common)
    return {**source, "config": own} if own else source


def _common_settings(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that all data sets were made with; the format is found anew where it differs."""
    common = reduce(_agreed, configs)
    converted = any("format" in config for config in configs)
    return {**common, "format": common.get("format", "auto")} if common and converted else dict(common)


def _agreed(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that two nested mappings share."""
    found = {}
    for name in one.keys() & other.keys():
        a, b = one[name], other[name]
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found[name] = _agreed(a, b)
        elif a == b:
            found[name] = a
    return {name: found[name] for name in one if name in found}


def _beyond(settings: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a nested mapping that differ from another's or are not in it."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and isinstance(common.get(name), Mapping):
            if inner := _beyond(value, common[name]):
                found[name] = inner
        elif name not in common or common[name] != value:
            found[name] = value
    return found


def _suffix(shard_name: str) -> str:
    return shard_name[shard_name.index(".tar") :]
