"""Make a damaged data set whole again, as far as it goes, and say what is gone.

What decides over a shard is the manifest's checksum; where there is none, or it does not match, the index that was made
when the shard was written. All shards are looked at before anything is changed: what cannot be read, or is sound but
not supported, ends the repair with everything as it was. Whole samples are taken out of damaged shards into new ones.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import xxhash

from neurofm_shards._wording import counted, without_name
from neurofm_shards.compression.frames import FrameTable
from neurofm_shards.errors import FormatError, InputNotFoundError, UnsupportedError
from neurofm_shards.format.card import our_cards, write_cards
from neurofm_shards.format.dataset_record import column_entries, make_manifest, shard_entry
from neurofm_shards.format.files import SIDECAR_DIR, TABLES_DIR, Folder, open_regular
from neurofm_shards.format.headers import END_OF_ARCHIVE, padded
from neurofm_shards.format.index import ShardIndex
from neurofm_shards.format.index_io import build_index, keep, opened_tar, parse_index, save_index
from neurofm_shards.format.keys import METADATA_FIELD, automatic_number
from neurofm_shards.format.manifest import (
    MANIFEST_NAME,
    MAX_COUNT,
    ColumnEntry,
    Manifest,
    ShardEntry,
    TableEntry,
    read_table,
)
from neurofm_shards.format.metadata_table import (
    load_table,
    made_part,
    metadata_of_shard,
    part_of,
    read_part,
    save_part,
    split_of_part,
)
from neurofm_shards.format.packed_index import (
    commit_manifest,
    is_worth_packing,
    read_packed_index,
    write_packed_index,
)
from neurofm_shards.format.resolve import find_compression
from neurofm_shards.format.sidecar import INDEX_SUFFIX, sidecar_paths
from neurofm_shards.format.tar import TarReader
from neurofm_shards.format.unfinished import JOURNAL_NAME, REPLACED_NAME
from neurofm_shards.maintenance.validate import Report, bounded, shard_files
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.types import Problem
from neurofm_shards.writing.lock import OutputLock
from neurofm_shards.writing.output_folder import OutputFolder
from neurofm_shards.writing.sinks import CompressedSink, FileSink

_WRONG_SAMPLES = "samples do not match their checksums"
#: What is decompressed together with damage is lost.
_CHUNK = 1 << 12


def repair(folder: str | os.PathLike[str], *, keep_originals: bool = True) -> Report:
    """Finish or undo what was interrupted, then rebuild and save what is damaged.

    A drop, merge or overwriting that was decided is finished. An addition or overwriting that was not is given up, and
    its shards are deleted. A damaged shard is replaced by one that holds its whole samples; the old file stays until
    the new one stands.

    Parameters
    ----------
    folder : path
        The data set.
    keep_originals : bool
        Whether shards that are replaced are kept below ``.neurofm/replaced``.

    Returns
    -------
    Report
        What was done (``"info"``), and what is gone or cannot be told (``"error"``).

    Raises
    ------
    InputNotFoundError
        There is no such folder.
    OutputLockedError
        The data set is being written.
    StorageError
        Something cannot be read, which is no damage. Nothing was changed.
    UnsupportedError
        A shard is sound but holds what is not supported. Nothing was changed.
    FormatError
        It is an unfinished conversion, which is finished by resuming it.
    """
    output = OutputFolder(Path(folder))
    if not output.folder.is_dir():
        raise InputNotFoundError(f"there is no folder {folder}")
    with OutputLock(output.folder):
        output.clean()
        job = _Repair(output, keep_originals=keep_originals)
        job.give_up_what_was_interrupted()
        return job.run()


@dataclass(frozen=True)
class _Verdict:
    """What a shard is and was, and what is wrong with it."""

    path: Path
    #: What the manifest says of it.
    entry: ShardEntry | None
    #: What it holds; None where it cannot be read to its end.
    index: ShardIndex | None
    #: What it held, by an index that can be trusted.
    former: ShardIndex | None
    #: What is wrong; empty where nothing is.
    why: str = ""


@dataclass(frozen=True)
class _Listed:
    """A shard that the new manifest lists."""

    #: Where it lies now: in its place, or among what is about to be put there.
    path: Path
    #: What the old manifest says of it.
    entry: ShardEntry | None
    index: ShardIndex
    #: Whether the old manifest does not say of it what the new one is to say.
    is_new: bool


def _examine(path: Path, entry: ShardEntry | None) -> _Verdict:
    """Read a shard from end to end and compare it with the manifest, else with its index."""
    former = former_index(path)
    trusted = former if former is not None and entry is not None and former.checksum == entry.checksum else None
    try:
        index = build_index(path, mapped=False)
    except FormatError as error:
        why = without_name(str(error), path.name)
        if trusted is None and isinstance(error, UnsupportedError):  # else what the archive is to hold is known
            raise UnsupportedError(
                f"{path}: {why}. The archive may be sound, so nothing was changed; take out what is not supported, or "
                "move it away"
            ) from error
        return _Verdict(path, entry, None, trusted if entry is not None else former, why)
    if entry is None:
        is_damaged = former is not None and former.keys() == index.keys() and _shares_samples(former, index)
        return _Verdict(path, None, index, former, _WRONG_SAMPLES if is_damaged else "")
    if index.checksum == entry.checksum:
        return _Verdict(path, entry, index, trusted)
    if trusted is not None and _some_match(trusted, index):
        return _Verdict(path, entry, index, trusted, _WRONG_SAMPLES)
    return _Verdict(
        path, entry, index, None, f"its checksum is {index.checksum}, and the manifest says {entry.checksum}"
    )


def _some_match(former: ShardIndex, index: ShardIndex) -> bool:
    """Return whether some samples are what was written; where none is, this is another shard."""
    return bool(set(former.digests.tolist()) & set(index.digests.tolist()))


def _shares_samples(former: ShardIndex, index: ShardIndex) -> bool:
    """Return whether samples changed since they were indexed, and not the whole shard was written anew."""
    return former.checksum != index.checksum and _some_match(former, index)


class _Repair:
    """One repair of one folder."""

    def __init__(self, output: OutputFolder, *, keep_originals: bool) -> None:
        self._output = output
        self._folder = output.folder
        self._keep_originals = keep_originals
        self._findings: list[Problem] = []

    def give_up_what_was_interrupted(self) -> None:
        output = self._output
        if given_up := output.give_up_addition():
            manifest = output.manifest()
            if manifest is not None:
                write_cards(self._folder, manifest, our_cards(self._folder), durable=True)  # they may tell the addition
            what = f"an addition was never finished, of which {counted(given_up, 'shard')} had been written"
            self._say("info", "", what, "they were deleted; converting with mode='append' adds them again")
        if output.give_up_replacement():
            what = "a data set that was to replace this one was never finished"
            self._say("info", "", what, "what was written of it was deleted, and this one stays")

    def run(self) -> Report:
        base = self._base()
        present = {shard.name: shard for shard in shard_files(self._folder)}
        entries: dict[str, ShardEntry | None] = dict.fromkeys(present)
        if base is not None:
            entries = {entry.shard_name: entry for entry in base.shards}
        verdicts = [_examine(present[name], entry) for name, entry in entries.items() if name in present]
        for name, entry in entries.items():
            if name not in present and entry is not None:
                gone = f"it is gone, with {counted(entry.num_samples, 'sample')}"
                self._say("error", name, gone, "it is no longer listed in the manifest")
        self._output.remove_orphans()
        with self._output.staging() as staging:
            kept = [found for verdict in verdicts if (found := self._apply(verdict, staging)) is not None]
            manifest = self._manifest(base, kept, _next_number(verdicts))
            if base is None or manifest != base:
                self._publish(manifest, kept, staging)
            else:
                self._repack(manifest)
        total = sum(found.index.shard_bytes for found in kept)
        return Report(str(self._folder), tuple(self._findings), len(kept), manifest.total_samples, total)

    def _repack(self, manifest: Manifest) -> None:
        if is_worth_packing(manifest) and read_packed_index(self._folder, manifest) is None:
            write_packed_index(self._folder, manifest, durable=True, mode=self._output.mode())
            self._say("info", "", "the packed index was missing, or of other shards", "it was made anew")

    def _say(self, severity: str, shard: str, what: str, consequence: str) -> None:
        self._findings.append(Problem(shard, what, consequence, severity))

    def _base(self) -> Manifest | None:
        try:
            manifest = self._output.manifest()
        except FormatError as error:
            self._say("warning", "", str(error), "a new one is made; sources and statistics are lost")
            return None
        if manifest is None and (self._output.sidecars / JOURNAL_NAME).exists():
            raise FormatError(
                f"{self._folder} is an unfinished conversion: run the same conversion again with mode='resume'"
            )
        if manifest is None:
            self._say("info", "", f"there is no {MANIFEST_NAME}", "one is made of the shards that are here")
        return manifest

    def _apply(self, verdict: _Verdict, staging: Path) -> _Listed | None:
        """Do what is to be done with a shard; return what is listed, None where it is not any more."""
        path, index = verdict.path, verdict.index
        if index is not None and not verdict.why:
            self._save_sidecars(path, index, verdict.former)
            return _Listed(path, verdict.entry, index, is_new=verdict.entry is None)
        if index is not None and verdict.former is None:
            consequence = "it was left as it is, and listed: which of its samples differ cannot be told; restore it"
            self._say("error", path.name, verdict.why, consequence)
            return _Listed(path, verdict.entry, index, is_new=False)
        target = staging / path.name
        saved = salvage(path, verdict.former, target, self._output.common_mode([path.name]))
        if saved is None:
            self._say("error", path.name, verdict.why, "no whole sample is left; it is not listed any more")
            return None
        self._findings.extend(_losses(verdict, saved, kept=self._keep_originals))
        return _Listed(target, verdict.entry, saved, is_new=True)

    def _save_sidecars(self, path: Path, index: ShardIndex, former: ShardIndex | None) -> None:
        if former is not None and _is_current(former, index) and _has_table(path, index):
            return
        keep(path, INDEX_SUFFIX, lambda target, mode: save_index(index, target, mode=mode))
        made_part(path, index, mapped=False)
        self._say("info", path.name, "its index or metadata table was missing", "both were made anew")

    def _manifest(self, base: Manifest | None, kept: list[_Listed], next_number: int) -> Manifest:
        entries = [_entry(found, number) for number, found in enumerate(kept)]
        if base is not None and entries == base.shards:
            return base
        indexes = [found.index for found in kept]
        first = {} if base is not None else {**_facts(entries), "tables": self._tables()}
        manifest = make_manifest(
            entries,
            [column_entries(index) for index in indexes],
            base,
            next_key=max(base.next_key if base else 1, next_number),
            statistics={},
            **first,
        )
        return manifest if base is None else manifest.model_copy(update={"columns": _known_facts(base, manifest)})

    def _tables(self) -> dict[str, TableEntry]:
        """Find the side tables of a data set whose manifest is lost."""
        found = {}
        for path in sorted((self._output.sidecars / TABLES_DIR).glob("*.json")):
            entry = TableEntry(file=f"{SIDECAR_DIR}/{TABLES_DIR}/{path.name}", rows=0)
            try:
                rows = len(read_table(self._folder, entry))
            except FormatError as error:
                self._say("error", "", str(error), "the table is lost")
                continue
            found[path.stem] = entry.model_copy(update={"rows": rows})
        return found

    def _publish(self, manifest: Manifest, kept: list[_Listed], staging: Path) -> None:
        """Put what was written in place, as one step."""
        mode = self._output.mode() or self._output.common_mode([entry.shard_name for entry in manifest.shards])
        write_cards(staging, manifest, durable=True, mode=mode)
        commit_manifest(staging, manifest, beside=self._folder, durable=True, mode=mode)
        for found in kept if self._keep_originals else ():
            if found.path.parent == staging:
                keep_original(self._folder / found.path.name)
        self._output.replace(staging, [], durable=True)
        self._output.unmark()
        what = f"{counted(manifest.total_samples, 'sample')} in {counted(manifest.total_shards, 'shard')}"
        self._say("info", "", "the manifest was made anew", f"it lists {what}")


def _is_current(former: ShardIndex, index: ShardIndex) -> bool:
    return (former.fingerprint, former.checksum) == (index.fingerprint, index.checksum)


def _has_table(path: Path, index: ShardIndex) -> bool:
    try:
        read_part(sidecar_paths(path)[1], index.fingerprint, index.num_samples)
    except (FormatError, FileNotFoundError):
        return False
    return True


def _losses(verdict: _Verdict, saved: ShardIndex, *, kept: bool) -> list[Problem]:
    name, former = verdict.path.name, verdict.former
    where = f"; the damaged one is in .neurofm/{REPLACED_NAME}" if kept else ""
    done = f"it was replaced by one of its {counted(saved.num_samples, 'whole sample')}{where}"
    said = [Problem(name, verdict.why, done)]
    if former is None:
        unknown = "what else it held is not known: there was no index"
        return [*said, Problem(name, unknown, "samples behind the damage are gone", "error")]
    left = set(saved.keys())
    runs = groupby(former.packed_keys.texts(), key=left.__contains__)
    return bounded([*said, *(_lost(name, list(keys)) for is_left, keys in runs if not is_left)], name)


def _lost(shard: str, keys: list[str]) -> Problem:
    """Return the problem that neighbouring samples are lost."""
    if len(keys) == 1:
        return Problem(shard, "it is damaged or cut off", "the sample is gone", "error", key=keys[0])
    where = f"{keys[0]} to {keys[-1]}"
    return Problem(shard, f"{len(keys):,} samples are damaged or cut off", "the samples are gone", "error", key=where)


def _entry(found: _Listed, number: int) -> ShardEntry:
    known, index = found.entry, found.index
    if known is not None and not found.is_new:
        return known
    first = next(iter(metadata_of_shard(found.path, index, mapped=False)), {})
    said = first.get("shard_idx")
    if known is not None:
        number = known.shard_idx
    elif isinstance(said, int) and 0 <= said <= MAX_COUNT:
        number = said
    return shard_entry(index, number, first, split_of_part(load_table(found.path, index, mapped=False).parts[0]))


def _facts(entries: list[ShardEntry]) -> dict[str, object]:
    """Return the manifest's facts of a data set of which only the shards are known."""
    found = {compression.name if (compression := find_compression(e.shard_name)) else "none" for e in entries}
    return {
        "compression": found.pop() if len(found) == 1 else "mixed",
        "shard_size": max((entry.num_samples for entry in entries), default=1) or 1,
    }


def _next_number(verdicts: Iterable[_Verdict]) -> int:
    """Return the number of the next automatic key: one more than the largest seen, in shards and in their indexes."""
    largest, total = 0, 0
    for verdict in verdicts:
        total += verdict.index.num_samples if verdict.index is not None else 0
        for index in (verdict.index, verdict.former):
            keys = index.packed_keys.texts() if index is not None else []
            largest = max([largest, *(number for key in keys if (number := automatic_number(key)) is not None)])
    return 1 + max(largest, total)


def _known_facts(base: Manifest, manifest: Manifest) -> list[ColumnEntry]:
    """Return columns with units and tables, which stand in no shard."""
    facts = {column.name: {"unit": column.unit, "table": column.table} for column in base.columns}
    return [column.model_copy(update=facts.get(column.name, {})) for column in manifest.columns]


def former_index(path: Path) -> ShardIndex | None:
    """Return the index that was made when a shard was written, whatever the shard holds now."""
    try:
        index = parse_index(sidecar_paths(path)[0])
    except (FormatError, FileNotFoundError):
        return None
    return index if index.shard_name == path.name else None


def salvage(path: Path, former: ShardIndex | None, target: Path, mode: int | None) -> ShardIndex | None:
    """Write the whole samples of a damaged shard into a new one, with its sidecars.

    Parameters
    ----------
    path : Path
        The shard; it stays as it is.
    former : ShardIndex or None
        What it held; with it, samples behind the damage are saved, too, and those with a wrong checksum are not.
    target : Path
        The new shard.
    mode : int or None
        Permission bits of the new files.

    Returns
    -------
    ShardIndex or None
        Of the new shard; None when no whole sample is left, and nothing was written.
    """
    frames = former.frames if former is not None else None
    # A broken frame is lost as a whole to the table of frames, and everything behind it to the stream.
    choices = [None] if frames is None else [frames, None]
    best = max(choices, key=lambda choice: len(_whole_records(path, former, choice)))
    records = _whole_records(path, former, best)
    if not records:
        return None
    with _readable_part(path, best) as tar:
        _write(target, tar, records, mode)
    index = build_index(target, mapped=False)
    index_file, table_file = sidecar_paths(target)
    Folder.open(index_file.parent, create=True).close()
    save_index(index, index_file, durable=True, mode=mode)
    part = part_of(list(metadata_of_shard(target, index, mapped=False)))
    save_part(part, index.fingerprint, table_file, durable=True, mode=mode)
    return index


def _whole_records(path: Path, former: ShardIndex | None, frames: FrameTable | None) -> list[tuple[int, int]]:
    with _readable_part(path, frames) as tar:
        return _found_records(tar, path.name) if former is None else _known_records(tar, former)


@contextlib.contextmanager
def _readable_part(path: Path, frames: FrameTable | None) -> Iterator[memoryview]:
    """Give as much of a shard's tar as can be read: a copy, which does not change whatever becomes of the file."""
    compression = find_compression(path.name)
    with tempfile.TemporaryFile(dir=path.parent) as spool:
        if compression is None:
            with os.fdopen(open_regular(path), "rb") as file:
                shutil.copyfileobj(file, spool)
        elif frames is not None:
            _spool_frames(path, compression, frames, spool)
        else:
            _spool_stream(path, spool)
        spool.flush()
        size = spool.tell()
        yield memoryview(mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")


def _spool_stream(path: Path, spool: BinaryIO) -> None:
    """Decompress from the beginning up to the damage."""
    with contextlib.suppress(FormatError), opened_tar(path) as (source, _):
        stream = cast("BinaryIO", source)
        while part := stream.read(_CHUNK):
            spool.write(part)


def _spool_frames(path: Path, compression: Compression, frames: FrameTable, spool: BinaryIO) -> None:
    """Decompress each frame for itself; zeros stand for those that cannot be."""
    sizes = np.diff(frames.raw_bounds).tolist()
    with os.fdopen(open_regular(path), "rb") as file:
        for offset, stored, size in zip(frames.file_offsets.tolist(), frames.file_sizes.tolist(), sizes, strict=True):
            file.seek(offset)
            out = bytearray(size)
            with contextlib.suppress(FormatError):
                compression.decompress_frame(memoryview(file.read(stored)), memoryview(out))
            spool.write(out)


def _known_records(tar: memoryview, former: ShardIndex) -> list[tuple[int, int]]:
    """Return the records that are what the index says, by their checksums."""
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
                ends[len(reader.record_offsets) - 1 :] = [member.offset + padded(member.size)]
    return [(start, stop) for start, stop in zip(reader.record_offsets, ends, strict=False) if stop <= tar.nbytes]


def _write(path: Path, tar: memoryview, records: list[tuple[int, int]], mode: int | None) -> None:
    compression = find_compression(path.name)
    with Folder.open(path.parent, create=True) as folder:
        descriptor = folder.create_file(path.name, mode)
        sink = FileSink(descriptor) if compression is None else CompressedSink(descriptor, compression, None)
        try:
            sink.write_through(tar[start:stop] for start, stop in records)
            sink.write_through([END_OF_ARCHIVE])
            sink.finish()
            sink.close(durable=True)
        except BaseException:
            sink.abort()
            raise


def keep_original(path: Path) -> None:
    """Give a shard that is about to be replaced a second name, which no reader's pattern finds."""
    with Folder.open(path.parent) as folder, folder.child(SIDECAR_DIR, create=True) as sidecars:
        if folder.mode(path.name) is None:
            return  # it is a link, and the file that it leads to stays as it is
        with sidecars.child(REPLACED_NAME, create=True) as replaced:
            number = 0
            while (there := replaced.status(kept := f"{path.name}.{number}")) is not None:
                if os.path.samestat(there, os.stat(path)):  # noqa: PTH116  (an interrupted repair has kept it)
                    return
                number += 1
            folder.link(path.name, replaced, kept)
            replaced.sync()
