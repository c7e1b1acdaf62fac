"""Making a shard's index from the shard alone: for shards that others wrote, or whose sidecar is gone."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from neurofm_shards.errors import FormatError, InputNotFoundError
from neurofm_shards.plugins.registry import registry
from neurofm_shards.shards.fingerprints import shard_fingerprint
from neurofm_shards.shards.index_model import ColumnIndex, ShardIndex
from neurofm_shards.shards.names import METADATA_FIELD
from neurofm_shards.shards.packing import PackedInts, pack_ints, pack_strings
from neurofm_shards.shards.tar import Member, TarReader
from neurofm_shards.types import ArrayLayout, ColumnSpec

if TYPE_CHECKING:
    from neurofm_shards.plugins.interfaces import Codec

#: A compressed shard without an index may decompress to this much, or to this many times its size.
MAX_UNKNOWN_BYTES = 1 << 30
MAX_EXPANSION = 1100


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
        columns = _Columns(reader)
        for member in reader:
            columns.add(member)
    keys = columns.keys
    return ShardIndex(
        shard_name=path.name,
        shard_bytes=path.stat().st_size,
        tar_bytes=reader.tar_bytes,
        num_samples=len(keys),
        fingerprint=shard_fingerprint(path),
        packed_records=pack_ints(reader.record_offsets),
        packed_keys=pack_strings(keys),
        digests=np.array(reader.record_digests, np.uint64),
        columns=columns.finish(),
    )


@contextlib.contextmanager
def opened_tar(path: Path) -> Iterator[tuple[memoryview | BinaryIO, int | None]]:
    """Give a shard's decompressed tar (mapped, or as a stream) and the most bytes it may have.

    Whatever a decompressor stumbles over becomes a FormatError.
    """
    size = file_size(path)
    compression = registry().compressions.by_suffix(path.name)
    with path.open("rb") as file:
        if compression is None:
            with contextlib.ExitStack() as stack:
                view = memoryview(
                    stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else b""
                )
                yield stack.enter_context(view), None
            return
        try:
            with registry().compressions.make(compression.qualified_name).open(file) as stream:
                yield stream, max(MAX_UNKNOWN_BYTES, MAX_EXPANSION * size)
        except (OSError, EOFError, ValueError, RuntimeError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{path.name} cannot be decompressed ({type(error).__name__}: {error})") from error


def file_size(path: Path) -> int:
    """Return a shard's size; InputNotFoundError where there is no such file."""
    try:
        return os.stat(path).st_size  # noqa: PTH116  (on a hot path)
    except FileNotFoundError as error:
        raise InputNotFoundError(f"there is no shard {path}") from error


class _Columns:
    """Gathers members by field."""

    def __init__(self, reader: TarReader) -> None:
        self._reader = reader
        self._members: dict[tuple[str, str], _Column] = {}
        self.keys: list[str] = []

    def add(self, member: Member) -> None:
        if not self.keys or self.keys[-1] != member.key:
            self.keys.append(member.key)
        name = (member.field, member.extension)
        column = self._members.get(name)
        if column is None:
            column = self._members[name] = _Column(member.extension)
        column.add(len(self.keys) - 1, member, self._reader)

    def finish(self) -> dict[str, ColumnIndex]:
        fields = [field for field, _ in self._members]
        named = {
            (field if fields.count(field) == 1 else f"{field}.{extension}"): column
            for (field, extension), column in self._members.items()
        }
        # Others call a sample's metadata "key.json"; here it is "key.metadata.json".
        if METADATA_FIELD not in named and "json" in named and named["json"].extension == "json":
            named[METADATA_FIELD] = named.pop("json")
        return {name: column.finish(name, len(self.keys)) for name, column in named.items()}


class _Column:
    def __init__(self, extension: str) -> None:
        self.extension = extension
        self._codec = codec_by_extension(extension)
        self._rows: list[int] = []
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        self._layouts: list[ArrayLayout | None] = []

    def add(self, row: int, member: Member, reader: TarReader) -> None:
        self._rows.append(row)
        self._offsets.append(member.offset)
        self._sizes.append(member.size)
        self._layouts.append(None if self._codec is None else self._codec.layout(reader.head(member), member.size))

    def finish(self, name: str, num_samples: int) -> ColumnIndex:
        layouts = [layout for layout in self._layouts if layout is not None and not layout.fortran]
        dtypes = {layout.dtype for layout in layouts}
        dtype = dtypes.pop() if len(dtypes) == 1 else None
        ranks = {len(layout.shape) for layout in layouts}
        plain = dtype is not None and len(ranks) == 1
        axes = list(zip(*(layout.shape for layout in layouts), strict=True)) if plain else []
        shape = tuple(axis[0] if len(set(axis)) == 1 else None for axis in axes) if plain else None
        # A sample without a layout may turn out to have any shape once it is decoded.
        complete = all(layout is not None for layout in self._layouts)
        return ColumnIndex(
            ColumnSpec(name, dtype if complete else None, shape if complete else None),
            "" if self._codec is None else self._codec.name,
            self.extension,
            self._spread(self._offsets, num_samples, -1),
            self._spread(self._sizes, num_samples, 0),
            self._data(num_samples) if plain and complete else None,
            self._shapes(num_samples) if plain and complete and shape is not None and None in shape else None,
        )

    def _spread(self, values: list[int], num_samples: int, missing: int) -> PackedInts:
        if len(values) == num_samples:
            return pack_ints(values)
        whole = np.full(num_samples, missing, np.int64)
        whole[self._rows] = values
        return pack_ints(whole)

    def _data(self, num_samples: int) -> PackedInts:
        places = [
            offset + layout.offset if layout is not None and not layout.fortran else -1
            for offset, layout in zip(self._offsets, self._layouts, strict=True)
        ]
        return self._spread(places, num_samples, -1)

    def _shapes(self, num_samples: int) -> tuple[PackedInts, ...]:
        axes = zip(*(layout.shape for layout in self._layouts if layout is not None), strict=True)
        return tuple(self._spread(list(axis), num_samples, 0) for axis in axes)


def codec_by_extension(extension: str) -> Codec | None:
    """Return the codec that reads members of this extension, or None where no codec does."""
    found = registry().codecs.by_extension(extension)
    if found is None:
        return None
    codec: Codec = registry().codecs.instance(found.qualified_name)
    return codec
