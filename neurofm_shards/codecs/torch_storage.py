"""The bytes of a plainly pickled tensor: a file of ``torch.save``'s older format, read without torch.

Such a file is five pickles (magic number, version, system, one storage, the list of its key), then the number of
elements and the raw data. Reading it here keeps torch out of conversions, and out of reach of hostile files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from neurofm_shards.codecs.pickle_values import Reading, Span, brief
from neurofm_shards.errors import FormatError, UnsafePickleError

#: Stands for torch.bfloat16, which NumPy lacks.
BFLOAT16 = "bfloat16"
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001

#: What the storage classes hold; None for bytes whose dtype the tensor names.
STORAGE_DTYPES: Mapping[str, str | None] = MappingProxyType(
    {
        "torch.DoubleStorage": "<f8",
        "torch.FloatStorage": "<f4",
        "torch.HalfStorage": "<f2",
        "torch.BFloat16Storage": BFLOAT16,
        "torch.LongStorage": "<i8",
        "torch.IntStorage": "<i4",
        "torch.ShortStorage": "<i2",
        "torch.CharStorage": "|i1",
        "torch.ByteStorage": "|u1",
        "torch.BoolStorage": "|b1",
        "torch.ComplexFloatStorage": "<c8",
        "torch.ComplexDoubleStorage": "<c16",
        "torch.storage.UntypedStorage": None,
    }
)


@dataclass(frozen=True)
class Storage:
    """The memory of a tensor and, where its class says so, the dtype."""

    data: Span | bytes
    dtype: str | None


def read_storage(reading: Reading, data: Span | bytes) -> Storage:
    """Read a storage as ``torch.storage._load_from_bytes`` would.

    Raises
    ------
    FormatError
        The bytes are anything but one storage of plain numbers.
    """
    if isinstance(data, bytes):
        raise UnsafePickleError("a storage that is not raw bytes")
    values, position = _head(reading, data)
    if values[0] != _MAGIC_NUMBER or values[1] != _PROTOCOL_VERSION or not isinstance(values[2], dict):
        raise UnsafePickleError("a storage in an unknown format")
    if values[2].get("little_endian") is not True:
        raise FormatError("the tensor was saved on a big-endian machine")
    dtype, key, count = _identity(values[3])
    itemsize = 1 if dtype is None else 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize
    start = position + 8
    stored = int.from_bytes(reading.payload[position:start], "little")
    if values[4] != [key] or stored != count or start + count * itemsize != data.stop:
        raise FormatError(f"a storage of {count} elements whose data has {data.stop - start} bytes")
    return Storage(Span(start, data.stop), dtype)


def _head(reading: Reading, data: Span) -> tuple[list[Any], int]:
    """Return the values of the five pickles and the position behind them."""
    from neurofm_shards.codecs.pickles import Machine  # noqa: PLC0415  (the machine calls us)

    values: list[Any] = []
    position = data.start
    for _ in range(5):
        machine = Machine(reading, position, data.stop, persistent=True)
        values.append(machine.run())
        position = machine.position
    return values, position


def _identity(value: object) -> tuple[str | None, str, int]:
    """Return dtype, key and number of elements from a storage's persistent id."""
    id_ = getattr(value, "persistent_id", None)
    if not isinstance(id_, tuple) or len(id_) not in {5, 6} or id_[0] != "storage" or any(id_[5:]):
        raise UnsafePickleError("something other than a storage")
    name, key, count = brief(id_[1]), id_[2], id_[4]
    if name not in STORAGE_DTYPES or type(key) is not str or type(count) is not int or count < 0:
        raise UnsafePickleError(f"a storage of {name}")
    return STORAGE_DTYPES[name], key, count
