"""Make a damaged data set whole again, as far as it goes, and say what is gone."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import orjson
import xxhash

from neurofm_shards.compression.frames import FrameTable
from neurofm_shards.errors import FormatError, InputNotFoundError
from neurofm_shards.format.card import CARD_NAME, is_our_card, write_card
from neurofm_shards.format.dataset_record import column_entries
from neurofm_shards.format.files import SIDECAR_DIR, OutputLock, partial_path, publish
from neurofm_shards.format.headers import END_OF_ARCHIVE
from neurofm_shards.format.index import ShardIndex
from neurofm_shards.format.index_io import build_index, opened_tar, parse_index, save_index
from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.format.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    merge_columns,
    read_manifest,
    write_manifest,
)
from neurofm_shards.format.metadata_table import metadata_of_shard, part_of, save_part, sidecar_paths
from neurofm_shards.format.resolve import compression_distribution, compression_of
from neurofm_shards.format.tar import TarReader
from neurofm_shards.format.unfinished import JOURNAL_NAME, UNFINISHED_NAME
from neurofm_shards.maintenance.validate import Finding, Report, bounded, shard_files
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.writing.output_folder import Output
from neurofm_shards.writing.sinks import CompressedSink, FileSink

#: What is decompressed together with damage is lost.
_CHUNK = 1 << 12


def former_index(path: Path) -> ShardIndex | None:
    """Return the index that was made when the shard was written, though the shard has changed since."""
    try:
        index = parse_index(sidecar_paths(path)[0])
    except (FormatError, OSError):
        return None
    return index if index.shard_name == path.name else None


def salvage(path: Path, former: ShardIndex | None) -> ShardIndex | None:
    """Replace a damaged shard by one of its whole samples; the old one stays until the new one stands.

    Parameters
    ----------
    path : Path
        The shard.
    former : ShardIndex or None
        What it held; with it, samples behind the damage are saved, too, and those with a wrong checksum are not.

    Returns
    -------
    ShardIndex or None
        Of the new shard; None when no whole sample is left, and the shard is as it was.
    """
    frames = former.frames if former is not None else None
    # A broken frame is lost as a whole to the table of frames, and everything behind it to the stream.
    choices = [None] if frames is None else [frames, None]
    best = max(choices, key=lambda choice: len(_whole_records(path, former, choice)))
    records = _whole_records(path, former, best)
    if not records:
        return None
    with _readable_part(path, best) as tar:
        _rewrite(path, tar, records)
    return build_index(path)


def _whole_records(path: Path, former: ShardIndex | None, frames: FrameTable | None) -> list[tuple[int, int]]:
    with _readable_part(path, frames) as tar:
        known = _known_records(tar, former) if former is not None else []
        return known or _found_records(tar, path.name)


@contextlib.contextmanager
def _readable_part(path: Path, frames: FrameTable | None) -> Iterator[memoryview]:
    """Give as much of a shard's tar as can be read."""
    compression = compression_of(path.name)
    with contextlib.ExitStack() as stack, tempfile.TemporaryFile(dir=path.parent) as spool:
        if compression is None:
            source, _ = stack.enter_context(opened_tar(path))
            yield memoryview(cast("memoryview", source))
            return
        if frames is not None:
            _spool_frames(path, compression, frames, spool)
        else:
            stream = cast("BinaryIO", stack.enter_context(opened_tar(path))[0])
            with contextlib.suppress(FormatError):  # the end of what can be decompressed
                while part := stream.read(_CHUNK):
                    spool.write(part)
        spool.flush()
        size = spool.tell()
        yield memoryview(mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")


def _spool_frames(path: Path, compression: Compression, frames: FrameTable, spool: BinaryIO) -> None:
    """Decompress each frame for itself; zeros stand for those that cannot be."""
    sizes = np.diff(frames.raw_bounds).tolist()
    with path.open("rb") as file:
        for offset, stored, size in zip(frames.file_offsets.tolist(), frames.file_sizes.tolist(), sizes, strict=True):
            file.seek(offset)
            out = bytearray(size)
            with contextlib.suppress(FormatError):
                compression.decompress_frame(memoryview(file.read(stored)), memoryview(out))
            spool.write(out)


def _known_records(tar: memoryview, former: ShardIndex) -> list[tuple[int, int]]:
    bounds = former.record_offsets.tolist()
    records = zip(bounds, bounds[1:], former.digests.tolist(), strict=False)
    whole = ((start, stop) for start, stop, digest in records if xxhash.xxh3_64_intdigest(tar[start:stop]) == digest)
    return [(start, stop) for start, stop in whole if stop <= tar.nbytes]


def _found_records(tar: memoryview, name: str) -> list[tuple[int, int]]:
    """Return the records before the damage: those that another one follows, or that end in their metadata."""
    reader = TarReader(tar, name=name)
    ends: list[int] = []
    with contextlib.suppress(FormatError):
        for member in reader:
            if len(reader.record_offsets) > len(ends) + 1:
                ends.append(member.start)
            if member.field == METADATA_FIELD and member.offset + member.size <= tar.nbytes:
                ends[len(reader.record_offsets) - 1 :] = [member.offset + -(-member.size // 512) * 512]
    return [(start, stop) for start, stop in zip(reader.record_offsets, ends, strict=False) if stop <= tar.nbytes]


def _rewrite(path: Path, tar: memoryview, records: list[tuple[int, int]]) -> None:
    partial = partial_path(path)
    compression = compression_of(path.name)
    sink = FileSink(partial) if compression is None else CompressedSink(partial, compression, None)
    try:
        sink.write_through(tar[start:stop] for start, stop in records)
        sink.write_through([END_OF_ARCHIVE])
        sink.finish(durable=True)
        publish(partial, path, durable=True)
    except BaseException:
        sink.abort()
        partial.unlink(missing_ok=True)
        raise


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


def repair(folder: str | os.PathLike[str]) -> Report:
    """Finish or undo what was interrupted, then rebuild and save what is damaged.

    A drop, merge or overwriting that was decided is finished. An addition or overwriting that was not is given up, and
    its shards are deleted.

    Parameters
    ----------
    folder : path
        The data set.

    Returns
    -------
    Report
        See :func:`~neurofm_shards.maintenance.repair.repair_dataset`.

    Raises
    ------
    OutputLockedError
        The data set is being written.
    """
    output = Output(Path(folder))
    if not output.folder.is_dir():
        raise InputNotFoundError(f"there is no folder {folder}")
    with OutputLock(output.folder):
        output.clean()
        given_up = output.give_up_addition()
        manifest = output.manifest() if given_up else None
        if manifest is not None and is_our_card(output.folder / CARD_NAME):
            write_card(output.folder, manifest, durable=True)  # it may speak of the addition already
        is_kept = output.give_up_replacement()
        report = repair_dataset(output.folder)
    done = []
    if given_up:
        what = f"an addition of which {given_up:,} shards were written was never finished"
        done.append(Finding("info", "", "", what, "they were deleted; convert --append adds them again"))
    if is_kept:
        what = "a data set that was to replace this one was never finished"
        done.append(Finding("info", "", "", what, "what was written of it was deleted, and this one stays"))
    return replace(report, findings=(*done, *report.findings))
