"""Commit a conversion: side tables, card and, last, the manifest, made of the plan and the records of its shards."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neurofm_shards.blocks import RowBase
from neurofm_shards.convert.input_plan import InputPlan
from neurofm_shards.convert.planning import ConversionPlan
from neurofm_shards.convert.work import TypesOfShards
from neurofm_shards.errors import NothingToConvertError
from neurofm_shards.format.card import write_cards
from neurofm_shards.format.dataset_record import compression_name, make_manifest, unused_codecs, versions_of
from neurofm_shards.format.manifest import (
    ColumnEntry,
    Manifest,
    ShardEntry,
    TableEntry,
    read_rows,
    write_rows,
)
from neurofm_shards.format.packed_index import commit_manifest
from neurofm_shards.plugins.registry import IN_CODE, registry
from neurofm_shards.values import to_json
from neurofm_shards.writing.journal import remove_journal
from neurofm_shards.writing.output_folder import OutputFolder
from neurofm_shards.writing.statistics import (
    ChannelStats,
    SessionStats,
    add,
    manifest_statistics,
    sessions_from_manifest,
)

Line = Mapping[str, Any]

_LOG = logging.getLogger("neurofm_shards.convert")


def commit(output: OutputFolder, plan: ConversionPlan, lines: Mapping[int, Line], base: Manifest | None) -> Manifest:
    """Write tables, card and, last, the manifest; then the journal is removed (raises NothingToConvertError)."""
    types = TypesOfShards()
    for k in sorted(lines):
        types.add(lines[k])
    manifest = converted_manifest(plan, lines, base)
    if not manifest.shards:
        remove_journal(output.sidecars)
        reasons = "; ".join(entry["error"] for entry in manifest.failures[:1]) or "transforms dropped every sample"
        raise NothingToConvertError(f"no sample is left to make a data set of: {reasons}")
    if unused := unused_codecs(plan.config.codecs, [column.name for column in manifest.columns]):
        _LOG.warning("%s", unused)
    durable = plan.config.durable
    write_tables(output, manifest.tables, plan.tables, durable=durable)
    write_cards(output.folder, manifest, durable=durable)
    commit_manifest(output.folder, manifest, durable=durable)
    remove_journal(output.sidecars)
    return manifest


def write_tables(
    output: OutputFolder,
    entries: Mapping[str, TableEntry],
    added: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    durable: bool,
) -> None:
    """Write the tables that grow.

    Rows that an older manifest knows keep their places, so its readers, who take their first ``rows`` rows, are right
    before and after. Rows beyond them, left by an addition that never finished, are replaced.
    """
    for name, rows in added.items():
        before = entries[name].rows - len(rows)
        kept = read_rows(output.folder, entries[name], before) if before else []
        table = [*kept, *(to_json(row) for row in rows)]
        write_rows(output.folder, entries[name], table, durable=durable, mode=output.mode())


def converted_manifest(plan: ConversionPlan, lines: Mapping[int, Line], base: Manifest | None = None) -> Manifest:
    """Make the manifest of a finished conversion; with ``base``, of the data set that it added to.

    Parameters
    ----------
    plan : ConversionPlan
        What was to be done.
    lines : mapping of int to dict
        The journal's record of every shard, by shard number.
    base : Manifest, optional
        The data set that was added to.
    """
    ordered = [lines[k] for k in sorted(lines)]
    new_shards = [ShardEntry.model_validate(line["shard"]) for line in ordered if line["shard"] is not None]
    return make_manifest(
        [*(base.shards if base else ()), *new_shards],
        [*([base.columns] if base else ()), *map(_columns, ordered)],
        base,
        shard_size=plan.config.shard_size,
        compression=compression_name(plan.config.compression),
        next_key=plan.first_number + plan.total_samples,
        statistics=_statistics(ordered, base, split=plan.config.windows.split is not None),
        tables=_tables(plan, base),
        sources=[*(base.sources if base else ()), *_sources(plan, ordered)],
        failures=_failures(plan, ordered, base),
        config=base.config if base and base.config else plan.config.content(),
        software=software(plan),
    )


def _columns(line: Line) -> list[ColumnEntry]:
    return [ColumnEntry.model_validate(values) for values in line["columns"]]


def _statistics(ordered: Sequence[Line], base: Manifest | None, *, split: bool) -> dict[str, Any]:
    total: SessionStats = sessions_from_manifest(base.statistics) if base else {}
    for line in ordered:
        for session, column, values in line["statistics"]:
            add(total, (session, column), ChannelStats.from_json(values))
    return manifest_statistics(total, split=split)


def _tables(plan: ConversionPlan, base: Manifest | None) -> dict[str, TableEntry]:
    before = {name: entry.rows for name, entry in base.tables.items()} if base else {}
    names = [*before, *(name for name in plan.tables if name not in before)]
    return {
        name: TableEntry(file=f".neurofm/tables/{name}.json", rows=before.get(name, 0) + len(plan.tables.get(name, ())))
        for name in names
    }


def _sources(plan: ConversionPlan, ordered: Sequence[Line]) -> list[dict[str, Any]]:
    bases = plan.bases or ({},) * len(plan.inputs)
    dropped = _dropped_by_transforms(ordered)
    return [
        _source(item, base, dropped.get(i, {}))
        for i, (item, base) in enumerate(zip(plan.inputs, bases, strict=True))
        if item.plan is not None and not item.again
    ]


def _source(item: InputPlan, base: Mapping[str, RowBase], dropped: Mapping[str, int]) -> dict[str, Any]:
    if item.plan is None:
        raise AssertionError("failed inputs are listed elsewhere")
    plan = item.plan
    return {
        "files": item.spec.input.file_names,
        "format": item.spec.input.format,
        "session_id": item.session_id,
        "fingerprint": plan.fingerprint,
        "num_samples": plan.num_samples,
        "drops": {**plan.drops, **dropped},
        "problems": [_without_folders(to_json(problem.as_dict()), item) for problem in plan.problems],
        "tables": {
            name: [base[name], len(rows)] for name, rows in plan.tables.items() if isinstance(base.get(name), int)
        },
        "facts": to_json(dict(plan.metadata)),
    }


def _failures(plan: ConversionPlan, ordered: Sequence[Line], base: Manifest | None) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for i, item in enumerate(plan.inputs):
        if item.plan is None:
            empty = {"empty": True} if item.empty else {}
            found[i] = _without_folders({**_names(item), "error": item.error, "rows": None, **empty}, item)
    for line in ordered:
        for failure in line["failures"]:
            i = failure["input_idx"]
            item = plan.inputs[i]
            error = _without_folders({**_names(item), "error": failure["error"], "rows": []}, item)
            entry = found.setdefault(i, error)
            entry["rows"].append([failure["start"], failure["stop"]])
    retried = {tuple(item.spec.input.file_names) for item in plan.inputs}
    kept = [entry for entry in (base.failures if base else ()) if tuple(entry["files"]) not in retried]
    return [*kept, *(found[i] for i in sorted(found))]


def _names(item: InputPlan) -> dict[str, Any]:
    return {"files": item.spec.input.file_names, "format": item.spec.input.format}


def _without_folders(said: dict[str, Any], item: InputPlan) -> dict[str, Any]:
    # A data set must not depend on where its inputs lay, and says nothing of the folders of whoever made it.
    spelled = [
        (spelling, Path(path).name)
        for path in item.spec.input.paths
        for spelling in (os.path.realpath(path), os.path.abspath(path), path)  # noqa: PTH100  (links kept)
    ]

    def shortened(value: Any) -> Any:
        for spelling, name in spelled if isinstance(value, str) else ():
            value = value.replace(spelling, name)
        return value

    return {name: shortened(value) for name, value in said.items()}


def _dropped_by_transforms(ordered: Iterable[Line]) -> dict[int, dict[str, int]]:
    total: dict[int, dict[str, int]] = {}
    for line in ordered:
        for i, kind, count in line["drops"]:
            counts = total.setdefault(i, {})
            reason = f"transform {kind}"
            counts[reason] = counts.get(reason, 0) + count
    return total


def software(plan: ConversionPlan) -> dict[str, str]:
    """Return the versions of the distributions that took part."""
    known = registry()
    used = [known.sources.get(name) for name in {item.spec.input.format for item in plan.inputs} if name]
    distributions = {"neurofm-shards", "numpy"} | {item.distribution for item in used if item.distribution != IN_CODE}
    for config in plan.config.transforms:
        distributions.add(known.transforms.get(str(config["kind"])).distribution)
    return versions_of(distributions)
