"""One checked binary container for all sidecars: a JSON header and raw arrays, packed where they are regular.

Bytes, all little-endian::

    0   8   magic "NFMSIDE1" (the digit is the version)
    8   8   xxh3_64 of everything from byte 16 to the end
    16  4   length of the JSON header
    20  4   zero
    24      JSON: {"arrays": [[name, dtype, shape, offset], ...], "header": {...}}
            arrays in C order, each at the next multiple of 64; zeros between

A file is hashed whole whenever it is opened (more than 5 GB/s), so what is read is what was written. Integers and
strings take few bytes: a progression is three numbers, the rest are small arrays.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import xxhash

from neurofm_shards._typing import AnyArray, Ints
from neurofm_shards.errors import FormatError
from neurofm_shards.format.files import SIDECAR_DIR, open_regular, write_atomically
from neurofm_shards.types import Buffer

#: What a shard's sidecars are called: its own name, and one of these.
INDEX_SUFFIX = ".idx"
METADATA_SUFFIX = ".meta"
SIDECAR_SUFFIXES = (INDEX_SUFFIX, METADATA_SUFFIX)

MAGIC = b"NFMSIDE1"
_FIXED = struct.Struct("<8sQII")
_ALIGN = 64
_MAX_HEADER = 1 << 26
_DTYPES = frozenset({"|u1", "<u2", "<u4", "<u8", "|i1", "<i2", "<i4", "<i8", "<f4", "<f8", "|b1"})
Arrays = dict[str, AnyArray]

_NUMBERED = re.compile(r"(.*?)(\d{1,18})", re.DOTALL)
_LIMIT = 1 << 62
#: Longest part that the texts of a numbered series share: each of them has it again once they are made.
_MAX_PREFIX = 4096
_SMALL = ("|u1", "<u2", "<u4", "<i8")


def sidecar_names(shard_name: str) -> list[str]:
    """Return the names of a shard's sidecars in the hidden folder: index and metadata table."""
    return [shard_name + suffix for suffix in SIDECAR_SUFFIXES]


def sidecar_paths(shard_path: Path | str) -> list[Path]:
    """Return the paths of a shard's sidecars beside the data; a function of the shard's path alone."""
    path = Path(shard_path)
    return [path.parent / SIDECAR_DIR / name for name in sidecar_names(path.name)]


def write_arrays(
    path: Path | str,
    header: dict[str, Any],
    arrays: Mapping[str, AnyArray],
    durable: bool = False,
    mode: int | None = None,
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
    mode : int, optional
        Permission bits; by default those of the sidecar that is replaced.
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
    write_atomically(
        Path(path), [MAGIC, xxhash.xxh3_64_intdigest(body).to_bytes(8, "little"), body], durable=durable, mode=mode
    )


def _body(text: bytes, arrays: list[AnyArray]) -> Iterator[Buffer]:
    yield struct.pack("<II", len(text), 0)
    yield text
    yield bytes(-(_FIXED.size + len(text)) % _ALIGN)
    for array in arrays:
        yield array.tobytes()
        yield bytes(-array.nbytes % _ALIGN)


def read_arrays(path: Path | str) -> tuple[dict[str, Any], dict[str, AnyArray]]:
    """Open a sidecar; its arrays are read-only views of the file (raises InputNotFoundError, FormatError)."""
    data = _contents(os.fspath(path))
    try:
        return parse_arrays(data)
    except FormatError as error:
        raise FormatError(f"sidecar {os.path.basename(path)}: {error}") from error  # noqa: PTH119  (on a hot path)


def _contents(path: str) -> bytes:
    """Read a file whole: it is hashed whole anyway, and a map of a file that shrinks ends the process."""
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        return file.readall() or b""


def parse_arrays(data: bytes) -> tuple[dict[str, Any], dict[str, AnyArray]]:
    """Take a container's bytes apart, checking everything (raises FormatError)."""
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


def _views(data: bytes, start: int, table: object) -> dict[str, AnyArray]:
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


@dataclass(frozen=True)
class PackedInts:
    """``n`` integers: ``start + step * i``, or an array.

    Attributes
    ----------
    length : int
        How many.
    start, step : int
        The progression; unused when ``values`` is given.
    values : numpy.ndarray or None
        The numbers themselves where they form no progression.
    """

    length: int
    start: int = 0
    step: int = 0
    values: AnyArray | None = None

    def array(self) -> Ints:
        """Return the numbers as a new int64 array."""
        if self.values is not None:
            return self.values.astype(np.int64)
        if self.step == 0:
            return np.full(self.length, self.start, np.int64)
        return np.arange(self.length, dtype=np.int64) * self.step + self.start

    def bounds(self) -> tuple[int, int]:
        """Return the smallest and largest number; (0, 0) when there are none."""
        if self.length == 0:
            return 0, 0
        if self.values is not None:
            return int(self.values.min()), int(self.values.max())
        last = self.start + self.step * (self.length - 1)
        return min(self.start, last), max(self.start, last)

    def at(self, i: int) -> int:
        """Return one number."""
        return self.start + self.step * i if self.values is None else int(self.values[i])


def pack_ints(values: npt.ArrayLike) -> PackedInts:
    """Find the smallest form of integers."""
    array = np.asarray(values, dtype=np.int64)
    if len(array) == 0:
        return PackedInts(0, 0)
    if len(array) == 1:
        return PackedInts(1, int(array[0])) if _in_bounds(int(array[0]), 0, 1) else PackedInts(1, values=array)
    step = int(array[1]) - int(array[0])
    if (np.diff(array) == step).all() and _in_bounds(int(array[0]), step, len(array)):
        return PackedInts(len(array), int(array[0]), step)
    low, high = int(array.min()), int(array.max())
    dtype = next(d for d in _SMALL if d == "<i8" or (low >= 0 and high <= np.iinfo(d).max))
    return PackedInts(len(array), values=array.astype(dtype))


def store_ints(packed: PackedInts, name: str, arrays: Arrays) -> list[int] | str:
    """Return the part for a sidecar's header; arrays go into ``arrays`` under ``name``."""
    if packed.values is None:
        return [packed.start, packed.step]
    arrays[name] = packed.values
    return name


def load_ints(stored: object, length: int, arrays: Arrays) -> PackedInts:
    """Undo :func:`store_ints` (raises FormatError)."""
    match stored:
        case [int(start), int(step)] if _whole(start, step) and _in_bounds(start, step, length):
            return PackedInts(length, start, step)
        case str() if (
            (array := arrays.get(stored)) is not None and array.shape == (length,) and array.dtype.kind in "ui"
        ):
            return PackedInts(length, values=array)
    raise FormatError(f"a sidecar's column of integers is damaged: {stored!r:.60}")


def _in_bounds(start: int, step: int, length: int) -> bool:
    # Room for one step beyond the last number, so that no sum of two of them overflows.
    return max(abs(start), abs(start + step * length)) < _LIMIT


def _whole(*values: object) -> bool:
    return all(type(value) is int for value in values)  # True and False are no numbers


@dataclass(frozen=True)
class PackedStrings:
    """``n`` texts: a numbered series, or UTF-8 bytes with offsets.

    Attributes
    ----------
    length : int
        How many.
    prefix, width : str, int
        A numbered series: ``prefix`` and the number, zero-padded to ``width`` digits.
    numbers : PackedInts or None
        The series' numbers; None when the texts are stored as they are.
    blob, offsets : numpy.ndarray or None
        UTF-8 bytes end to end, and where each text ends.
    """

    length: int
    prefix: str = ""
    width: int = 0
    numbers: PackedInts | None = None
    blob: AnyArray | None = None
    ends: PackedInts | None = None

    def texts(self) -> list[str]:
        """Return all texts."""
        if self.numbers is not None:
            prefix, width = self.prefix, self.width
            return [f"{prefix}{number:0{width}d}" for number in self.numbers.array().tolist()]
        if self.blob is None or self.ends is None:
            return []
        raw, start, texts = self.blob.tobytes(), 0, []
        for end in self.ends.array().tolist():
            texts.append(_decoded(raw[start:end]))
            start = end
        return texts

    def at(self, i: int) -> str:
        """Return one text."""
        if self.numbers is not None:
            return f"{self.prefix}{self.numbers.at(i):0{self.width}d}"
        if self.blob is None or self.ends is None:
            raise IndexError(i)
        start = self.ends.at(i - 1) if i else 0
        return _decoded(self.blob[start : self.ends.at(i)].tobytes())


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"a sidecar's texts are not UTF-8 ({error.reason}); delete it, and it is remade") from error


def pack_strings(texts: Sequence[str]) -> PackedStrings:
    """Find a small form of texts."""
    series = _series(texts)
    if series is not None:
        return series
    raw = [text.encode() for text in texts]
    ends = np.cumsum([len(r) for r in raw], dtype=np.int64) if raw else np.empty(0, np.int64)
    return PackedStrings(len(raw), blob=np.frombuffer(b"".join(raw), np.uint8), ends=pack_ints(ends))


def _series(texts: Sequence[str]) -> PackedStrings | None:
    match = _NUMBERED.fullmatch(texts[0]) if texts else None
    if (
        match is None
        or len(match[1]) > _MAX_PREFIX
        or not texts[0].isascii()
        or set(map(len, texts)) != {len(texts[0])}
    ):
        return None
    joined = "".join(texts)
    if not joined.isascii():
        return None
    rows = np.frombuffer(joined.encode(), np.uint8).reshape(len(texts), -1)
    start = match.start(2)
    digits = rows[:, start:].astype(np.int64) - ord("0")
    if (rows[:, :start] != rows[0, :start]).any() or ((digits < 0) | (digits > 9)).any():
        return None
    width = digits.shape[1]
    numbers = digits @ (10 ** np.arange(width - 1, -1, -1, dtype=np.int64))
    return PackedStrings(len(texts), match[1], width, pack_ints(numbers))


def store_strings(packed: PackedStrings, name: str, arrays: Arrays) -> list[Any]:
    """Return the part for a sidecar's header; arrays go into ``arrays`` under names that begin with ``name``."""
    if packed.numbers is not None:
        return [packed.prefix, packed.width, store_ints(packed.numbers, f"{name}.numbers", arrays)]
    if packed.blob is None or packed.ends is None:
        return []
    arrays[f"{name}.utf8"] = packed.blob
    return [f"{name}.utf8", store_ints(packed.ends, f"{name}.ends", arrays)]


def load_strings(stored: object, length: int, arrays: Arrays) -> PackedStrings:
    """Undo :func:`store_strings` (raises FormatError)."""
    match stored:
        case [str(prefix), int(width), numbers] if _whole(width) and 0 < width <= 18 and len(prefix) <= _MAX_PREFIX:
            packed = load_ints(numbers, length, arrays)
            if packed.bounds()[0] >= 0:
                return PackedStrings(length, prefix, width, packed)
        case [str(name), ends] if (blob := arrays.get(name)) is not None and blob.dtype == np.uint8:
            packed = load_ints(ends, length, arrays)
            if blob.ndim == 1 and _rises(packed, len(blob)):
                return PackedStrings(length, blob=blob, ends=packed)
    raise FormatError(f"a sidecar's column of texts is damaged: {stored!r:.60}")


def _rises(ends: PackedInts, limit: int) -> bool:
    low, high = ends.bounds()
    falls = ends.step < 0 if ends.values is None else bool((np.diff(ends.array()) < 0).any())
    return not falls and low >= 0 and high == (limit if ends.length else 0)
