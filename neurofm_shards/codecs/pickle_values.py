"""What a pickle may describe: stretches of its own bytes, dtypes, arrays, tensors; all checked, nothing executed."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm_shards._typing import AnyArray
from neurofm_shards.codecs.arrays import checked_nbytes, checked_shape, plain_dtype
from neurofm_shards.errors import FormatError, UnsafePickleError

if TYPE_CHECKING:
    from collections.abc import Sequence


#: Most opcodes in one payload, and most values in what it holds.
MAX_OPERATIONS = 300_000
#: Comparisons of numbers that take about as long as another operation.
_COMPARED_AT_ONCE = 64


class Reading:
    """One payload, and how much may still be spent on it: bounds time and memory whatever the bytes say.

    Parameters
    ----------
    payload : memoryview
        The bytes.
    """

    def __init__(self, payload: memoryview) -> None:
        self.payload = payload
        self._operations = MAX_OPERATIONS
        self._bytes = 2 * len(payload)

    def spend_on_key(self, key: object, size: int) -> None:
        """Account for putting a key into a dict of ``size`` entries.

        Hashes of texts differ from run to run; those of numbers can be made equal, and then each is compared with all.
        """
        if not isinstance(key, str):
            self._operations -= size // _COMPARED_AT_ONCE
            self.spend()

    def spend(self, nbytes: int = 0) -> None:
        """Account for one operation that copies ``nbytes`` (raises UnsafePickleError)."""
        self._operations -= 1
        self._bytes -= nbytes
        if self._operations < 0:
            raise UnsafePickleError(f"the pickle takes more than {MAX_OPERATIONS} operations, or holds itself")
        if self._bytes < 0:
            raise UnsafePickleError("the pickle holds more bytes than twice its own size")


class InnerReading(Reading):
    """Bytes that a payload holds in another form; what is spent on them is spent on the payload.

    Parameters
    ----------
    data : bytes
        The bytes.
    outer : Reading
        The payload.
    """

    def __init__(self, data: bytes, outer: Reading) -> None:
        self.payload = memoryview(data)
        self._outer = outer

    def spend_on_key(self, key: object, size: int) -> None:
        """See :meth:`Reading.spend_on_key`."""
        self._outer.spend_on_key(key, size)

    def spend(self, nbytes: int = 0) -> None:
        """See :meth:`Reading.spend`."""
        self._outer.spend(nbytes)


def brief(value: object) -> str:
    """Describe a value from a pickle in a few words (``repr`` could take for ever)."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return repr(value[:60] if isinstance(value, str) else value)
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else f"a {type(value).__name__}"


def is_word(value: object, *words: str) -> bool:
    """Return whether a value is one of some strings (safe for values that hash or compare for ever)."""
    return isinstance(value, str) and value in words


@dataclass(frozen=True)
class Span:
    """Raw bytes inside the payload, not copied yet."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass
class DtypeRecord:
    """A dtype under construction: ``numpy.dtype('f8', False, True)``, then its byte order."""

    code: str
    order: str = "="

    def set_state(self, state: object) -> None:
        """Take what NumPy gives to ``dtype.__setstate__``: only a byte order, everything else empty."""
        if not isinstance(state, tuple) or len(state) != 8 or not is_word(state[1], "<", ">", "|", "="):
            raise UnsafePickleError("a dtype with an unusual state")
        if state[0] != 3 or any(part is not None for part in state[2:5]) or state[5:] != (-1, -1, 0):
            raise UnsafePickleError("a dtype with fields, sub-arrays or objects")
        self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        """Return the finished dtype."""
        if self.code[:1] in {"<", ">", "|", "="}:
            return plain_dtype(self.code)
        return plain_dtype(self.order + self.code)


@dataclass
class ArrayRecord:
    """An array as the pickle describes it.

    Attributes
    ----------
    dtype : numpy.dtype or None
        None until ``set_state`` was called.
    shape, strides : tuple of int
        In elements and in bytes.
    data : Span or bytes
        The memory.
    offset : int
        Where the first element lies in ``data``, in bytes.
    bfloat16 : bool
        The 16-bit integers are the upper halves of float32.
    """

    dtype: np.dtype[Any] | None = None
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    data: Span | bytes = b""
    offset: int = 0
    bfloat16: bool = False

    def set_state(self, state: object) -> None:
        """Take what NumPy gives to ``ndarray.__setstate__``: version, shape, dtype, order, bytes."""
        if not isinstance(state, tuple) or len(state) != 5 or state[0] != 1 or type(state[3]) is not bool:
            raise UnsafePickleError("an array with an unusual state")
        _, shape, dtype, fortran, data = state
        done = packed_array(data, dtype, shape, "F" if fortran else "C")
        self.dtype, self.shape, self.strides, self.data = done.dtype, done.shape, done.strides, done.data

    @property
    def nbytes(self) -> int:
        """Bytes of the finished array."""
        return 0 if self.dtype is None else prod(self.shape) * self.dtype.itemsize * (2 if self.bfloat16 else 1)

    def contiguous(self) -> str | None:
        """Return ``"C"`` or ``"F"`` when the elements lie end to end in that order, else None."""
        if self.dtype is None:
            return None
        for order in ("C", "F"):
            wanted = strides_of(self.shape, self.dtype.itemsize, order)
            if all(n == 1 or a == b for n, a, b in zip(self.shape, self.strides, wanted, strict=True)):
                return order
        return "C" if 0 in self.shape else None

    def array(self, payload: memoryview) -> AnyArray:
        """Return the array: new and writeable."""
        if self.dtype is None:
            raise UnsafePickleError("an array that is never given its content")
        data = payload[self.data.start : self.data.stop] if isinstance(self.data, Span) else self.data
        try:
            view: AnyArray = np.ndarray(self.shape, self.dtype, data, self.offset, self.strides)
            array: AnyArray = view.copy(order="K")
        except (ValueError, MemoryError) as error:
            raise FormatError(f"an array {self.shape!s:.80} of {self.dtype.str}: {error}") from error
        if self.bfloat16:
            widened: AnyArray = (array.astype(np.uint32) << 16).view(np.float32)
            return widened
        return array


def strides_of(shape: tuple[int, ...], itemsize: int, order: str) -> tuple[int, ...]:
    """Return the strides in bytes of a contiguous array."""
    strides: list[int] = []
    step = itemsize
    for length in shape if order == "F" else reversed(shape):
        strides.append(step)
        step *= max(1, length)
    return tuple(strides if order == "F" else reversed(strides))


def as_dtype(value: object) -> np.dtype[Any]:
    """Return the dtype that a pickle names, as a record or as a string."""
    if isinstance(value, DtypeRecord):
        return value.dtype()
    if isinstance(value, str):
        return plain_dtype(value)
    raise UnsafePickleError(f"a dtype given as {brief(value)}")


def as_shape(value: object) -> tuple[int, ...]:
    """Return a checked shape."""
    if not isinstance(value, tuple):
        raise UnsafePickleError(f"a shape given as {brief(value)}")
    return checked_shape(value)


def as_data(value: object) -> Span | bytes:
    """Return raw memory."""
    if not isinstance(value, (Span, bytes)):
        raise UnsafePickleError(f"array data given as {brief(value)}, not as bytes")
    return value


def packed_array(data: object, dtype: object, shape: object, order: str) -> ArrayRecord:
    """Describe an array whose bytes are exactly ``data``."""
    memory, kind, lengths = as_data(data), as_dtype(dtype), as_shape(shape)
    checked_nbytes(kind, lengths, len(memory))
    return ArrayRecord(kind, lengths, strides_of(lengths, kind.itemsize, order), memory)


def strided_array(
    data: Span | bytes, dtype: np.dtype[Any], shape: tuple[int, ...], steps: Sequence[Any], first: Any
) -> ArrayRecord:
    """Describe a view of memory, ``steps`` and ``first`` counted in elements; it may not leave ``data``."""
    if len(steps) != len(shape) or any(type(step) is not int or not 0 <= step < 1 << 48 for step in steps):
        raise FormatError(f"a tensor {shape!s:.80} with impossible strides")
    if type(first) is not int or first < 0:
        raise FormatError(f"a tensor {shape!s:.80} that begins at {brief(first)}")
    last = first + sum((length - 1) * step for length, step in zip(shape, steps, strict=True))
    if 0 not in shape and (last + 1) * dtype.itemsize > len(data):
        raise FormatError(f"a tensor {shape!s:.80} that leaves its storage of {len(data)} bytes")
    if 0 in shape:
        return ArrayRecord(dtype, shape, strides_of(shape, dtype.itemsize, "C"), b"")
    return ArrayRecord(dtype, shape, tuple(s * dtype.itemsize for s in steps), data, first * dtype.itemsize)
