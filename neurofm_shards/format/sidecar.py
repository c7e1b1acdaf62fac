"""One checked binary container for all sidecars: a JSON header and raw arrays.

Bytes, all little-endian::

    0   8   magic "NFMSIDE1" (the digit is the version)
    8   8   xxh3_64 of everything from byte 16 to the end
    16  4   length of the JSON header
    20  4   zero
    24      JSON: {"arrays": [[name, dtype, shape, offset], ...], "header": {...}}
            arrays in C order, each at the next multiple of 64; zeros between

A file is hashed whole whenever it is opened (more than 5 GB/s), so what is read is what was written.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash

from neurofm_shards._typing import AnyArray
from neurofm_shards.errors import FormatError
from neurofm_shards.format.files import open_regular, write_atomically
from neurofm_shards.types import Buffer

MAGIC = b"NFMSIDE1"
_FIXED = struct.Struct("<8sQII")
_ALIGN = 64
_MAX_HEADER = 1 << 26
#: Smaller files are read, larger ones mapped.
_MAP_BYTES = 1 << 20
_DTYPES = frozenset({"|u1", "<u2", "<u4", "<u8", "|i1", "<i2", "<i4", "<i8", "<f4", "<f8", "|b1"})


def write_arrays(
    path: Path | str, header: dict[str, Any], arrays: Mapping[str, AnyArray], durable: bool = False
) -> None:
    """Write a sidecar, atomically.

    Parameters
    ----------
    path : path-like
        Where to.
    header : dict
        JSON values.
    arrays : mapping of str to numpy.ndarray
        Plain numbers, bytes and bools of any shape.
    durable : bool
        Whether to sync file and folder.
    """
    pieces = [np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("<")) for a in arrays.values()]
    table, offset = [], 0
    for name, array in zip(arrays, pieces, strict=True):
        if array.dtype.str not in _DTYPES:
            raise TypeError(f"array {name!r} of dtype {array.dtype} cannot be in a sidecar")
        table.append([name, array.dtype.str, list(array.shape), offset])
        offset += -(-array.nbytes // _ALIGN) * _ALIGN
    text = orjson.dumps({"arrays": table, "header": header})
    body = b"".join(_body(text, pieces))
    write_atomically(Path(path), [MAGIC, xxhash.xxh3_64_intdigest(body).to_bytes(8, "little"), body], durable=durable)


def _body(text: bytes, arrays: list[AnyArray]) -> Iterator[Buffer]:
    yield struct.pack("<II", len(text), 0)
    yield text
    yield bytes(-(_FIXED.size + len(text)) % _ALIGN)
    for array in arrays:
        yield array.tobytes()
        yield bytes(-array.nbytes % _ALIGN)


def read_arrays(path: Path | str) -> tuple[dict[str, Any], dict[str, AnyArray]]:
    """Open a sidecar; its arrays are read-only views of the file.

    Raises
    ------
    InputNotFoundError
        There is no such file.
    FormatError
        It is damaged, of another version, or hostile.
    """
    data = _contents(os.fspath(path))
    try:
        return parse_arrays(data)
    except FormatError as error:
        raise FormatError(f"sidecar {os.path.basename(path)}: {error}") from error  # noqa: PTH119  (on a hot path)


def _contents(path: str) -> bytes | mmap.mmap:
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > _MAP_BYTES:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return file.read() or b""


def parse_arrays(data: bytes | mmap.mmap) -> tuple[dict[str, Any], dict[str, AnyArray]]:
    """Take a container's bytes apart, checking everything.

    Raises
    ------
    FormatError
        The bytes are damaged, of another version, or hostile.
    """
    if len(data) < _FIXED.size:
        raise FormatError("it is too short; delete it, and it is rebuilt")
    magic, digest, length, zero = _FIXED.unpack_from(data)
    if magic != MAGIC:
        raise FormatError(f"it begins with {magic!r} instead of {MAGIC!r}: another program or a newer version wrote it")
    if xxhash.xxh3_64_intdigest(memoryview(data)[16:]) != digest:
        raise FormatError("its checksum does not match: it is damaged; delete it, and it is rebuilt")
    if zero or length > min(_MAX_HEADER, len(data) - _FIXED.size):
        raise FormatError("its header has an impossible length")
    try:
        parsed = orjson.loads(data[_FIXED.size : _FIXED.size + length])
    except orjson.JSONDecodeError as error:
        raise FormatError(f"its header is not JSON ({error})") from error
    if not isinstance(parsed, dict) or not isinstance(parsed.get("header"), dict):
        raise FormatError("its header is not what this version writes")
    start = -(-(_FIXED.size + length) // _ALIGN) * _ALIGN
    return parsed["header"], _views(data, start, parsed.get("arrays"))


def _views(data: bytes | mmap.mmap, start: int, table: object) -> dict[str, AnyArray]:
    if not isinstance(table, list):
        raise FormatError("its list of arrays is missing")
    arrays: dict[str, AnyArray] = {}
    for row in table:
        name, dtype, shape, offset = _checked_row(row)
        count = 1
        for length in shape:
            count *= length
        if name in arrays or start + offset + count * int(dtype[2]) > len(data) or sum(shape) > len(data):
            raise FormatError(f"its array {name!r} comes twice or reaches beyond the end")
        arrays[name] = (
            np.frombuffer(data, dtype, count, start + offset).reshape(shape) if count else np.empty(shape, dtype)
        )
    return arrays


def _checked_row(row: object) -> tuple[str, str, list[int], int]:
    match row:
        case [str(name), str(dtype), list(shape), int(offset)] if dtype in _DTYPES and len(shape) <= 8:
            if offset % _ALIGN == 0 and all(type(n) is int and 0 <= n < 1 << 48 for n in (offset, *shape)):
                return name, dtype, shape, offset
    raise FormatError(f"its list of arrays holds {row!r:.100}")
