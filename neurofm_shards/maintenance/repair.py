"""Making a damaged data set whole again, as far as it goes, and saying what is gone."""

from __future__ import annotations

from pathlib import Path

import orjson

from neurofm_shards.errors import FormatError, InputNotFoundError
from neurofm_shards.format.card import write_card
from neurofm_shards.format.dataset_record import column_entries
from neurofm_shards.format.index import ShardIndex
from neurofm_shards.format.index_io import save_index
from neurofm_shards.format.manifest import MANIFEST_NAME, SIDECAR_DIR, Manifest, ShardEntry
from neurofm_shards.format.metadata_table import part_of, save_part
from neurofm_shards.format.resolve import compression_distribution
from neurofm_shards.maintenance.validate import shard_files
from neurofm_shards.shards.compression_choice import compression_of
from neurofm_shards.shards.index_builder import build_index
from neurofm_shards.shards.manifest import read_manifest, write_manifest
from neurofm_shards.shards.manifest_merge import merge_columns
from neurofm_shards.shards.metadata_members import metadata_of_shard
from neurofm_shards.shards.report import Finding, Report, bounded
from neurofm_shards.shards.salvage import former_index, salvage
from neurofm_shards.shards.sidecars import sidecar_paths
from neurofm_shards.shards.unfinished import JOURNAL_NAME, UNFINISHED_NAME


def repair_dataset(folder: Path | str) -> Report:
    """Rebuild indexes, metadata tables and manifest, and save the whole samples of damaged shards.

    A damaged shard is replaced by one that holds its whole samples; the old file stays until the new one stands.

    Parameters
    ----------
    folder : path-like
        A data set whose manifest, sidecars or shards are damaged or gone.

    Returns
    -------
    Report
        What was done (``"info"``), and what is gone (``"error"``).

    Raises
    ------
    InputNotFoundError
        There is no such folder.
    FormatError
        It is an unfinished conversion, which is finished by resuming it.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputNotFoundError(f"there is no folder {path}")
    findings: list[Finding] = []
    base = _base(path, findings)
    present = {shard.name: shard for shard in shard_files(path)}
    names = [entry.shard_name for entry in base.shards] if base else list(present)
    expected = {entry.shard_name: entry for entry in base.shards} if base else {}
    repaired: dict[str, ShardIndex] = {}
    for name in names:
        if name not in present:
            gone = f"it is gone, with {expected[name].num_samples:,} samples"
            findings.append(Finding("error", name, "", gone, "it is no longer listed in the manifest"))
            continue
        index = _repaired_shard(present[name], findings)
        if index is not None:
            repaired[name] = index
    manifest = _manifest(path, base, repaired)
    if base is None or manifest != base:
        _publish(path, manifest, findings)
    total = sum(index.shard_bytes for index in repaired.values())
    return Report(str(path), tuple(findings), len(repaired), manifest.total_samples, total)


def _base(folder: Path, findings: list[Finding]) -> Manifest | None:
    try:
        manifest = read_manifest(folder)
    except FormatError as error:
        findings.append(Finding("warning", "", "", str(error), "a new one is made; sources and statistics are lost"))
        return None
    if manifest is None and (folder / SIDECAR_DIR / JOURNAL_NAME).exists():
        raise FormatError(f"{folder} is an unfinished conversion: run the same `neurofm-shards convert` with --resume")
    if manifest is None:
        findings.append(
            Finding("info", "", "", f"there is no {MANIFEST_NAME}", "one is made of the shards that are here")
        )
    return manifest


def _repaired_shard(path: Path, findings: list[Finding]) -> ShardIndex | None:
    former = former_index(path)
    try:
        index = build_index(path)
        damaged = former is not None and _differs(former, index)
        if not damaged:
            _save_sidecars(path, index, former, findings)
            return index
        why = "samples do not match their checksums"
    except (FormatError, OSError) as error:
        why = str(error)
    saved = salvage(path, former)
    if saved is None:
        findings.append(Finding("error", path.name, "", why, "no whole sample is left; it is not listed any more"))
        return None
    _save_sidecars(path, saved, None, findings)
    findings.extend(_losses(path.name, why, former, saved))
    return saved


def _differs(former: ShardIndex, index: ShardIndex) -> bool:
    """Say whether samples changed since they were indexed (and not, say, the whole shard was written anew)."""
    if former.keys() != index.keys():
        return False
    return bool((former.digests != index.digests).any())


def _losses(name: str, why: str, former: ShardIndex | None, saved: ShardIndex) -> list[Finding]:
    done = Finding("warning", name, "", why, f"it was replaced by one of its {saved.num_samples:,} whole samples")
    if former is None:
        unknown = "what else it held is not known: there was no index"
        return [done, Finding("error", name, "", unknown, "samples behind the damage are gone")]
    kept = set(saved.keys())
    lost = [key for key in former.packed_keys.texts() if key not in kept]
    return bounded(
        [done, *(Finding("error", name, key, "it is damaged or cut off", "the sample is gone") for key in lost)], name
    )


def _save_sidecars(path: Path, index: ShardIndex, former: ShardIndex | None, findings: list[Finding]) -> None:
    index_file, table_file = sidecar_paths(path)
    if former is not None and former.fingerprint == index.fingerprint and table_file.exists():
        return
    index_file.parent.mkdir(exist_ok=True)
    save_index(index, index_file)
    save_part(part_of(list(metadata_of_shard(path, index))), index.fingerprint, table_file)
    findings.append(Finding("info", path.name, "", "its index or metadata table was missing", "both were made anew"))


def _manifest(folder: Path, base: Manifest | None, indexes: dict[str, ShardIndex]) -> Manifest:
    known = {entry.shard_name: entry for entry in base.shards} if base else {}
    entries = [_entry(folder / name, i, index, known.get(name)) for i, (name, index) in enumerate(indexes.items())]
    if base is not None and entries == base.shards:
        return base
    total = sum(entry.num_samples for entry in entries)
    counts = [
        column_entries(index, {name: int((c.payload_offsets >= 0).sum()) for name, c in index.columns.items()})
        for index in indexes.values()
    ]
    columns = merge_columns(counts, total)
    if base is not None:
        facts = {column.name: {"unit": column.unit, "table": column.table} for column in base.columns}
        columns = [column.model_copy(update=facts.get(column.name, {})) for column in columns]
    found = {compression.name if (compression := compression_of(name)) else "none" for name in indexes}
    packed = base.compression if base else (found.pop() if len(found) == 1 else "mixed")
    return Manifest(
        total_samples=total,
        total_shards=len(entries),
        shard_size=base.shard_size if base else max((entry.num_samples for entry in entries), default=1) or 1,
        compression=packed,
        compression_distribution=base.compression_distribution if base else compression_distribution(packed),
        modalities=[column.name for column in columns],
        columns=columns,
        shards=entries,
        next_key=max(base.next_key if base else 1, total + 1),
        tables=base.tables if base else {},
        sources=base.sources if base else [],
        failures=base.failures if base else [],
        config=base.config if base else {},
        software=base.software if base else {},
    )


def _entry(path: Path, number: int, index: ShardIndex, known: ShardEntry | None) -> ShardEntry:
    if known is not None and known.checksum == index.checksum and known.shard_bytes == index.shard_bytes:
        return known
    first = next(iter(metadata_of_shard(path, index)), {})
    said = first.get("shard_idx")
    return ShardEntry(
        shard_name=path.name,
        shard_idx=known.shard_idx if known else (said if isinstance(said, int) and 0 <= said < 1 << 53 else number),
        num_samples=index.num_samples,
        shard_bytes=index.shard_bytes,
        tar_bytes=index.tar_bytes,
        checksum=index.checksum,
        samples=[orjson.loads(orjson.dumps(first))],
    )


def _publish(folder: Path, manifest: Manifest, findings: list[Finding]) -> None:
    write_card(folder, manifest, durable=True)
    write_manifest(folder, manifest, durable=True)
    (folder / SIDECAR_DIR / UNFINISHED_NAME).unlink(missing_ok=True)
    what = f"{manifest.total_samples:,} samples in {manifest.total_shards:,} shards"
    findings.append(Finding("info", "", "", "the manifest was made anew", f"it lists {what}"))
