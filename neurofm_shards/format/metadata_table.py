"""The metadata table: scalar metadata of samples by column, so that filters need not read the shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from neurofm_shards._typing import AnyArray, Bools, Ints
from neurofm_shards.errors import ConfigError, FormatError
from neurofm_shards.format.index import ShardIndex
from neurofm_shards.format.index_io import keep, opened_tar, sidecar
from neurofm_shards.format.keys import AUTOMATIC_DIGITS, AUTOMATIC_PREFIX, METADATA_FIELD
from neurofm_shards.format.sidecar import (
    METADATA_SUFFIX,
    Arrays,
    PackedInts,
    PackedStrings,
    load_ints,
    load_strings,
    pack_ints,
    pack_strings,
    read_arrays,
    store_ints,
    store_strings,
    write_arrays,
)
from neurofm_shards.format.tar import TarReader
from neurofm_shards.limits import MAX_JSON_DEPTH, MAX_METADATA_BYTES, is_too_deep
from neurofm_shards.values import EXACT_INTEGERS, json_bytes

_INT64 = 1 << 63
_SCALARS = (str, int, float, bool, type(None))
_CONTAINERS = (list, tuple, Mapping, np.ndarray)
_KINDS = ("int", "float", "bool", "text", "json")


@dataclass(frozen=True)
class MetadataColumn:
    """``n`` scalars of one name.

    Attributes
    ----------
    kind : str
        ``"int"``, ``"float"``, ``"bool"``, ``"text"``, or ``"json"`` where types are mixed.
    numbers : PackedInts or numpy.ndarray
        Integers and booleans; float64 of a float column; of texts, their number in ``texts`` (-1: none).
    nulls : numpy.ndarray of bool, shape (n,), or None
        Where nothing is said; None when something is said everywhere, and for texts.
    texts : PackedStrings or None
        Different texts (JSON texts of a ``"json"`` column).
    """

    kind: str
    numbers: PackedInts | AnyArray
    nulls: Bools | None = None
    texts: PackedStrings | None = None

    def array(self) -> AnyArray:
        """Return the numbers, or the texts' numbers."""
        return self.numbers.array() if isinstance(self.numbers, PackedInts) else self.numbers

    def missing(self) -> Bools:
        """Return where there is no value."""
        if self.texts is not None:
            missing: Bools = self.array() < 0
            return missing
        return np.zeros(len(self.array()), np.bool_) if self.nulls is None else self.nulls


def scalar_column(values: Sequence[Any]) -> MetadataColumn | None:
    """Make a column of scalars; None when one is a list or dict."""
    kinds = {type(value) for value in values}
    if not kinds.issubset(_SCALARS):
        values = [
            value if type(value) in _SCALARS or isinstance(value, _CONTAINERS) else orjson.loads(json_bytes(value))
            for value in values
        ]
        kinds = {type(value) for value in values}
        if not kinds.issubset(_SCALARS):
            return None
    if float in kinds:  # JSON has none that is not finite
        values = [None if type(value) is float and not isfinite(value) else value for value in values]
        kinds = {type(value) for value in values}
    gaps = type(None) in kinds
    kinds.discard(type(None))
    nulls = np.array([value is None for value in values], np.bool_) if gaps else None
    if kinds <= {int} and all(value is None or -_INT64 <= value < _INT64 for value in values):
        return MetadataColumn("int", pack_ints([value or 0 for value in values] if gaps else values), nulls)
    if kinds <= {int, float} and float in kinds and all(type(v) is not int or abs(v) <= EXACT_INTEGERS for v in values):
        return MetadataColumn("float", np.array([np.nan if v is None else v for v in values], np.float64), nulls)
    if kinds == {bool}:
        return MetadataColumn("bool", np.array([bool(value) for value in values], np.uint8), nulls)
    if kinds == {str}:
        return _texts("text", values)
    return _texts("json", [None if value is None else orjson.dumps(value).decode() for value in values])


def _texts(kind: str, values: Sequence[str | None]) -> MetadataColumn:
    numbers: dict[str, int] = {}
    codes = [-1 if value is None else numbers.setdefault(value, len(numbers)) for value in values]
    return MetadataColumn(kind, pack_ints(codes), texts=pack_strings(list(numbers)))


def constant_column(value: Any, length: int) -> MetadataColumn | None:
    """Make a column that says one thing everywhere."""
    column = scalar_column([value])
    if column is None or column.kind in ("float", "bool") or column.nulls is not None:
        return scalar_column([value] * length)
    packed = column.numbers
    if isinstance(packed, PackedInts) and packed.values is not None:  # too large for a progression
        return scalar_column([value] * length)
    start = packed.start if isinstance(packed, PackedInts) else 0
    return MetadataColumn(column.kind, PackedInts(length, start), texts=column.texts)


def store_column(name: str, number: int, column: MetadataColumn, arrays: Arrays) -> list[Any]:
    """Return the column's part of the sidecar's header."""
    stored: Any
    if isinstance(column.numbers, PackedInts):
        stored = store_ints(column.numbers, f"{number}", arrays)
    else:
        arrays[stored := f"{number}"] = column.numbers
    if column.nulls is not None:
        arrays[f"{number}.nulls"] = np.packbits(column.nulls)
    texts = None
    if column.texts is not None:
        texts = [column.texts.length, store_strings(column.texts, f"{number}.texts", arrays)]
    return [name, column.kind, stored, column.nulls is not None and f"{number}.nulls", texts]


def load_column(stored: object, length: int, arrays: Arrays) -> tuple[str, MetadataColumn]:
    """Undo :func:`store_column` (raises FormatError)."""
    match stored:
        case [str(name), str(kind), numbers, nulls, texts] if kind in _KINDS:
            mask = _mask(nulls, length, arrays) if nulls else None
            if kind in ("float", "bool"):
                return name, MetadataColumn(kind, _array(numbers, kind, length, arrays), mask)
            packed = load_ints(numbers, length, arrays)
            if kind == "int":
                return name, MetadataColumn(kind, packed, mask)
            match texts:
                # No more texts than samples: a numbered series of 2**40 texts would take a few bytes.
                case [int(count), form] if 0 <= count <= length and _within(packed, count):
                    return name, MetadataColumn(kind, packed, texts=load_strings(form, count, arrays))
    raise FormatError(f"a column of a metadata sidecar is damaged: {stored!r:.80}")


def _within(codes: PackedInts, count: int) -> bool:
    low, high = codes.bounds()
    return codes.length == 0 or -1 <= low <= high < count


def _array(name: object, kind: str, length: int, arrays: Arrays) -> AnyArray:
    array = arrays.get(name) if isinstance(name, str) else None
    if array is None or array.shape != (length,) or array.dtype.str != {"float": "<f8", "bool": "|u1"}[kind]:
        raise FormatError(f"a column of a metadata sidecar lacks its numbers, {name!r:.40}")
    return array


def _mask(name: object, length: int, arrays: Arrays) -> Bools:
    array = arrays.get(name) if isinstance(name, str) else None
    if array is None or array.dtype != np.uint8 or array.shape != (-(-length // 8),):
        raise FormatError("a column of a metadata sidecar lacks its gaps")
    return np.unpackbits(array, count=length).astype(np.bool_)


def numbered(texts: PackedStrings) -> MetadataColumn:
    """Make a column of texts that are all different."""
    return MetadataColumn("text", PackedInts(texts.length, 0, 1 if texts.length > 1 else 0), texts=texts)


def automatic_ids(first: int, length: int) -> MetadataColumn:
    """Make the column of so many automatic keys, from a number on."""
    return numbered(PackedStrings(length, AUTOMATIC_PREFIX, AUTOMATIC_DIGITS, PackedInts(length, first, 1)))


def taken_column(values: Sequence[Any], codes: Ints) -> MetadataColumn | None:
    """Make the column that says ``values[codes[i]]`` of sample ``i``; None when one of those is a list or dict."""
    used, places = np.unique(codes, return_inverse=True)
    column = scalar_column([values[code] for code in used.tolist()])
    if column is None:
        return None
    nulls = None if column.nulls is None else column.nulls[places]
    return MetadataColumn(column.kind, column.array()[places], nulls, column.texts)


def joined_texts(columns: Sequence[tuple[MetadataColumn | None, int]]) -> tuple[Ints, list[str]]:
    """Join text columns: numbers (-1 for none) into one list of different texts."""
    known: dict[str, int] = {}
    parts = []
    for column, length in columns:
        if column is None or column.texts is None:
            parts.append(np.full(length, -1, np.int64))
            continue
        places = [known.setdefault(text, len(known)) for text in column.texts.texts()]
        parts.append(np.array([*places, -1], np.int64)[column.array()])
    return np.concatenate(parts) if parts else np.empty(0, np.int64), list(known)


def metadata_of_shard(path: Path, index: ShardIndex, *, mapped: bool = True) -> Iterator[dict[str, Any]]:
    """Yield the metadata of each sample of a shard; an empty dict where there is none (raises FormatError)."""
    for key, payload in zip(index.keys(), payloads(path, index, METADATA_FIELD, mapped=mapped), strict=True):
        yield parse_metadata(payload, f"{path.name}, sample {key!r}")


def payloads(path: Path, index: ShardIndex, field: str, *, mapped: bool = True) -> Iterator[memoryview | bytes | None]:
    """Yield the stored bytes of a field of JSON, one per sample; None where one lacks it (raises FormatError)."""
    column = index.columns.get(field)
    if column is None:
        yield from repeat(None, index.num_samples)
        return
    offsets = column.payload_offsets.tolist()
    with opened_tar(path, mapped=mapped) as (source, limit):
        if isinstance(source, memoryview):
            sizes = column.payload_sizes.tolist()
            yield from (source[at : at + size] if at >= 0 else None for at, size in zip(offsets, sizes, strict=True))
        else:
            yield from _from_stream(TarReader(source, name=path.name, limit=limit), offsets)


def _from_stream(reader: TarReader, offsets: list[int]) -> Iterator[memoryview | None]:
    members = iter(reader)
    for offset in offsets:
        if offset < 0:
            yield None
            continue
        member = next((member for member in members if member.offset == offset), None)
        if member is None or member.size > MAX_METADATA_BYTES:
            raise FormatError(f"{reader.name}: the metadata at byte {offset:,} is not where its index says")
        yield reader.head(member, member.size)


def parse_metadata(payload: bytes | memoryview | None, where: str) -> dict[str, Any]:
    """Return one sample's metadata; JSON that is no object is kept under ``value`` (raises FormatError)."""
    if payload is None:
        return {}
    if len(payload) > MAX_METADATA_BYTES:
        raise FormatError(f"{where}: its metadata has {len(payload):,} bytes; {MAX_METADATA_BYTES:,} are allowed")
    if is_too_deep(bytes(payload)):
        raise FormatError(f"{where}: its metadata is nested deeper than {MAX_JSON_DEPTH}")
    try:
        values = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"{where}: its metadata is not JSON ({error})") from error
    return values if isinstance(values, dict) else {"value": values}


METADATA_VERSION = 1


@dataclass(frozen=True)
class TablePart:
    """The table of one shard.

    Attributes
    ----------
    num_rows : int
        Samples.
    columns : mapping of str to MetadataColumn
        Scalars by name.
    omitted : tuple of str
        Names whose values are lists or dicts, which stay in the metadata members.
    """

    num_rows: int
    columns: Mapping[str, MetadataColumn]
    omitted: tuple[str, ...] = ()


class MetadataTable:
    """Scalar metadata of one or many shards, row by row in the order of the samples.

    Parameters
    ----------
    parts : sequence of TablePart
        One per shard; columns are joined when they are asked for.
    """

    def __init__(self, parts: Sequence[TablePart]) -> None:
        self.parts = tuple(parts)
        self.num_rows = sum(part.num_rows for part in self.parts)

    @classmethod
    def of(cls, metadata: Sequence[Mapping[str, Any]]) -> MetadataTable:
        """Make a table of metadata dicts."""
        return cls([part_of(metadata)])

    @classmethod
    def concat(cls, tables: Sequence[MetadataTable]) -> MetadataTable:
        """Join tables end to end; what one of them lacks is missing there."""
        return cls(list(chain.from_iterable(table.parts for table in tables)))

    @property
    def names(self) -> list[str]:
        """Names of all columns, in the order of their first appearance."""
        return list(dict.fromkeys(chain.from_iterable(part.columns for part in self.parts)))

    @property
    def omitted(self) -> list[str]:
        """Names whose values are lists or dicts and so are not in the table."""
        return list(dict.fromkeys(chain.from_iterable(part.omitted for part in self.parts)))

    def kind(self, name: str) -> str:
        """Return a column's kind: ``int``, ``float``, ``bool``, ``text``, or ``json`` (mixed)."""
        columns = [column for column, _ in self._columns(name) if column is not None and not _blank(column)]
        kinds = {column.kind for column in columns}
        if kinds == {"int", "float"} and any(column.kind == "int" and not _is_small(column) for column in columns):
            return "json"
        if kinds <= {"int", "float"}:
            return "float" if "float" in kinds else "int"
        return kinds.pop() if len(kinds) == 1 else "json"

    def values(self, name: str) -> AnyArray:
        """Return a column.

        Returns
        -------
        numpy.ndarray, shape (n,)
            int64, float64 (NaN where missing; also for integers with gaps that float64 holds exactly), bool, or
            objects (texts, None where missing; booleans with gaps; mixed types; integers beyond 2**53 with gaps
            or beside fractions, which stay exact).

        Raises
        ------
        ConfigError
            There is no such column; the message lists those there are.
        """
        kind, missing = self.kind(name), self.nulls(name)
        if kind in ("text", "json"):
            return self._objects(name, kind)
        numbers = self._numbers(name)
        if kind == "bool":
            return self._objects(name, kind) if missing.any() else numbers.astype(np.bool_)
        if kind == "int" and not missing.any():
            return numbers.astype(np.int64)
        if kind == "int" and bool((np.abs(numbers[~missing]) > EXACT_INTEGERS).any()):
            return self._objects(name, kind)
        return np.where(missing, np.nan, numbers)

    def nulls(self, name: str) -> Bools:
        """Return where a column says nothing, shape (n,)."""
        parts = [np.ones(n, np.bool_) if column is None else column.missing() for column, n in self._columns(name)]
        return np.concatenate(parts) if parts else np.empty(0, np.bool_)

    def codes(self, name: str) -> tuple[Ints, list[str]]:
        """Return a text column as numbers into a list of different texts; -1 where missing."""
        if self.kind(name) not in ("text", "int") or any(
            c and c.texts is None and not _blank(c) for c, _ in self._columns(name)
        ):
            raise ConfigError(f"metadata {name!r} is not a column of texts but of kind {self.kind(name)}")
        return joined_texts(self._columns(name))

    def _columns(self, name: str) -> list[tuple[MetadataColumn | None, int]]:
        found = [(part.columns.get(name), part.num_rows) for part in self.parts]
        if found and all(column is None for column, _ in found):
            hint = " (its values are lists or dicts)" if name in self.omitted else ""
            raise ConfigError(f"there is no metadata column {name!r}{hint}; there are: {', '.join(self.names)}")
        return found

    def _numbers(self, name: str) -> AnyArray:
        parts = [np.zeros(n) if c is None or c.texts is not None else c.array() for c, n in self._columns(name)]
        said = zip(parts, self._columns(name), strict=True)
        used = [part for part, (column, _) in said if column is not None and not _blank(column)]
        dtype = np.result_type(*used) if used else np.dtype(np.float64)
        return np.concatenate([part.astype(dtype) for part in parts]) if parts else np.empty(0)

    def _objects(self, name: str, kind: str) -> npt.NDArray[np.object_]:
        columns = self._columns(name)
        if kind == "text":
            codes, texts = joined_texts(columns)
            return np.array([*texts, None], object)[codes]
        return np.concatenate([_mixed(column, n) for column, n in columns])


def _blank(column: MetadataColumn) -> bool:
    return bool(column.missing().all())


def _is_small(column: MetadataColumn) -> bool:
    """Return whether float64 holds all numbers of a column exactly."""
    numbers = column.array()
    return not len(numbers) or max(-int(numbers.min()), int(numbers.max())) <= EXACT_INTEGERS


def _mixed(column: MetadataColumn | None, length: int) -> npt.NDArray[np.object_]:
    out = np.full(length, None, object)
    if column is None:
        return out
    if column.texts is None:
        values = column.array().astype(np.bool_) if column.kind == "bool" else column.array()
        said = ~column.missing()
        out[said] = np.array(values.tolist(), object)[said]
        return out
    texts = column.texts.texts()
    known = [_scalar(text) for text in texts] if column.kind == "json" else texts
    out[:] = [None if code < 0 else known[code] for code in column.array().tolist()]
    return out


def _scalar(text: str) -> Any:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = []
    if isinstance(value, (list, dict)):
        raise FormatError(f"a metadata sidecar is damaged ({text[:40]!r} is no JSON scalar); delete it, it is remade")
    return value


def part_of(metadata: Sequence[Mapping[str, Any]]) -> TablePart:
    """Make one shard's table of its metadata dicts."""
    first = metadata[0] if metadata else {}
    if all(entry is first for entry in metadata):
        made = {name: constant_column(value, len(metadata)) for name, value in first.items()}
    else:
        names = dict.fromkeys(chain.from_iterable(metadata))
        made = {name: scalar_column([entry.get(name) for entry in metadata]) for name in names}
    kept = {str(name): column for name, column in made.items() if column is not None}
    return TablePart(len(metadata), kept, tuple(str(name) for name, column in made.items() if column is None))


def split_of_part(part: TablePart) -> str | None:
    """Return the split that all samples of a shard say they are in; None where they do not, or say different ones."""
    column = part.columns.get("split")
    if column is None or column.kind != "text" or column.texts is None or column.missing().any():
        return None
    texts = column.texts.texts()
    return texts[0] or None if len(texts) == 1 else None


def _may_be_rounded(column: MetadataColumn) -> bool:
    """Return whether fractions may be integers that the first release rounded: it stored both in one float64 column."""
    return column.kind == "float" and bool((np.abs(column.array()) > EXACT_INTEGERS).any())


def save_part(part: TablePart, fingerprint: str, path: Path, *, durable: bool = False, mode: int | None = None) -> None:
    """Write one shard's table to a sidecar."""
    arrays: Arrays = {}
    columns = [store_column(name, i, column, arrays) for i, (name, column) in enumerate(part.columns.items())]
    header = {
        "kind": "metadata",
        "version": METADATA_VERSION,
        "fingerprint": fingerprint,
        "rows": part.num_rows,
        "columns": columns,
        "omitted": list(part.omitted),
    }
    if any(_may_be_rounded(column) for column in part.columns.values()):
        header["exact"] = True
    write_arrays(path, header, arrays, durable, mode)


def read_part(path: Path, fingerprint: str, num_rows: int) -> TablePart:
    """Read one shard's table (raises InputNotFoundError, FormatError)."""
    header, arrays = read_arrays(path)
    match header:
        case {"kind": "metadata", "version": 1, "fingerprint": str(mark), "rows": int(rows), "columns": [*columns],
              "omitted": [*omitted]} if mark == fingerprint and rows == num_rows:  # fmt: skip
            loaded = dict(load_column(column, rows, arrays) for column in columns)
            if "exact" not in header and any(_may_be_rounded(column) for column in loaded.values()):
                raise FormatError(f"metadata sidecar {path.name} is of a version that rounded integers beyond 2**53")
            return TablePart(rows, loaded, tuple(str(name) for name in omitted))
    raise FormatError(f"metadata sidecar {path.name} is of another version of its shard")


def load_table(shard_path: Path | str, index: ShardIndex, *, mapped: bool = True) -> MetadataTable:
    """Return the table of one shard: its sidecar where that matches, else made from the metadata members, and kept.

    Raises
    ------
    FormatError
        The shard's metadata members are damaged.
    """
    path = Path(shard_path)
    mark, rows = index.fingerprint, index.num_samples
    part = sidecar(path, mark, METADATA_SUFFIX, lambda place: read_part(place, mark, rows))
    if part is not None:
        return MetadataTable([part])
    return MetadataTable([made_part(path, index, mapped=mapped)])


def made_part(path: Path, index: ShardIndex, *, mapped: bool = True) -> TablePart:
    """Make a shard's table from its metadata members, and keep it."""
    made = part_of(list(metadata_of_shard(path, index, mapped=mapped)))
    keep(path, METADATA_SUFFIX, lambda target, mode: save_part(made, index.fingerprint, target, mode=mode))
    return made
