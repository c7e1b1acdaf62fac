"""Checking a data set from end to end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xxhash

from neurofm_shards.errors import FormatError, InputNotFoundError, NoShardsError
from neurofm_shards.format.files import names_in
from neurofm_shards.format.index import ShardIndex
from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.format.manifest import MANIFEST_NAME, Manifest, ShardEntry
from neurofm_shards.plugins.registry import registry
from neurofm_shards.shards.manifest import read_manifest
from neurofm_shards.shards.report import Finding, Report, bounded
from neurofm_shards.shards.shard_check import ShardCheck
from neurofm_shards.shards.unfinished import why_unfinished

Progress = Callable[[int, int], None]


def validate_dataset(folder: Path | str, workers: int | None = None, progress: Progress | None = None) -> Report:
    """Check structure, checksums, codecs, schema, keys, sidecars and the rules that keep every reader working.

    Parameters
    ----------
    folder : path-like
        A data set, or any folder of shards.
    workers : int, optional
        Shards that are read at once; by default the number of processors.
    progress : callable, optional
        Called with (bytes checked, bytes in all) after each shard.

    Returns
    -------
    Report
        ``report.ok`` is False when samples are lost, wrong or unreadable.

    Raises
    ------
    InputNotFoundError
        There is no such folder.
    NoShardsError
        It holds neither a manifest nor a shard, nor traces of an interrupted conversion.
    """
    path = Path(folder)
    if not os.path.isdir(path):  # noqa: PTH112  (Path raises where a folder above may not be searched)
        raise InputNotFoundError(f"there is no folder {path}")
    findings: list[Finding] = []
    manifest = _manifest(path, findings)
    shards = shard_files(path)
    if manifest is None and not shards and all(finding.severity == "info" for finding in findings):
        raise NoShardsError(f"No shards found in {path} matching *.tar*")
    listed = [path / entry.shard_name for entry in manifest.shards] if manifest else shards
    if manifest is not None:
        _compare_folder(manifest, shards, findings)
    elif not shards:
        findings.append(Finding("error", "", "", "there are no shards", "this is no data set"))
    checks = _check_shards([shard for shard in listed if shard in shards], workers, progress)
    by_name = {check.path.name: check for check in checks}
    for check in checks:
        findings.extend(bounded(check.findings, check.path.name))
    if manifest is not None:
        for entry in manifest.shards:
            found = by_name.get(entry.shard_name)
            if found is not None and found.index is not None:
                findings.extend(_compare_entry(entry, found.index, manifest))
    indexes = [check.index for check in checks if check.index is not None]
    findings.extend(_repeated_keys(indexes))
    return Report(
        str(path),
        tuple(findings),
        len(checks),
        sum(index.num_samples for index in indexes),
        sum(_size(check.path) for check in checks),
    )


def shard_files(folder: Path) -> list[Path]:
    """Return all files of a folder that look like shards: ``*.tar`` with or without the suffix of a compression."""
    suffixes = (".tar", *(f".tar{item.entry.suffix}" for item in registry().compressions.entries()))
    names = [name for name in names_in(folder) if name.endswith(suffixes) and not name.startswith(".")]
    return [folder / name for name in sorted(names)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _manifest(folder: Path, findings: list[Finding]) -> Manifest | None:
    try:
        manifest = read_manifest(folder)
    except FormatError as error:
        findings.append(Finding("error", "", "", str(error), "run `neurofm-shards repair`"))
        return None
    if manifest is None:
        unfinished = why_unfinished(folder)
        severity, what = "info", f"there is no {MANIFEST_NAME}"
        consequence = "the shards are read one by one; `neurofm-shards index` makes opening faster"
        if unfinished is not None:
            severity, what, consequence = "error", "the data set was never finished", unfinished
        findings.append(Finding(severity, "", "", what, consequence))
    return manifest


def _compare_folder(manifest: Manifest, shards: Sequence[Path], findings: list[Finding]) -> None:
    listed = {entry.shard_name for entry in manifest.shards}
    present = {path.name for path in shards}
    for entry in manifest.shards:
        if entry.shard_name not in present:
            what = f"it is listed in the manifest but is not there ({entry.num_samples:,} samples)"
            findings.append(Finding("error", entry.shard_name, "", what, "its samples are lost"))
    for name in sorted(present - listed):
        what = "it is not listed in the manifest"
        findings.append(
            Finding("warning", name, "", what, "it is no part of the data set; other programs will read it")
        )


def _check_shards(paths: Sequence[Path], workers: int | None, progress: Progress | None) -> list[ShardCheck]:
    total, done = sum(map(_size, paths)), 0
    checks = []
    with ThreadPoolExecutor(workers or os.cpu_count() or 1, "validate") as pool:
        for check in pool.map(lambda path: ShardCheck(path).run(), paths):
            checks.append(check)
            done += _size(check.path)
            if progress is not None:
                progress(done, total)
    return checks


def _compare_entry(entry: ShardEntry, index: ShardIndex, manifest: Manifest) -> list[Finding]:
    found = []
    for name, said, is_so in (
        ("samples", entry.num_samples, index.num_samples),
        ("bytes", entry.shard_bytes, index.shard_bytes),
        ("bytes of tar", entry.tar_bytes, index.tar_bytes),
        ("as checksum", entry.checksum, index.checksum),
    ):
        if said != is_so:
            what = f"it has {is_so} {name}, and the manifest says {said}"
            found.append(Finding("error", entry.shard_name, "", what, "it is not the shard that was written"))
    known = {column.name: column for column in manifest.columns}
    for name, column in index.columns.items():
        if name == METADATA_FIELD:
            continue
        said_column = known.get(name)
        if said_column is None:
            what = f"column {name!r} is not in the manifest"
            found.append(Finding("error", entry.shard_name, "", what, "readers do not know of it; repair the manifest"))
        elif said_column.dtype is not None and column.spec.dtype not in (None, said_column.dtype):
            what = f"column {name!r} is {column.spec.dtype}, and the manifest says {said_column.dtype}"
            found.append(Finding("error", entry.shard_name, "", what, "batches cannot be joined"))
        elif not _fits(column.spec.shape, said_column.shape):
            what = f"column {name!r} has shape {column.spec.shape}, and the manifest says {said_column.shape}"
            found.append(
                Finding("error", entry.shard_name, "", what, "readers expect other arrays; repair the manifest")
            )
    for name, said_column in known.items():
        if name not in index.columns and not said_column.optional:
            what = f"column {name!r} is missing"
            found.append(Finding("error", entry.shard_name, "", what, "the manifest promises it for every sample"))
    return found


def _fits(shape: Sequence[int | None] | None, said: Sequence[int | None] | None) -> bool:
    """Say whether a shard's arrays are what the manifest promises; None is any length."""
    if shape is None or said is None:
        return True
    return len(shape) == len(said) and all(b in (None, a) for a, b in zip(shape, said, strict=True))


def _repeated_keys(indexes: Sequence[ShardIndex]) -> list[Finding]:
    hashes = [_hashes(index) for index in indexes]
    if not hashes:
        return []
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    repeated = set(values[counts > 1].tolist())
    if not repeated:
        return []
    places: dict[str, list[str]] = {}
    for index, marks in zip(indexes, hashes, strict=True):
        for i in np.flatnonzero(np.isin(marks, list(repeated))).tolist():
            places.setdefault(index.packed_keys.at(i), []).append(index.shard_name)
    found = [
        Finding("error", names[1], key, f"its key is also in {names[0]}", "readers join or lose one of the samples")
        for key, names in places.items()
        if len(names) > 1
    ]
    return bounded(found, "")


def _hashes(index: ShardIndex) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    keys = index.keys()
    return np.array([xxhash.xxh3_64_intdigest(key.encode()) for key in keys], np.uint64)
