"""Columns of a data set on the read side: where each sample's value lies, and how many are fetched at once.

An address is positive where the raw array bytes can be copied, negative (of the payload) where the codec has to decode
it, 0 where the shard was not looked at yet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from neurofm_shards.blocks import MISSING
from neurofm_shards.errors import FormatError
from neurofm_shards.types import ColumnSpec, Ragged

if TYPE_CHECKING:
    from neurofm_shards.shards.buffers import BufferPool
    from neurofm_shards.shards.index import ColumnIndex
    from neurofm_shards.shards.space import Reader

Ints: TypeAlias = npt.NDArray[np.int64]
Decode: TypeAlias = Callable[[int, memoryview], Any]

#: Address of a field that a sample does not have.
ABSENT = np.iinfo(np.int64).min
#: Rows are converted to another type in pieces of this size, which stay in the processor's cache.
_PIECE = 256 << 10


class Column(ABC):
    """One field of all samples.

    Parameters
    ----------
    spec : ColumnSpec
        What is delivered; its dtype is in native byte order.
    num_samples : int
        Samples in the data set.
    """

    def __init__(self, spec: ColumnSpec, num_samples: int) -> None:
        self.spec = spec
        self.addresses: Ints = np.zeros(num_samples, np.int64)  # untouched pages of zeros take no memory
        self.sizes: Ints = np.zeros(num_samples, np.int64)

    def fill(self, start: int, base: int, index: ColumnIndex | None, num_samples: int) -> None:
        """Note where the values of one shard lie: its samples begin at row ``start``, its bytes at ``base``."""
        rows = slice(start, start + num_samples)
        if index is None:
            self.addresses[rows] = ABSENT
            return
        payload = np.asarray(index.payload_offsets, np.int64)
        addresses = np.where(payload < 0, ABSENT, -(payload + base))
        self.sizes[rows] = index.payload_sizes
        if self._copyable(index):
            data = np.asarray(index.data_offsets, np.int64)
            copied = data >= 0
            addresses[copied] = data[copied] + base
            self._note_sizes(rows, copied, index)
        self.addresses[rows] = addresses

    @abstractmethod
    def gather(self, reader: Reader, rows: Ints, decode: Decode, out: Any, dtype: npt.DTypeLike | None) -> Any:
        """Fetch the values of these rows, whose shards were all looked at."""

    @abstractmethod
    def _copyable(self, index: ColumnIndex) -> bool:
        """Say whether a shard's raw bytes are what this column delivers."""

    @abstractmethod
    def _note_sizes(self, rows: slice, copied: npt.NDArray[np.bool_], index: ColumnIndex) -> None:
        """Note the sizes of the raw bytes, where they can be copied."""

    def _payloads(self, reader: Reader, rows: Ints, addresses: Ints) -> list[memoryview]:
        sizes = self.sizes[rows]
        reader.need(-addresses, sizes)
        return [memoryview(part) for part in reader.slices(-addresses, sizes)]

    def _expected(self, value: Any) -> npt.NDArray[Any]:
        """Return a decoded array, which must be what the column promises."""
        array, shape = native(np.asarray(value)), self.spec.shape or ()
        fits = len(shape) == array.ndim and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
        if array.dtype != self.spec.dtype or not fits:
            raise FormatError(
                f"column {self.spec.name!r} holds an array of {array.dtype} and shape {array.shape}, where the data "
                f"set promises {self.spec.dtype} and {shape}; run `neurofm-shards validate`"
            )
        return array

    def _same_bytes(self, index: ColumnIndex) -> bool:
        stored = index.spec.dtype
        return index.data_offsets is not None and stored is not None and np.dtype(stored) == np.dtype(self.spec.dtype)


class ConstantColumn(Column):
    """Arrays of one type and shape: any number of rows is one copy."""

    def __init__(self, spec: ColumnSpec, num_samples: int, pool: BufferPool) -> None:
        super().__init__(spec, num_samples)
        self._pool = pool
        self._dtype = np.dtype(spec.dtype)
        self._shape = tuple(int(length or 0) for length in spec.shape or ())
        self._size = int(np.prod(self._shape, dtype=np.int64)) * self._dtype.itemsize

    def gather(self, reader: Reader, rows: Ints, decode: Decode, out: Any, dtype: npt.DTypeLike | None) -> Any:
        """Return an array (n, ...), or fill ``out``."""
        addresses = self.addresses[rows]
        wanted = self._dtype if dtype is None else np.dtype(dtype)
        shape = (len(rows), *self._shape)
        if self._size and len(rows) and addresses.min() > 0:
            reader.need(addresses, self._size)
            if out is None and wanted == self._dtype and addresses.size * self._size < self._pool.smallest:
                return reader.rows(addresses, self._size).view(wanted).reshape(shape)
            out = self._pool.empty(shape, wanted) if out is None else self._checked(out, shape)
            self._copy(reader, addresses, out)
            return out
        out = self._pool.empty(shape, wanted) if out is None else self._checked(out, shape)
        self._copy_and_decode(reader, rows, addresses, decode, out)
        return out

    def _copy(self, reader: Reader, addresses: Ints, out: npt.NDArray[Any]) -> None:
        if out.dtype == self._dtype and out.flags.c_contiguous and self._size >= 4096:
            reader.rows_into(addresses, self._size, out.reshape(-1).view(np.uint8))
            return
        step = max(1, _PIECE // self._size)
        for start in range(0, len(addresses), step):
            piece = reader.rows(addresses[start : start + step], self._size).view(self._dtype)
            out[start : start + step] = piece.reshape(-1, *self._shape)

    def _copy_and_decode(
        self, reader: Reader, rows: Ints, addresses: Ints, decode: Decode, out: npt.NDArray[Any]
    ) -> None:
        """Fill ``out`` where some payloads are not plain bytes (column-major or foreign arrays)."""
        if self._size == 0:
            return
        plain = np.flatnonzero(addresses > 0)
        if len(plain):
            part = np.empty((len(plain), *self._shape), out.dtype)
            reader.need(addresses[plain], self._size)
            self._copy(reader, addresses[plain], part)
            out[plain] = part
        odd = np.flatnonzero(addresses < 0)
        for i, payload in zip(odd.tolist(), self._payloads(reader, rows[odd], addresses[odd]), strict=True):
            out[i] = self._expected(decode(int(rows[i]), payload))

    def _checked(self, out: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        if out.shape != shape:
            raise FormatError(f"column {self.spec.name!r}: the output array has shape {out.shape} instead of {shape}")
        return out

    def _copyable(self, index: ColumnIndex) -> bool:
        return self._same_bytes(index) and index.spec.shape == self._shape

    def _note_sizes(self, rows: slice, copied: npt.NDArray[np.bool_], index: ColumnIndex) -> None:
        pass


class RaggedColumn(Column):
    """Arrays that differ in their first length: values end to end, and offsets."""

    def __init__(self, spec: ColumnSpec, num_samples: int) -> None:
        super().__init__(spec, num_samples)
        self._dtype = np.dtype(spec.dtype)
        self._inner = tuple(int(length or 0) for length in (spec.shape or ())[1:])
        self._row = int(np.prod(self._inner, dtype=np.int64)) * self._dtype.itemsize

    def gather(self, reader: Reader, rows: Ints, decode: Decode, out: Any, dtype: npt.DTypeLike | None) -> Any:
        """Return :class:`~neurofm_shards.types.Ragged`; ``out`` cannot be given."""
        if out is not None:
            raise FormatError(f"column {self.spec.name!r} is ragged: it cannot be gathered into an array")
        addresses = self.addresses[rows]
        if len(rows) and addresses.min() > 0:
            sizes = self.sizes[rows]
            reader.need(addresses, sizes)
            lengths = sizes // self._row
            values = np.concatenate(reader.slices(addresses, sizes)).view(self._dtype).reshape(-1, *self._inner)
        else:
            lengths, values = self._pieces(reader, rows, addresses, decode)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return Ragged(values if dtype is None else values.astype(dtype, copy=False), offsets)

    def _pieces(
        self, reader: Reader, rows: Ints, addresses: Ints, decode: Decode
    ) -> tuple[list[int], npt.NDArray[Any]]:
        """Fetch one by one: some payloads are not plain bytes."""
        pieces = [np.empty((0, *self._inner), self._dtype)]
        for i, address in enumerate(addresses.tolist()):
            at = np.array([abs(address)])
            size = self.sizes[rows[i : i + 1]]
            reader.need(at, size)
            (raw,) = reader.slices(at, size)
            if address > 0:
                pieces.append(raw.view(self._dtype).reshape(-1, *self._inner))
            else:
                pieces.append(self._expected(decode(int(rows[i]), memoryview(raw))))
        return [len(piece) for piece in pieces[1:]], np.concatenate(pieces)

    def _copyable(self, index: ColumnIndex) -> bool:
        shape = index.spec.shape
        fits = shape is not None and len(shape) == 1 + len(self._inner) and tuple(shape[1:]) == self._inner
        return fits and self._row > 0 and self._same_bytes(index)

    def _note_sizes(self, rows: slice, copied: npt.NDArray[np.bool_], index: ColumnIndex) -> None:
        shape = index.spec.shape or (0,)
        lengths = np.broadcast_to(np.int64(shape[0] or 0), copied.shape) if index.shapes is None else index.shapes[:, 0]
        self.sizes[rows][copied] = np.asarray(lengths, np.int64)[copied] * self._row


class ListColumn(Column):
    """Values of any kind: decoded one by one. A field that a sample lacks is ``blocks.MISSING``."""

    def gather(self, reader: Reader, rows: Ints, decode: Decode, out: Any, dtype: npt.DTypeLike | None) -> Any:
        """Return a list of n values."""
        if out is not None:
            raise FormatError(f"column {self.spec.name!r} is not of one shape: it cannot be gathered into an array")
        addresses = self.addresses[rows]
        there = np.flatnonzero(addresses != ABSENT)
        values: list[Any] = [MISSING] * len(rows)
        payloads = self._payloads(reader, rows[there], addresses[there])
        for i, payload in zip(there.tolist(), payloads, strict=True):
            value = decode(int(rows[i]), payload)
            values[i] = native(value) if isinstance(value, np.ndarray) else value
            if dtype is not None and isinstance(value, np.ndarray):
                values[i] = values[i].astype(dtype, copy=False)
        return values

    def _copyable(self, index: ColumnIndex) -> bool:  # noqa: ARG002
        return False

    def _note_sizes(self, rows: slice, copied: npt.NDArray[np.bool_], index: ColumnIndex) -> None:
        pass


def native(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the array in this machine's byte order."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def make_column(spec: ColumnSpec, num_samples: int, pool: BufferPool, *, everywhere: bool) -> Column:
    """Return the fitting kind of column; ``everywhere`` says whether every sample has the field."""
    if spec.dtype is None or spec.shape is None or not everywhere or None in spec.shape[1:]:
        return ListColumn(spec, num_samples)
    if None in spec.shape:
        return RaggedColumn(spec, num_samples)
    return ConstantColumn(spec, num_samples, pool)
