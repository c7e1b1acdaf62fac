"""One type for each field of a data set, decided by its first value, so that batches always have one type.

Numbers of one kind go together, whether Python's or NumPy's; None among them is a gap. What would change a value is
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import orjson

from neurofm_shards._typing import AnyArray
from neurofm_shards.blocks import MISSING, column_of
from neurofm_shards.errors import EncodeError
from neurofm_shards.format.index_io import load_index
from neurofm_shards.format.manifest import Manifest, ShardEntry
from neurofm_shards.format.metadata_table import payloads
from neurofm_shards.types import Block, ColumnSpec, Ragged, Sample
from neurofm_shards.values import as_array

#: The type of a field: that of its arrays, of its Python numbers, or None where it holds anything else.
FieldType: TypeAlias = "np.dtype[Any] | type | None"

_NUMBERS = (bool, int, float)
#: Of an integer in a batch, without its sign.
_BITS = 63


class FieldTypes:
    """Gives each field one type, over all samples and shards.

    Parameters
    ----------
    columns : iterable of ColumnSpec
        Of the data set that is added to.
    first : mapping of str to value
        The first values of its fields of JSON.
    """

    def __init__(self, columns: Iterable[ColumnSpec] = (), first: Mapping[str, Any] = MappingProxyType({})) -> None:
        named = [(spec.name, np.dtype(spec.dtype)) for spec in columns if spec.dtype is not None]
        self._types: dict[str, FieldType] = {name: _type_of(value) for name, value in first.items()}
        self._types |= {name: dtype for name, dtype in named if dtype.kind in "biufc"}
        #: Fields whose type was decided by another program: values are converted to it wherever that changes none.
        self._stored = frozenset(self._types)
        self._alike: set[tuple[str, type, Any]] = set()
        #: What each field was decided by, where blocks are typed.
        self._deciding: dict[str, str] = {}
        self._new: list[str] = []

    def is_json(self, name: str) -> bool:
        """Return whether a field is known to hold Python's numbers, or what is no number."""
        return name in self._types and not isinstance(self._types[name], np.dtype)

    def unified(self, sample: Sample, where: str) -> Sample:
        """Return a sample whose values have their fields' types; the same object where they have already.

        Parameters
        ----------
        sample : dict
            As the caller gives it.
        where : str
            Names the sample in messages.

        Raises
        ------
        EncodeError
            A value would have to be changed to fit the values before it.
        """
        self._new = []
        if all(map(self._is_alike, sample, sample.values())):
            return sample
        fitting = ((name, self._fitting(name, value, where, alone=len(sample) == 1)) for name, value in sample.items())
        return {name: value for name, value in fitting if value is not MISSING}

    def values(self, name: str, values: Sequence[Any], where: Callable[[int], str], *, alone: bool) -> list[Any]:
        """Return the values of a field of many samples with its type, MISSING for gaps (raises EncodeError).

        Parameters
        ----------
        name : str
            The field.
        values : sequence
            One per sample.
        where : callable
            Names the sample of a row in messages.
        alone : bool
            Whether samples have no other field.
        """
        return [
            value
            if value is MISSING or self._is_alike(name, value)
            else self._fitting(name, value, where(i), alone=alone)
            for i, value in enumerate(values)
        ]

    def rows(self, name: str, data: AnyArray | Ragged, where: Callable[[int], str]) -> AnyArray | Ragged:
        """Return arrays of many samples with the type of the field (raises EncodeError, naming the first to blame)."""
        if isinstance(data, Ragged):
            return Ragged(self._array(name, data.values, data, where), data.offsets)
        return self._array(name, data, data, where)

    def _array(self, name: str, values: AnyArray, rows: AnyArray | Ragged, where: Callable[[int], str]) -> AnyArray:
        try:
            found: AnyArray = values if self._is_alike(name, values) else self._fitting(name, values, "", alone=True)
        except EncodeError:
            self.values(name, [rows[i] for i in range(len(rows))], where, alone=True)
            raise
        return found

    def block(self, block: Block, where: Callable[[int], str]) -> Block:
        """Return a block whose columns have their fields' types (raises EncodeError)."""
        alone, before = len(block.columns) == 1, set(self._types)
        typed = {
            name: column_of(self.values(name, data, where, alone=alone))
            if isinstance(data, list)
            else self.rows(name, data, where)
            for name, data in block.columns.items()
        }
        for name in self._types.keys() - before:
            values = block.columns[name]
            self._deciding[name] = where(next((i for i in range(len(block)) if not _is_gap(values[i])), 0))
        return replace(block, columns=typed)

    def decided(self) -> dict[str, tuple[str, str]]:
        """Return the fields whose type a block decided: that type in words, and what names the sample."""
        return {name: (_named(self._types[name]), where) for name, where in self._deciding.items()}

    def forget(self) -> None:
        """Undo what the last sample decided: it was not written."""
        for name in self._new:
            del self._types[name]
            self._alike = {alike for alike in self._alike if alike[0] != name}
        self._new = []

    def _is_alike(self, name: str, value: Any) -> bool:
        """Return whether a value is of a type that was found to be its field's, and not too large to look at again."""
        is_large = type(value) is int and value.bit_length() > _BITS
        return not is_large and (name, type(value), getattr(value, "dtype", None)) in self._alike

    def _fitting(self, name: str, value: Any, where: str, *, alone: bool) -> Any:
        if value is None and not alone and self._types.get(name, int) is not None:
            return MISSING  # a gap among numbers
        if name not in self._types:
            self._types[name] = self._type(name, value, where)
            self._new.append(name)
        known, found = self._types[name], self._type(name, value, where)
        if known is not None and value is None:
            raise EncodeError(f"{where}: {name!r}, its only field, is None, a gap among numbers: leave the sample out")
        if known is None or found is None:
            if (known is None) is not (found is None):
                raise EncodeError(_refusal(name, where, _said(found, value), known))
            return str(value) if isinstance(value, np.str_) else value
        if type(known) is type(found) and known == found:
            self._alike.add((name, type(value), getattr(value, "dtype", None)))
            return value
        return _converted(name, value, known, where, stored=name in self._stored)

    @staticmethod
    def _type(name: str, value: Any, where: str) -> FieldType:
        try:
            return _type_of(value)
        except EncodeError as error:
            raise EncodeError(f"{where}: field {name!r}: {error}") from error


def _type_of(value: Any) -> FieldType:
    if type(value) in _NUMBERS:
        return None if _is_beyond(value) else type(value)
    array = as_array(value)
    return array.dtype.newbyteorder("=") if array is not None and array.dtype.kind in "biufc" else None


def _is_beyond(value: Any) -> bool:
    """Return whether a value is an integer that int64 does not hold: batches have lists of such."""
    return type(value) is int and not -(1 << _BITS) <= value < 1 << _BITS


def _converted(name: str, value: Any, known: np.dtype[Any] | type, where: str, *, stored: bool) -> Any:
    """Return a number or array as the type of its field; EncodeError where that would change it."""
    array = as_array(value)
    array = np.asarray(value) if array is None else array
    if array.dtype.char in "gG":  # long double: no codec takes it, and says so
        return value
    wanted = known if isinstance(known, np.dtype) else np.dtype(known)
    fits = _goes_together(array.dtype.kind, wanted.kind) or (stored and {array.dtype.kind, wanted.kind} <= set("iuf"))
    if not fits or (not isinstance(known, np.dtype) and array.ndim):
        raise EncodeError(_refusal(name, where, _said(_type_of(value), value), known))
    with np.errstate(all="ignore"):
        converted: AnyArray = array.astype(wanted)
    if not _same(array, converted):
        raise EncodeError(_refusal(name, where, _said(_type_of(value), value), known))
    return converted if isinstance(known, np.dtype) else known(converted.item())


def _same(array: AnyArray, converted: AnyArray) -> bool:
    """Return whether all numbers are what they were before they were converted."""
    if {array.dtype.kind, converted.dtype.kind} == {"i", "u"} and not np.array_equal(array < 0, converted < 0):
        return False  # wrapped around, which is undone on the way back
    with np.errstate(all="ignore"):
        back = converted.astype(array.dtype)
    return np.array_equal(back, array, equal_nan=array.dtype.kind in "fc")


def _goes_together(found: str, wanted: str) -> bool:
    """Return whether numbers of these kinds may share a field: booleans stand alone, integers go with fractions."""
    return found == wanted or (found in "iu" and wanted in "iufc") or (found == "f" and wanted == "c")


def _said(found: FieldType, value: Any) -> str:
    if _is_beyond(value):
        return f"{value}, beyond the int64 that batches hold (store numpy.uint64, or a string)"
    if found is None:
        return str(getattr(value, "dtype", type(value).__name__))
    return found.__name__ if isinstance(found, type) else found.name


def _is_gap(value: Any) -> bool:
    return value is None or value is MISSING


def _named(known: FieldType) -> str:
    return "no numbers of 64 bits" if known is None else known.__name__ if isinstance(known, type) else known.name


def stored_types(folder: Path, base: Manifest | None) -> FieldTypes:
    """Return the types of the fields of a data set that is added to; of none where there is none."""
    columns = base.columns if base is not None else []
    shards = base.shards if base is not None else []
    first = {column.name: _first_of(folder, shards, column.name) for column in columns if column.codec == "json"}
    return FieldTypes([column.spec for column in columns], first)


def _first_of(folder: Path, shards: Iterable[ShardEntry], field: str) -> Any:
    """Return the first value of a field of JSON that is one; None where there is none."""
    for shard in shards:
        index = load_index(folder / shard.shard_name, shard.checksum)
        found = payloads(folder / shard.shard_name, index, field)
        values = (orjson.loads(payload) for payload in found if payload is not None)
        if (first := next((value for value in values if value is not None), None)) is not None:
            return first
    return None


def _refusal(name: str, where: str, found: str, known: FieldType) -> str:
    return (
        f"{where}: field {name!r} is {found}, and the samples before it hold {_named(known)}; a field has one type in "
        "all samples, or its batches would have several. Convert it before it is written (for arrays: array.astype), "
        "or write it from the first sample on with a type that holds all values"
    )
