"""Which arrays can be stored, and checked construction of those that come from outside."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm_shards._typing import AnyArray
from neurofm_shards.errors import EncodeError, FormatError
from neurofm_shards.limits import MAX_AXES
from neurofm_shards.plugins.interfaces import Codec
from neurofm_shards.values import as_array

if TYPE_CHECKING:
    from neurofm_shards.types import Buffer


_PLAIN_KINDS = "biufc"
_PLAIN_DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|c8|c16|\?)")
_HINTS = {
    "O": "make it an array of numbers, or a list (stored as JSON)",
    "V": "store each of its fields as a field of the sample",
    "M": "store seconds as float64, or ticks: array.astype('int64')",
    "m": "store seconds as float64, or ticks: array.astype('int64')",
    "U": "use a list of strings (stored as JSON)",
    "S": "use a list of strings (stored as JSON), or array.view('uint8')",
    "f": "its size differs between machines: use array.astype('float64')",
    "c": "its size differs between machines: use array.astype('complex128')",
}


@lru_cache(maxsize=256)
def plain_dtype(text: str) -> np.dtype[Any]:
    """Return the dtype of a dtype string that came from outside (raises FormatError)."""
    if _PLAIN_DTYPE.fullmatch(text) is None:
        raise FormatError(f"dtype {text[:40]!r} is not a plain number type (bool, int, uint, float, complex)")
    return np.dtype(text)


def checked_shape(shape: Sequence[object]) -> tuple[int, ...]:
    """Return a shape that came from outside as a tuple of ints (raises FormatError)."""
    if len(shape) > MAX_AXES:
        raise FormatError(f"an array of {len(shape)} dimensions; at most {MAX_AXES} are possible")
    for length in shape:
        if type(length) is not int or not 0 <= length < 1 << 48:
            found = length if type(length) is int else f"type {type(length).__name__}"
            raise FormatError(f"an array with a dimension of {found}")
    return tuple(shape)  # type: ignore[arg-type]  # just checked


def checked_nbytes(dtype: np.dtype[Any], shape: tuple[int, ...], available: int) -> int:
    """Return how many bytes an array has, which must be exactly those that are there."""
    nbytes = prod(shape) * dtype.itemsize
    if nbytes != available:
        raise FormatError(f"an array {shape!s:.80} of {dtype.str} does not have {available} bytes")
    return nbytes


def new_array(data: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], *, fortran: bool = False) -> AnyArray:
    """Return a new writeable array of exactly these bytes."""
    try:
        view: AnyArray = np.ndarray(shape, dtype, data, 0, None, "F" if fortran else "C")
        array: AnyArray = view.copy(order="K")
    except (ValueError, MemoryError, TypeError) as error:
        raise FormatError(f"an array {shape!s:.80} of {dtype.str}: {error}") from error
    return array


def storable(value: object) -> AnyArray:
    """Return a value as a C-ordered array of plain numbers.

    Parameters
    ----------
    value : array, NumPy scalar or tensor
        Tensors are detached and copied from their device; NumPy scalars become arrays without dimensions.

    Raises
    ------
    EncodeError
        It cannot be an array of plain numbers; the message says what to do.
    """
    array = as_array(value)
    if array is None:
        array = np.asarray(value)
    check_storable(array.dtype, array.shape)
    return np.asarray(array, order="C")


def check_storable(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Refuse arrays that no reader takes."""
    if _PLAIN_DTYPE.fullmatch(dtype.str) is None:
        raise EncodeError(f"an array of dtype {dtype}: {_HINTS.get(dtype.kind, 'convert it to numbers')}")
    if len(shape) > MAX_AXES:
        raise EncodeError(f"an array of {len(shape)} axes: {MAX_AXES} can be read, so join some of them")


def raw_bytes(array: AnyArray) -> memoryview:
    """Return the bytes of a C-ordered array without copying them."""
    return array.reshape(-1).view(np.uint8).data


class ArrayCodec(Codec):
    """A codec of arrays: the bytes that :meth:`envelope` gives stand around those of the array."""

    def accepts(self, value: object) -> bool:
        """Return whether this is an array, a NumPy scalar or a tensor (what gives an array, but no class)."""
        if isinstance(value, (np.ndarray, np.generic)):
            return True
        return hasattr(value, "__array__") and not isinstance(value, type)

    def encode(self, value: Any) -> Sequence[Buffer]:
        """Return header, data and footer; data in C order is not copied."""
        try:
            array = storable(value)
        except EncodeError as error:
            raise EncodeError(f"{type(value).__name__} cannot be stored as .{self.extension}: {error}") from error
        before, after = self.envelope(array.dtype.str, array.shape)
        return [before, raw_bytes(array), after] if after else [before, raw_bytes(array)]

    @abstractmethod
    def envelope(self, dtype: str, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
        """Return the bytes before and behind the data."""
