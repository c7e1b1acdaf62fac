"""``.pyd``: arrays as the plainest pickle there is."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, ClassVar

from neurofm_shards.codecs.arrays import ArrayCodec, new_array, plain_dtype
from neurofm_shards.codecs.pickle_values import Span
from neurofm_shards.codecs.pickles import find_array, load
from neurofm_shards.errors import FormatError
from neurofm_shards.types import ArrayLayout

_START = b"\x80\x05cnumpy\nndarray\n"
_SUFFIX = b"\x87R."
_INT = rb"(?:K.|M..|J....|\x8a[\x05-\x08].{4,8}?)"
_PREFIX = re.compile(
    re.escape(_START)
    + rb"(?P<shape>\)|%b\x85|%b{2}\x86|%b{3}\x87|\((?:%b){4,32}t)" % ((_INT,) * 4)
    + rb"\x8c[\x03\x04](?P<dtype>[<>|][biufc]\d\d?)\x96(?P<nbytes>.{8})",
    re.DOTALL,
)


class PydCodec(ArrayCodec):
    """Arrays as a pickle of one call, ``numpy.ndarray(shape, dtype, bytearray)``, which every NumPy loads.

    Bytes before and after the data are the same for all arrays of one dtype and shape. ``decode`` also takes ordinary
    pickles (protocols 2 to 5) of plain values, arrays and tensors, which become arrays; it never runs what a pickle
    asks for. ``layout`` finds the data of those pickles too when ``head`` is the whole payload.

    Examples
    --------
    >>> import pickle, numpy as np
    >>> payload = b"".join(PydCodec().encode(np.arange(3)))
    >>> pickle.loads(payload)  # as other readers do, here with bytes of our own; this program never does
    array([0, 1, 2])
    >>> PydCodec().decode(memoryview(payload))
    array([0, 1, 2])
    """

    name: ClassVar[str] = "pyd"
    extension: ClassVar[str] = "pyd"

    def decode(self, payload: memoryview) -> Any:
        """Return the array, or whatever plain data a foreign pickle holds; see the base class."""
        layout = _canonical(payload, len(payload))
        if layout is None:
            return load(payload)
        data = payload[layout.offset : len(payload) - len(_SUFFIX)]
        return new_array(data, plain_dtype(layout.dtype), layout.shape)

    def layout(self, head: memoryview, size: int) -> ArrayLayout | None:
        """Return where the data lies.

        A canonical payload is known by its beginning and its size. Other pickles can say something else at their end,
        so they have a layout only when ``head`` is the whole payload.
        """
        canonical = _canonical(head, size)
        if canonical is not None or len(head) != size:
            return canonical
        record = find_array(head)
        if record is None or record.dtype is None or not isinstance(record.data, Span):
            return None
        offset = record.data.start + record.offset
        return ArrayLayout(record.dtype.str, record.shape, offset, record.contiguous() == "F")

    def envelope(self, dtype: str, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
        """Return the bytes before and behind the data."""
        return _prefix(dtype, shape), _SUFFIX


def _canonical(head: memoryview, size: int) -> ArrayLayout | None:
    """Return the layout of a payload that this codec wrote, or None."""
    found = _PREFIX.match(head)
    if found is None:
        return None
    prefix = found.group()
    try:
        dtype, shape = _described(prefix, found["dtype"], found["shape"])
    except FormatError:
        return None
    rest = size - len(prefix) - int.from_bytes(found["nbytes"], "little")
    if rest != len(_SUFFIX) or (len(head) == size and head[-rest:] != _SUFFIX):
        return None
    return ArrayLayout(dtype, shape, len(prefix))


@lru_cache(maxsize=256)
def _described(prefix: bytes, dtype: bytes, shape: bytes) -> tuple[str, tuple[int, ...]]:
    """Return dtype and shape of a prefix that is exactly the one this codec writes for them."""
    body = shape.strip(b"") if shape == b")" else shape[1:-1] if shape[:1] == b"(" else shape[:-1]
    lengths: list[int] = []
    while body and shape != b")":
        width = {0x4B: 1, 0x4D: 2, 0x4A: 4}.get(body[0]) or 1 + body[1]
        start = 1 if body[0] != 0x8A else 2
        lengths.append(int.from_bytes(body[start : 1 + width], "little"))
        body = body[1 + width :]
    text = plain_dtype(dtype.decode("ascii")).str
    if _prefix(text, tuple(lengths)) != prefix:
        raise FormatError("not a canonical prefix")
    return text, tuple(lengths)


@lru_cache(maxsize=256)
def _prefix(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Write everything before the data."""
    kind = plain_dtype(dtype)
    nbytes = kind.itemsize
    for length in shape:
        nbytes *= length
    name = kind.str.encode("ascii")
    return b"".join((_START, _shape(shape), b"\x8c", bytes([len(name)]), name, b"\x96", nbytes.to_bytes(8, "little")))


def _shape(shape: tuple[int, ...]) -> bytes:
    numbers = [_int(length) for length in shape]
    if not numbers:
        return b")"
    if len(numbers) <= 3:
        return b"".join(numbers) + bytes([0x84 + len(numbers)])
    return b"(" + b"".join(numbers) + b"t"


def _int(number: int) -> bytes:
    """Write a count as :mod:`pickle` does."""
    if number < 1 << 8:
        return b"K" + number.to_bytes(1, "little")
    if number < 1 << 16:
        return b"M" + number.to_bytes(2, "little")
    if number < 1 << 31:
        return b"J" + number.to_bytes(4, "little")
    width = number.bit_length() // 8 + 1
    return b"\x8a" + bytes([width]) + number.to_bytes(width, "little")
