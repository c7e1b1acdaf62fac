"""Taking the whole samples out of a damaged shard."""

from __future__ import annotations

import contextlib
import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import xxhash

from neurofm_shards.compression.frames import FrameTable
from neurofm_shards.errors import FormatError
from neurofm_shards.format.files import partial_path, publish
from neurofm_shards.format.headers import END_OF_ARCHIVE
from neurofm_shards.format.index import ShardIndex
from neurofm_shards.format.index_io import parse_index
from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.format.tar import TarReader
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.shards.compression_choice import compression_of
from neurofm_shards.shards.index_builder import build_index, opened_tar
from neurofm_shards.shards.sidecars import sidecar_paths
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
