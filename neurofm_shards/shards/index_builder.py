"""Making a shard's index from the shard alone: for shards that others wrote, or whose sidecar is gone."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from neurofm_shards.errors import FormatError, InputNotFoundError
from neurofm_shards.format.files import open_regular
from neurofm_shards.format.index import ShardIndex
from neurofm_shards.format.resolve import find_compression
from neurofm_shards.format.tar import Member, TarReader
from neurofm_shards.plugins.registry import registry
from neurofm_shards.shards.fingerprints import shard_fingerprint
from neurofm_shards.shards.index_log import Encoded, IndexLog

if TYPE_CHECKING:
    from neurofm_shards.plugins.interfaces import Codec

#: A shard may decompress to this much, or to this many times its size.
MAX_UNKNOWN_BYTES = 1 << 30
MAX_EXPANSION = 1100
#: Pickles of other programs say at their end, too, what they hold; larger ones are decoded rather than copied.
_HEAD_BYTES = 1 << 22


def build_index(shard_path: Path | str) -> ShardIndex:
    """Read a shard from end to end and say where everything is.

    Parameters
    ----------
    shard_path : path-like
        A tar, or one compressed by a registered compression (found by its suffix).

    Raises
    ------
    InputNotFoundError
        There is no such file.
    FormatError
        The shard is damaged, truncated or hostile.
    """
    path = Path(shard_path)
    with opened_tar(path) as (source, limit):
        reader = TarReader(source, name=path.name, limit=limit, digests=True)
        log = IndexLog()
        for member in reader:
            _note(log, member, reader)
    log.records, log.digests = reader.record_offsets[:-1], reader.record_digests
    return log.finish(
        reader.record_offsets[-1],
        shard_name=path.name,
        shard_bytes=file_size(path),
        tar_bytes=reader.tar_bytes,
        fingerprint=shard_fingerprint(path),
    )


def _note(log: IndexLog, member: Member, reader: TarReader) -> None:
    if not log.keys or log.keys[-1] != member.key:
        log.keys.append(member.key)
    codec = codec_by_extension(member.extension)
    layout = None if codec is None else codec.layout(reader.head(member, _HEAD_BYTES), member.size)
    column = log.column(member.field, "" if codec is None else codec.name, member.extension)
    value = Encoded(member.size, ())
    if layout is not None:
        place = -1 if layout.fortran else layout.offset  # column-major arrays have to be decoded
        value = Encoded(member.size, (), place, (layout.dtype, layout.shape))
    column.add(len(log.keys) - 1, member.offset, value)


@contextlib.contextmanager
def opened_tar(path: Path) -> Iterator[tuple[memoryview | BinaryIO, int | None]]:
    """Give a shard's decompressed tar (mapped, or as a stream) and the most bytes it may have.

    Whatever a decompressor stumbles over becomes a FormatError.
    """
    size = file_size(path)
    compression = find_compression(path.name)
    with os.fdopen(open_regular(path), "rb") as file:
        if compression is None:
            # Not closed by hand: a view of it may still be held; it goes with the last of them.
            yield _mapped(file, path) if size else memoryview(b""), None
            return
        try:
            with compression.open(file) as stream:
                yield stream, most_decoded(size)
        except (OSError, EOFError, ValueError, RuntimeError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{path.name} cannot be decompressed ({type(error).__name__}: {error})") from error


def _mapped(file: BinaryIO, path: Path) -> memoryview:
    try:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be mapped ({error}): is it really so large?") from error


def most_decoded(size: int) -> int:
    """Return the most bytes that a shard of this size may decompress to."""
    return max(MAX_UNKNOWN_BYTES, MAX_EXPANSION * size)


def file_size(path: Path) -> int:
    """Return a shard's size; InputNotFoundError where there is no such file, FormatError where it is out of reach."""
    try:
        return os.stat(path).st_size  # noqa: PTH116  (on a hot path)
    except FileNotFoundError as error:
        raise InputNotFoundError(f"there is no shard {path}") from error
    except OSError as error:
        raise FormatError(f"{path} cannot be opened ({error}); check links and permissions") from error


def codec_by_extension(extension: str) -> Codec | None:
    """Return the codec that reads members of this extension, or None where no codec does."""
    found = registry().codecs.by_extension(extension)
    if found is None:
        return None
    codec: Codec = registry().codecs.instance(found.qualified_name)
    return codec
