"""Pickles as data: every global a pickle may name, our own checked constructor that stands for it, and the result.

The originals are never imported, let alone called: ``numpy.ndarray`` can be made to crash the interpreter, and
``torch.storage._load_from_bytes`` is an unrestricted ``torch.load``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from neurofm_shards.codecs.pickle_machine import Construct, Global, Machine
from neurofm_shards.codecs.pickle_values import (
    ArrayRecord,
    DtypeRecord,
    InnerReading,
    Reading,
    Span,
    as_data,
    as_dtype,
    as_shape,
    brief,
    is_word,
    packed_array,
    strided_array,
)
from neurofm_shards.errors import FormatError, UnsafePickleError

#: Deepest nesting of containers.
MAX_DEPTH = 64
_SCALARS = (str, int, float, bytes, np.generic)
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


def _finish(item: Any, reading: Reading, depth: int = 0) -> Any:
    """Turn records into values; shared and recursive parts are paid for each time they are met."""
    if depth > MAX_DEPTH:
        raise UnsafePickleError(f"the pickle holds itself or is nested deeper than {MAX_DEPTH}")
    reading.spend(len(item) if isinstance(item, Span) else item.nbytes if isinstance(item, ArrayRecord) else 0)
    if item is None or isinstance(item, _SCALARS):
        return item
    if isinstance(item, Span):
        return bytes(reading.payload[item.start : item.stop])
    if isinstance(item, ArrayRecord):
        return item.array(reading.payload)
    if isinstance(item, (list, tuple)):
        return type(item)([_finish(part, reading, depth + 1) for part in item])
    if isinstance(item, dict):
        finished: dict[Any, Any] = {}
        for key, part in item.items():
            reading.spend_on_key(key, len(finished))
            finished[key] = _finish(part, reading, depth + 1)
        return finished
    raise UnsafePickleError(f"the pickle holds {brief(item)} itself, which is no data")


def load(payload: memoryview) -> Any:
    """Return the value of a pickle made of plain data, arrays and tensors (which become arrays).

    Raises
    ------
    FormatError
        The pickle is damaged; an :class:`UnsafePickleError` where it asks for anything else.
    """
    reading = Reading(payload)
    return _finish(_read(reading), reading)


def find_array(payload: memoryview) -> ArrayRecord | None:
    """Return the description of a pickle that is nothing but one array, its bytes contiguous in the payload.

    None for every other pickle, damaged ones included.
    """
    try:
        record = _read(Reading(payload))
    except FormatError:
        return None
    if isinstance(record, ArrayRecord) and isinstance(record.data, Span) and not record.bfloat16:
        return record if record.contiguous() else None
    return None


def _read(reading: Reading) -> Any:
    machine = Machine(reading, 0, len(reading.payload), ALLOWED)
    value = machine.run()
    if machine.position != len(reading.payload):
        raise FormatError(f"{len(reading.payload) - machine.position} bytes follow the pickle")
    return value


def _expect(args: tuple[Any, ...], *counts: int) -> None:
    if len(args) not in counts:
        raise UnsafePickleError(f"{len(args)} arguments")


def _ndarray(reading: Reading, args: tuple[Any, ...]) -> ArrayRecord:  # noqa: ARG001  (one signature for all)
    _expect(args, 3)
    shape, dtype, data = args
    return packed_array(data, dtype, shape, "C")


def _reconstruct(reading: Reading, args: tuple[Any, ...]) -> ArrayRecord:
    _expect(args, 3)
    kind, shape, code = args
    raw = _bytes_of(reading, code)
    if not isinstance(kind, Global) or kind.name not in _ARRAY_CLASSES or shape != (0,) or raw != b"b":
        raise UnsafePickleError("other than (ndarray, (0,), b'b')")
    return ArrayRecord()


def _frombuffer(reading: Reading, args: tuple[Any, ...]) -> ArrayRecord:  # noqa: ARG001
    _expect(args, 4, 5)
    data, dtype, shape, order = args[:4]
    axes = args[4] if len(args) == 5 else None
    if is_word(order, "K") and axes is not None:
        return _transposed(packed_array(data, dtype, shape, "C"), axes)
    if not is_word(order, "C", "F") or axes is not None:
        raise UnsafePickleError(f"the order {brief(order)}")
    return packed_array(data, dtype, shape, order)


def _transposed(array: ArrayRecord, axes: object) -> ArrayRecord:
    if not isinstance(axes, tuple) or any(type(axis) is not int for axis in axes):
        raise UnsafePickleError("impossible axes")
    if sorted(axes) != list(range(len(array.shape))):
        raise UnsafePickleError("impossible axes")
    array.shape, array.strides = tuple(array.shape[a] for a in axes), tuple(array.strides[a] for a in axes)
    return array


def _dtype(reading: Reading, args: tuple[Any, ...]) -> DtypeRecord:  # noqa: ARG001
    _expect(args, 1, 2, 3)
    if not isinstance(args[0], str) or any(type(flag) not in {bool, int} for flag in args[1:]):
        raise UnsafePickleError("unusual arguments")
    record = DtypeRecord(args[0])
    record.dtype()
    return record


def _scalar(reading: Reading, args: tuple[Any, ...]) -> Any:
    _expect(args, 2)
    dtype, raw = as_dtype(args[0]), _bytes_of(reading, args[1])
    if len(raw) != dtype.itemsize:
        raise UnsafePickleError(f"{len(raw)} bytes for one {dtype.str}")
    return np.frombuffer(raw, dtype)[0]


def _encode(reading: Reading, args: tuple[Any, ...]) -> bytes:
    """Stand in for ``_codecs.encode``, which protocol 2 uses to write bytes as text."""
    _expect(args, 2)
    text, encoding = args
    if not isinstance(text, str) or not is_word(encoding, "latin1", "latin-1"):
        raise UnsafePickleError(f"the encoding {brief(encoding)}; only text in latin1 is allowed")
    reading.spend(len(text))
    try:
        return text.encode("latin1")
    except UnicodeEncodeError as error:
        raise UnsafePickleError(f"text that is not latin1: {error}") from error


def _no_bytes(reading: Reading, args: tuple[Any, ...]) -> bytes:  # noqa: ARG001
    _expect(args, 0)
    return b""


def _ordered_dict(reading: Reading, args: tuple[Any, ...]) -> dict[Any, Any]:  # noqa: ARG001
    _expect(args, 0)
    return {}


def _storage(reading: Reading, args: tuple[Any, ...]) -> Storage:
    _expect(args, 1)
    return _read_storage(reading, as_data(args[0]))


def _tensor(reading: Reading, args: tuple[Any, ...]) -> ArrayRecord:  # noqa: ARG001
    """Stand in for ``torch._utils._rebuild_tensor_v2`` (and v3, which names the dtype in addition)."""
    _expect(args, 5, 6, 7, 8)
    storage, first, shape, steps = args[:4]
    if not isinstance(storage, Storage) or not isinstance(steps, tuple):
        raise UnsafePickleError("something other than a storage")
    if len(args) > 5 and args[5] != {}:
        raise UnsafePickleError("backward hooks")
    if len(args) > 7 and args[7] is not None:
        raise UnsafePickleError("tensor metadata")
    name = _tensor_dtype(args[6]) if len(args) > 6 and args[6] is not None else storage.dtype
    if name is None:
        raise UnsafePickleError("a storage without dtype")
    record = strided_array(storage.data, as_dtype("<u2" if name == BFLOAT16 else name), as_shape(shape), steps, first)
    record.bfloat16 = name == BFLOAT16
    return record


def _tensor_dtype(value: object) -> str:
    if isinstance(value, Global) and value.name in _TORCH_DTYPES:
        return _TORCH_DTYPES[value.name]
    raise UnsafePickleError(f"the dtype {brief(value)}")


def _parameter(reading: Reading, args: tuple[Any, ...]) -> ArrayRecord:  # noqa: ARG001
    _expect(args, 3)
    if not isinstance(args[0], ArrayRecord) or args[2] != {}:
        raise UnsafePickleError("something other than a tensor")
    return args[0]


def _bytes_of(reading: Reading, value: object) -> bytes:
    """Return short raw bytes."""
    data = as_data(value)
    if len(data) > 64:
        raise UnsafePickleError(f"{len(data)} bytes where a few are usual")
    return bytes(reading.payload[data.start : data.stop]) if isinstance(data, Span) else data


def _read_storage(reading: Reading, data: Span | bytes) -> Storage:
    """Read a storage as ``torch.storage._load_from_bytes`` would, in the older format of ``torch.save``."""
    # five pickles (magic number, version, system, one storage, the list of its key), the number of elements, raw data
    if isinstance(data, bytes):  # protocol 2 writes bytes as text
        reading.spend(len(data))
        inner = _read_storage(InnerReading(data, reading), Span(0, len(data)))
        return Storage(data[inner.data.start : inner.data.stop], inner.dtype) if isinstance(inner.data, Span) else inner
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
    values: list[Any] = []
    position = data.start
    for _ in range(5):
        machine = Machine(reading, position, data.stop, ALLOWED, persistent=True)
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


_TORCH_DTYPES: Mapping[str, str] = MappingProxyType(
    {"torch.bfloat16": BFLOAT16}
    | {f"torch.{name}": np.dtype(name).str for name in ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16")}
    | {f"torch.{name}": np.dtype(name).str for name in ("uint32", "uint64", "float16", "float32", "float64")}
    | {f"torch.{name}": np.dtype(name).str for name in ("complex64", "complex128")}
)
_ARRAY_CLASSES = frozenset({"numpy.ndarray", "numpy.memmap", "numpy.core.memmap.memmap"})


def _allowed() -> Mapping[str, Global]:
    constructors: dict[str, Construct | None] = {
        "numpy.ndarray": _ndarray,
        "numpy.dtype": _dtype,
        "numpy.memmap": None,
        "numpy.core.memmap.memmap": None,
        "_codecs.encode": _encode,
        "__builtin__.bytes": _no_bytes,
        "builtins.bytes": _no_bytes,
        "collections.OrderedDict": _ordered_dict,
        "torch.storage._load_from_bytes": _storage,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor_v3": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        **dict.fromkeys(STORAGE_DTYPES),
        **dict.fromkeys(_TORCH_DTYPES),
    }
    for core in ("numpy.core", "numpy._core"):
        constructors[f"{core}.multiarray._reconstruct"] = _reconstruct
        constructors[f"{core}.multiarray.scalar"] = _scalar
        constructors[f"{core}.numeric._frombuffer"] = _frombuffer
    return MappingProxyType({name: Global(name, construct) for name, construct in constructors.items()})


ALLOWED = _allowed()
