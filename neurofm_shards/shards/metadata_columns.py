"""Columns of scalar metadata of one shard: numbers, texts, truth values, and gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from neurofm_shards._typing import AnyArray, Bools, Ints
from neurofm_shards.errors import FormatError
from neurofm_shards.shards.packing import (
    Arrays,
    PackedInts,
    PackedStrings,
    load_ints,
    load_strings,
    pack_ints,
    pack_strings,
    store_ints,
    store_strings,
)

_INT64 = 1 << 63
_SCALARS = (str, int, float, bool, type(None))
_KINDS = ("int", "float", "bool", "text", "json")


@dataclass(frozen=True)
class MetadataColumn:
    """``n`` scalars of one name.

    Attributes
    ----------
    kind : str
        ``"int"``, ``"float"``, ``"bool"``, ``"text"``, or ``"json"`` where types are mixed.
    numbers : PackedInts or numpy.ndarray
        Integers and truth values; float64 of a float column; of texts, their number in ``texts`` (-1: none).
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
        """Return where nothing is said."""
        if self.texts is not None:
            missing: Bools = self.array() < 0
            return missing
        return np.zeros(len(self.array()), np.bool_) if self.nulls is None else self.nulls


def plain_scalar(value: Any) -> Any:
    """Return the JSON scalar that a metadata value becomes in a file; lists, dicts and arrays come back as they are."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None  # JSON has no NaN
    if type(value) in _SCALARS or isinstance(value, (list, tuple, dict, np.ndarray)):
        return value
    return orjson.loads(orjson.dumps(value, default=str))


def column_of(values: Sequence[Any]) -> MetadataColumn | None:
    """Make a column of scalars; None when one is a list or dict."""
    kinds = {type(value) for value in values}
    if not kinds.issubset(_SCALARS) or float in kinds:
        values = [plain_scalar(value) for value in values]
        kinds = {type(value) for value in values}
        if not kinds.issubset(_SCALARS):
            return None
    gaps = type(None) in kinds
    kinds.discard(type(None))
    nulls = np.array([value is None for value in values], np.bool_) if gaps else None
    if kinds <= {int} and all(value is None or -_INT64 <= value < _INT64 for value in values):
        return MetadataColumn("int", pack_ints([value or 0 for value in values] if gaps else values), nulls)
    if kinds <= {int, float} and float in kinds:
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
    column = column_of([value])
    if column is None or column.kind in ("float", "bool") or column.nulls is not None:
        return column_of([value] * length)
    packed = column.numbers
    if isinstance(packed, PackedInts) and packed.values is not None:  # too large for a progression
        return column_of([value] * length)
    start = packed.start if isinstance(packed, PackedInts) else 0
    return MetadataColumn(column.kind, PackedInts(length, start), texts=column.texts)


def store_column(name: str, number: int, column: MetadataColumn, arrays: Arrays) -> list[Any]:
    """Return what stands in the sidecar's header."""
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
    """Undo :func:`store_column`.

    Raises
    ------
    FormatError
        The stored form is damaged.
    """
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
