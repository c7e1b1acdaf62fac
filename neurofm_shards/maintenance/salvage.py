"""Take the whole samples out of a damaged shard."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import xxhash

from neurofm_shards.compression.frames import FrameTable
from neurofm_shards.errors import FormatError
from neurofm_shards.format.files import SIDECAR_DIR, Folder, open_regular
from neurofm_shards.format.headers import END_OF_ARCHIVE, padded
from neurofm_shards.format.index import ShardIndex
from neurofm_shards.format.index_io import build_index, opened_tar, parse_index, save_index
from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.format.metadata_table import metadata_of_shard, part_of, save_part
from neurofm_shards.format.resolve import find_compression
from neurofm_shards.format.sidecar import sidecar_paths
from neurofm_shards.format.tar import TarReader
from neurofm_shards.format.unfinished import REPLACED_NAME
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.writing.sinks import CompressedSink, FileSink

#: What is decompressed together with damage is lost.
_CHUNK = 1 << 12


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
            sink.finish(durable=True)
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
