"""``.npy``: NumPy's own format."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import ClassVar

from neurofm_shards._typing import AnyArray
from neurofm_shards.codecs.arrays import ArrayCodec, checked_nbytes, checked_shape, new_array, plain_dtype
from neurofm_shards.errors import FormatError
from neurofm_shards.types import ArrayLayout

_MAGIC = b"\x93NUMPY"
#: NumPy refuses longer headers as well.
_MAX_HEADER = 10_000
_ALIGNMENT = 64
#: NumPy leaves room so that the growing axis can be rewritten in place.
_GROWTH_DIGITS = 21
_ITEM = re.compile(
    r"\s*'(?P<key>descr|fortran_order|shape)'\s*:\s*"
    r"(?P<value>'[^'\\]{1,16}'|True|False|\(\s*(?:\d{1,18}L?\s*(?:,\s*\d{1,18}L?\s*)*,?\s*)?\))\s*(?:,|(?=\}))"
)
_KEYS = frozenset({"descr", "fortran_order", "shape"})


class NpyCodec(ArrayCodec):
    """Arrays as ``numpy.save`` writes them, in C order; Hugging Face datasets and Ray decode them too.

    ``decode`` never unpickles: arrays of objects are refused.

    Examples
    --------
    >>> import numpy as np
    >>> codec = NpyCodec()
    >>> codec.decode(memoryview(b"".join(codec.encode(np.arange(3)))))
    array([0, 1, 2])
    """

    name: ClassVar[str] = "npy"
    extension: ClassVar[str] = "npy"

    def decode(self, payload: memoryview) -> AnyArray:
        """Return the array; see the base class."""
        layout = _parse(payload, len(payload))
        data = payload[layout.offset :]
        return new_array(data, plain_dtype(layout.dtype), layout.shape, fortran=layout.fortran)

    def layout(self, head: memoryview, size: int) -> ArrayLayout | None:
        """Return where the data lies; None for anything that ``decode`` would refuse."""
        try:
            return _parse(head, size)
        except FormatError:
            return None

    def envelope(self, dtype: str, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
        """Return the header, and nothing behind the data."""
        return _header(dtype, shape), b""


@lru_cache(maxsize=256)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Write the header as NumPy >= 1.24 does (format version 1.0)."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}"
    if shape:
        text += " " * (_GROWTH_DIGITS - len(repr(shape[0])))
    used = len(_MAGIC) + 4 + len(text) + 1
    text += " " * (-used % _ALIGNMENT) + "\n"
    return _MAGIC + b"\x01\x00" + len(text).to_bytes(2, "little") + text.encode("ascii")


def _parse(head: memoryview, size: int) -> ArrayLayout:
    """Read the header of a payload of ``size`` bytes, of which ``head`` is the beginning."""
    if bytes(head[:6]) != _MAGIC:
        raise FormatError("not an .npy payload: it does not begin with \\x93NUMPY")
    version = bytes(head[6:8])
    if version not in {b"\x01\x00", b"\x02\x00", b"\x03\x00"}:
        raise FormatError(f".npy version {version.hex(' ')} is unknown")
    start = 10 if version == b"\x01\x00" else 12
    length = int.from_bytes(head[8:start], "little")
    if length > _MAX_HEADER or start + length > len(head):
        raise FormatError(f"the .npy header claims {length} bytes; {max(0, len(head) - start)} are there")
    dtype, fortran, shape = _parse_header(bytes(head[start : start + length]))
    checked_nbytes(plain_dtype(dtype), shape, size - start - length)
    return ArrayLayout(dtype, shape, start + length, fortran and len(shape) > 1)


@lru_cache(maxsize=256)
def _parse_header(header: bytes) -> tuple[str, bool, tuple[int, ...]]:
    """Return dtype, order and shape. The text is a dict of three known keys; nothing is evaluated."""
    text = header.decode("latin1").strip()
    found: dict[str, str] = {}
    position = 1
    while text[:1] == "{" and (item := _ITEM.match(text, position)):
        if item["key"] in found:
            raise FormatError(f"the .npy header names {item['key']!r} twice")
        found[item["key"]] = item["value"]
        position = item.end()
    if found.keys() != _KEYS or text[position:].strip() != "}":
        raise FormatError(f"the .npy header is not that of an array of plain numbers: {text[:100]!r}")
    if found["descr"][:1] != "'" or found["shape"][:1] != "(" or found["fortran_order"][:1] not in "TF":
        raise FormatError(f"the .npy header mixes up its values: {text[:100]!r}")
    shape = checked_shape([int(number) for number in re.findall(r"\d+", found["shape"])])
    dtype = found["descr"][1:-1]
    return plain_dtype(dtype).str, found["fortran_order"] == "True", shape
