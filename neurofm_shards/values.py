"""Values on their way between Python, NumPy, torch and JSON."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from math import isfinite
from pathlib import PurePath
from typing import Any, SupportsIndex, cast

import numpy as np
import numpy.typing as npt
import orjson

from neurofm_shards._typing import AnyArray, Ints
from neurofm_shards.errors import ConfigError, EncodeError

#: Whole numbers up to here are exact in float64.
EXACT_INTEGERS = 1 << 53


#: The constants of SplitMix64: an odd number close to 2**64 / golden ratio, and two multipliers that spread bits.
SPREAD = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


def splitmix64(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Hash 64-bit words one by one (the finalizer of SplitMix64)."""
    words = words ^ (words >> np.uint64(30))
    words = words * MIX_1
    words = words ^ (words >> np.uint64(27))
    words = words * MIX_2
    words ^= words >> np.uint64(31)
    return words


def check_whole(name: str, value: object, meaning: str, least: int | None = None) -> None:
    """Refuse, as ConfigError, an argument that is no whole number or less than ``least``; say what it means."""
    whole = isinstance(value, SupportsIndex) and not isinstance(value, bool | np.bool_)
    if not whole or (least is not None and operator.index(cast("SupportsIndex", value)) < least):
        raise ConfigError(f"{name}={value!r}: {meaning}")


def exact_numbers(values: Sequence[int | float]) -> AnyArray:
    """Return numbers as the plainest array that holds each exactly: int64, uint64, float64, or else objects."""
    whole = [value for value in values if isinstance(value, int)]
    low, high = min(whole, default=0), max(whole, default=0)
    if len(whole) < len(values):
        dtype = "f8" if max(-low, high) <= EXACT_INTEGERS else "O"
    elif low >= -(1 << 63) and high < 1 << 63:
        dtype = "i8"
    else:
        dtype = "u8" if low >= 0 and high < 1 << 64 else "O"
    found = np.empty(len(values), dtype)
    found[:] = values
    return found


def sorted_unique(numbers: AnyArray) -> AnyArray:
    """Return the different numbers of an array, ascending: ``numpy.unique``, which takes long for integers.

    Since NumPy 2.3 it hashes integers: a million different ones take it 0.8 s, and this a hundredth of that.
    """
    ordered = np.sort(numbers, axis=None)
    first = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def starts_of(sizes: npt.ArrayLike) -> Ints:
    """Return where stretches of these sizes begin, end to end, and where the last one ends: int64, shape (n + 1,)."""
    lengths = np.asarray(sizes, dtype=np.int64)
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def as_array(value: Any) -> AnyArray | None:
    """Return a NumPy array or scalar, or a torch tensor, as an array; None for anything else.

    Tensors are detached and copied from their device. torch is not imported: a tensor is known by its methods.

    Raises
    ------
    EncodeError
        NumPy has no counterpart of the tensor, or the array is masked: what is masked would count as known.
    """
    if type(value) is np.ndarray:
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        if isinstance(value, np.ma.MaskedArray):
            raise EncodeError("a masked array: fill it (array.filled(...)) and store the mask as a field of its own")
        return np.asarray(value)
    return _from_tensor(value) if is_tensor(value) else None


def is_tensor(value: object) -> bool:
    """Return whether a value is a torch tensor (and no class of tensors)."""
    return hasattr(value, "detach") and hasattr(value, "numpy") and not isinstance(value, type)


def _from_tensor(tensor: Any) -> AnyArray:
    try:
        return np.asarray(tensor.numpy(force=True))
    except (TypeError, RuntimeError, ValueError) as error:
        raise EncodeError(
            f"a tensor of {getattr(tensor, 'dtype', 'unknown type')} has no counterpart in NumPy ({error}): convert it "
            "first, with .float() or .to_dense()"
        ) from error


def native(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the array in this machine's byte order."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def to_json(value: Any) -> Any:
    """Return a value as JSON holds it.

    Arrays, NumPy numbers, tuples and mappings become lists, numbers and dicts with string keys, NumPy's times texts and
    its time spans seconds; NaN, infinity, NaT and NA become None; bytes are decoded as UTF-8; anything else becomes its
    string.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        value = _numpy_to_json(value)
    if isinstance(value, float):
        return value if isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if _is_unknown(value) else str(value)


def _is_unknown(value: object) -> bool:
    """Return whether a value is pandas' NaT or NA (pandas is not imported)."""
    return type(value).__name__ in ("NaTType", "NAType")


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON text.

    Arrays, NumPy numbers and tensors become lists and numbers, NaN null. Dates and times (pandas' too) become texts as
    ISO 8601 has them, time spans seconds, paths texts; NaT and NA null.

    Raises
    ------
    TypeError
        Something in it is none of these.
    """
    return orjson.dumps(value, _json_default, orjson.OPT_SERIALIZE_NUMPY)


def _json_default(value: Any) -> Any:
    if is_tensor(value):
        return value.detach().cpu().tolist()
    if isinstance(value, (np.ndarray, np.generic)):
        return _numpy_to_json(value)
    if _is_unknown(value):
        return None
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (date, PurePath)):
        return value.isoformat() if isinstance(value, date) else str(value)
    raise TypeError


def _numpy_to_json(value: Any) -> Any:
    """Convert the NumPy values that orjson does not: times, time spans, arrays that are not contiguous, rare types."""
    if value.dtype.kind not in "mM":
        return value.tolist()
    if isinstance(value, np.ndarray):
        return list(value) if value.ndim else _numpy_to_json(value[()])
    if np.isnat(value):
        return None
    return str(value) if value.dtype.kind == "M" else float(value / np.timedelta64(1, "s"))


def loads_unique(data: bytes | str) -> Any:
    """Parse JSON in which no object may have a key twice (parsers keep the last one and say nothing).

    Raises
    ------
    ValueError
        It is not JSON, or a key comes twice.
    """
    return json.loads(data, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.60} comes twice")
    return found
