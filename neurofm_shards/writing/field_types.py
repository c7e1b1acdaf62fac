"""One type for each field of a data set, decided by its first value, so that batches always have one type.

Numbers of one kind go together, whether Python's or NumPy's; None among them is a gap. What would change a value is
refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from neurofm_shards._typing import AnyArray
from neurofm_shards.errors import EncodeError
from neurofm_shards.types import ColumnSpec, Sample
from neurofm_shards.values import as_array

#: The type of a field: that of its arrays, of its Python numbers, or None where it holds anything else.
FieldType: TypeAlias = "np.dtype[Any] | type | None"

_NUMBERS = (bool, int, float)


class FieldTypes:
    """Gives each field one type, over all samples and shards.

    Parameters
    ----------
    columns : iterable of ColumnSpec
        Of the data set that is added to.
    """

    def __init__(self, columns: Iterable[ColumnSpec] = ()) -> None:
        named = [(spec.name, np.dtype(spec.dtype)) for spec in columns if spec.dtype is not None]
        self._types: dict[str, FieldType] = {name: dtype for name, dtype in named if dtype.kind in "biufc"}
        #: Fields whose type was decided by another program: values are converted to it wherever that changes none.
        self._stored = frozenset(self._types)
        self._alike: set[tuple[str, type, Any]] = set()
        self._new: list[str] = []

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
        odd = [name for name, value in sample.items() if (name, type(value), _dtype(value)) not in self._alike]
        if not odd:
            return sample
        changed: Sample = dict(sample)
        for name in odd:
            value = sample[name]
            if value is None and self._has_gaps(name, sample):
                del changed[name]
            else:
                changed[name] = self._fitting(name, value, where)
        return changed

    def forget(self) -> None:
        """Undo what the last sample decided: it was not written."""
        for name in self._new:
            del self._types[name]
            self._alike = {alike for alike in self._alike if alike[0] != name}
        self._new = []

    def _has_gaps(self, name: str, sample: Sample) -> bool:
        """Return whether None is a gap among numbers, so that the sample lacks the field, rather than a value."""
        return self._types.get(name, int) is not None and len(sample) > 1

    def _fitting(self, name: str, value: Any, where: str) -> Any:
        if name not in self._types:
            self._types[name] = _type_of(value)
            self._new.append(name)
        known, found = self._types[name], _type_of(value)
        if known is not None and value is None:
            raise EncodeError(f"{where}: {name!r}, its only field, is None, a gap among numbers: leave the sample out")
        if known is None or found is None:
            if (known is None) is not (found is None):
                raise EncodeError(_refusal(name, where, _said(found, value), known))
            return value
        if type(known) is type(found) and known == found:
            self._alike.add((name, type(value), _dtype(value)))
            return value
        return _converted(name, value, known, where, stored=name in self._stored)


def _dtype(value: Any) -> Any:
    return value.dtype if type(value) is np.ndarray else None


def _type_of(value: Any) -> FieldType:
    if type(value) in _NUMBERS:
        return type(value)
    array = as_array(value)
    return array.dtype.newbyteorder("=") if array is not None and array.dtype.kind in "biufc" else None


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
        same = np.array_equal(converted.astype(array.dtype), array, equal_nan=array.dtype.kind in "fc")
    if not same:
        raise EncodeError(_refusal(name, where, _said(_type_of(value), value), known))
    return converted if isinstance(known, np.dtype) else known(converted.item())


def _goes_together(found: str, wanted: str) -> bool:
    """Return whether numbers of these kinds may share a field: booleans stand alone, integers go with fractions."""
    return found == wanted or (found in "iu" and wanted in "iufc") or (found == "f" and wanted == "c")


def _said(found: FieldType, value: Any) -> str:
    return type(value).__name__ if found is None else found.__name__ if isinstance(found, type) else found.name


def _refusal(name: str, where: str, found: str, known: FieldType) -> str:
    before = "no numbers" if known is None else known.__name__ if isinstance(known, type) else known.name
    return (
        f"{where}: field {name!r} is {found}, and the samples before it hold {before}; a field has one type in all "
        "samples, or its batches would have several. Convert it before it is written (for arrays: array.astype), or "
        "write it from the first sample on with a type that holds all values"
    )
