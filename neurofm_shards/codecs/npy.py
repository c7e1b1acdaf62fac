"""NumPy's own array format, as in ``numpy.lib.format``: versions 1.0 to 3.0 are read, 1.0 is written."""

from __future__ import annotations

import ast
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from neurofm_shards.codecs.arrays import as_plain_array, count_items, is_array, plain_dtype
from neurofm_shards.errors import FormatError
from neurofm_shards.plugins.interfaces import Codec
from neurofm_shards.types import ArrayLayout, Buffer

MAGIC = b"\x93NUMPY"
#: Longest header that is parsed; the longest that a plain array needs has a few hundred bytes.
_MAX_HEADER = 4096
_ALIGN = 64
#: numpy leaves room for the first dimension to grow to this many digits.
_GROWTH_DIGITS = 21


class NpyCodec(Codec):
    """Arrays as ``.npy``, which Hugging Face datasets and Ray decode too; never with pickled objects."""

    name: ClassVar[str] = "npy"
    extension: ClassVar[str] = "npy"

    def accepts(self, value: object) -> bool:
        """Say whether the value is an array or a tensor."""
        return is_array(value)

    def encode(self, value: Any) -> Sequence[Buffer]:
        """Return header and data; the bytes are those of ``numpy.save``."""
        array = as_plain_array(value)
        return [_header(array.dtype.str, array.shape), memoryview(array.reshape(-1)).cast("B")]

    def decode(self, payload: memoryview) -> Any:
        """Return the array.

        Raises
        ------
        FormatError
            The header is not that of a plain array, or the data are too short or too long.
        """
        layout = _parse(payload, len(payload))
        dtype = np.dtype(layout.dtype)
        flat = np.frombuffer(payload, dtype, offset=layout.offset).astype(dtype.newbyteorder("="))
        return flat.reshape(layout.shape, order="F" if layout.fortran else "C")

    def layout(self, head: memoryview, size: int) -> ArrayLayout | None:
        """Say where the data lie; None when the header is unusable (``decode`` then says why)."""
        try:
            return _parse(head, size)
        except FormatError:
            return None

    def envelope(self, dtype: str, shape: tuple[int, ...]) -> tuple[bytes, bytes] | None:
        """Return the header; nothing follows the data."""
        return _header(np.dtype(dtype).str, shape), b""


@lru_cache(maxsize=256)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    if shape:
        text += " " * (_GROWTH_DIGITS - len(repr(shape[0])))
    start = len(MAGIC) + 2 + 2
    padding = -(start + len(text) + 1) % _ALIGN or _ALIGN
    body = text + " " * padding + "\n"
    return MAGIC + b"\x01\x00" + struct.pack("<H", len(body)) + body.encode("latin1")


def _parse(head: memoryview, size: int) -> ArrayLayout:
    # Headers repeat thousands of times; what they say is a function of their bytes and of the member's size.
    return _parse_header(bytes(head[: _header_end(head)]), size)


def _header_end(head: memoryview) -> int:
    if bytes(head[:6]) != MAGIC or len(head) < 12:
        raise FormatError("a .npy member does not begin like a NumPy array")
    version = head[6]
    if version not in (1, 2, 3) or head[7] != 0:
        raise FormatError(f"a .npy member has the unknown format version {version}.{head[7]}")
    start, length = (
        (10, struct.unpack_from("<H", head, 8)[0]) if version == 1 else (12, struct.unpack_from("<I", head, 8)[0])
    )
    if length > _MAX_HEADER or start + length > len(head):
        raise FormatError(f"a .npy member has a header of {length} bytes, more than the {_MAX_HEADER} that are read")
    return int(start + length)


@lru_cache(maxsize=1024)
def _parse_header(header: bytes, size: int) -> ArrayLayout:
    text = header[10 if header[6] == 1 else 12 :].decode("latin1")
    try:
        fields = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise FormatError(f"a .npy member has a header that cannot be read: {text[:80]!r}") from error
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise FormatError(f"a .npy member has a header that is not one of an array: {text[:80]!r}")
    dtype = plain_dtype(fields["descr"]) if isinstance(fields["descr"], str) else None
    if dtype is None:
        raise FormatError(f"a .npy member has dtype {str(fields['descr'])[:80]!r}; only plain numbers are read")
    shape, fortran = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(length) is int for length in shape) or type(fortran) is not bool:
        raise FormatError(f"a .npy member has a header that is not one of an array: {text[:80]!r}")
    count = count_items(shape)
    if count is None or len(header) + count * dtype.itemsize != size:
        raise FormatError(
            f"a .npy member of {size} bytes cannot hold an array of shape {str(shape)[:80]} and dtype {dtype}"
        )
    return ArrayLayout(dtype.str, shape, len(header), fortran=fortran and len(shape) > 1)
