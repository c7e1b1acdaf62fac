"""Columns of a data set on the read side: where each sample's value lies, and how many are fetched at once.

An address is positive where the raw array bytes can be copied, negative (of the payload) where the codec has to decode
it, 0 where the shard was not looked at yet.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Ints
from neurofm_shards.blocks import MISSING
from neurofm_shards.errors import FormatError
from neurofm_shards.limits import MAX_ARRAY_BYTES
from neurofm_shards.reading.buffers import POOLED_BYTES, BufferPool, is_lent
from neurofm_shards.reading.row_copy import LARGE_ROW, RowCopy
from neurofm_shards.reading.samples import check_out
from neurofm_shards.types import ColumnSpec, Ragged
from neurofm_shards.values import native, starts_of

if TYPE_CHECKING:
    from neurofm_shards.format.index import ColumnIndex
    from neurofm_shards.reading.address_space import AddressReader
    from neurofm_shards.reading.catalog import ShardTable


#: Address of a field that a sample does not have.
ABSENT = np.iinfo(np.int64).min
#: Small rows are copied by one fancy index, in pieces that stay in the processor's cache and in malloc's hands.
_PIECE = 128 << 10
#: The main thread's malloc keeps what was freed, up to arrays of about this size.
_MOST_IN_HEAP = 16 << 20


class ColumnRequest(NamedTuple):
    """What is asked of a column.

    Attributes
    ----------
    reader : AddressReader
        Reads bytes at addresses.
    rows, addresses : numpy.ndarray of int64, shape (n,)
        Which samples, and where their values lie; all of them known.
    shards : ShardTable
        Decodes values, and gives key and shard of a row, for messages.
    out : numpy.ndarray or None
        Array to fill.
    dtype : dtype or None
        Type to deliver instead of the stored one.
    """

    reader: AddressReader
    rows: Ints
    addresses: Ints
    shards: ShardTable
    out: npt.NDArray[Any] | None = None
    dtype: npt.DTypeLike | None = None


class Column(ABC):
    """One field of all samples.

    Parameters
    ----------
    spec : ColumnSpec
        What is delivered; its dtype is in native byte order.
    num_samples : int
        Samples in the data set.

    Attributes
    ----------
    at_once : bool
        Whether ``gather_at_once`` is worth a try.
    """

    at_once = False

    def __init__(self, spec: ColumnSpec, num_samples: int) -> None:
        self.spec = spec
        self.addresses: Ints = np.zeros(num_samples, np.int64)  # untouched pages of zeros take no memory
        self.sizes: Ints = np.zeros(num_samples, np.int64)

    def located(self, shards: ShardTable, rows: Ints) -> Ints:
        """Return where the values of rows lie; shards of theirs that were not looked at yet are looked at now."""
        found = self.addresses[rows]
        if not found.all():
            for where, bases, index in shards.attached(rows[found == 0], self.spec.name):
                self.fill(where, bases, index)
            found = self.addresses[rows]
        return found

    def fill(self, rows: Ints | slice, base: Ints | int, index: ColumnIndex | None) -> None:
        """Note where the values of some rows lie, whose shards' bytes begin at ``base``; None: they lack the field."""
        if index is None:
            self.addresses[rows] = ABSENT
            return
        payload = np.asarray(index.payload_offsets, np.int64)
        addresses = np.where(payload < 0, ABSENT, -(payload + base))
        sizes = np.array(index.payload_sizes, np.int64)
        raw = self._raw_sizes(index)
        if raw is not None:
            data = np.asarray(index.data_offsets, np.int64)
            copied = data >= 0
            addresses[copied] = (data + base)[copied]
            sizes[copied] = np.broadcast_to(raw, copied.shape)[copied]
        # Finished values, sizes first: two threads may note the same shard while a third already reads it.
        self.sizes[rows] = sizes
        self.addresses[rows] = addresses

    @abstractmethod
    def gather(self, asked: ColumnRequest) -> Any:
        """Return the values asked for, in new memory."""

    def gather_at_once(self, copy: RowCopy, rows: Ints, dtype: npt.DTypeLike | None) -> Any:  # noqa: ARG002
        """Return the values of rows, finding and copying them in one go; None where that cannot be done."""
        return None

    @abstractmethod
    def _raw_sizes(self, index: ColumnIndex) -> Ints | int | None:
        """Return the sizes of a shard's raw bytes, or of each; None where they are not what this column delivers."""

    def _decoded(self, asked: ColumnRequest, which: Ints) -> Iterator[tuple[int, Any]]:
        """Give the decoded values at these places of the request."""
        rows = asked.rows[which]
        lacking = rows[asked.addresses[which] == ABSENT]
        if len(lacking):
            raise FormatError(
                f"sample {asked.shards.describe(int(lacking[0]))} has no field {self.spec.name!r}, which the data set "
                "promises for every sample; run `neurofm-shards validate`"
            )
        at, sizes = np.abs(asked.addresses[which]), self.sizes[rows]
        asked.reader.need(at, sizes)
        payloads = asked.reader.slices(at, sizes)
        return zip(which.tolist(), asked.shards.decode(self.spec.name, rows, payloads), strict=True)

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
        self._size = _bytes_of(spec, self._shape)
        self.at_once = self._size > 0

    def gather(self, asked: ColumnRequest) -> Any:
        """Return an array (n, ...), or fill ``out``."""
        shape = (len(asked.rows), *self._shape)
        raw = self._size > 0 and bool(np.minimum.reduce(asked.addresses, initial=1) > 0)
        if raw:
            asked.reader.need(asked.addresses, self._size)
            if asked.out is None and self._left_to_malloc(shape[0] * self._size):
                found = asked.reader.copy.rows(asked.addresses, self._size, self._dtype, shape)
                return found if asked.dtype is None else found.astype(asked.dtype, copy=False)
        out = self._out(asked, shape)
        if raw:
            self._copy(asked.reader.copy, asked.addresses, out)
        elif self._size:
            self._copy_and_decode(asked, out)
        return out

    def gather_at_once(self, copy: RowCopy, rows: Ints, dtype: npt.DTypeLike | None) -> Any:
        """See :meth:`Column.gather_at_once`."""
        shape = (len(rows), *self._shape)
        small = self._left_to_malloc(len(rows) * self._size)
        if small or dtype is None:
            out = np.empty(shape, self._dtype) if small else self._pool.empty(shape, self._dtype)
            if copy.numbered_rows_into(self.addresses, rows, self._size, out):
                return out if dtype is None else out.astype(dtype, copy=False)
        else:
            out = self._pool.empty(shape, dtype)
            if self._convert_at_once(copy, rows, out):
                return out
        inside = rows[(rows >= 0) & (rows < len(self.addresses))]
        self.at_once = not (self.addresses[inside] < 0).any()  # shards that were not looked at yet are no reason
        return None

    def _convert_at_once(self, copy: RowCopy, rows: Ints, out: npt.NDArray[Any]) -> bool:
        """Fill an array of another type, in pieces that stay in the processor's cache."""
        step = max(1, _PIECE // self._size)
        piece = np.empty((min(step, len(rows)), *self._shape), self._dtype)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            if not copy.numbered_rows_into(self.addresses, part, self._size, piece[: len(part)]):
                return False
            out[start : start + step] = piece[: len(part)]
        return True

    def _left_to_malloc(self, size: int) -> bool:
        """Return whether fresh memory costs nothing: of small batches always, in the main thread of larger ones too."""
        if size < POOLED_BYTES:
            return True
        few = self._size < LARGE_ROW and size < _MOST_IN_HEAP
        return few and threading.get_ident() == threading.main_thread().ident and not is_lent()

    def _out(self, asked: ColumnRequest, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        if asked.out is None:
            return self._pool.empty(shape, self._dtype if asked.dtype is None else asked.dtype)
        check_out(self.spec, asked.out, shape)
        return asked.out

    def _copy(self, copy: RowCopy, addresses: Ints, out: npt.NDArray[Any]) -> None:
        if out.dtype == self._dtype and out.flags.c_contiguous and self._size >= copy.smallest_row:
            copy.rows_into(addresses, self._size, out)
            return
        step = max(1, _PIECE // self._size)
        for start in range(0, len(addresses), step):
            part = addresses[start : start + step]
            out[start : start + step] = copy.rows(part, self._size, self._dtype, (len(part), *self._shape))

    def _copy_and_decode(self, asked: ColumnRequest, out: npt.NDArray[Any]) -> None:
        """Fill ``out`` where some payloads are not raw bytes (column-major or foreign arrays)."""
        raw = np.flatnonzero(asked.addresses > 0)
        part = np.empty((len(raw), *self._shape), out.dtype)
        asked.reader.need(asked.addresses[raw], self._size)
        self._copy(asked.reader.copy, asked.addresses[raw], part)
        out[raw] = part
        for i, value in self._decoded(asked, np.flatnonzero(asked.addresses < 0)):
            out[i] = self._expected(value)

    def _raw_sizes(self, index: ColumnIndex) -> int | None:
        return self._size if self._same_bytes(index) and index.spec.shape == self._shape else None


class RaggedColumn(Column):
    """Arrays that differ in their first length: values end to end, and offsets."""

    def __init__(self, spec: ColumnSpec, num_samples: int) -> None:
        super().__init__(spec, num_samples)
        self._dtype = np.dtype(spec.dtype)
        self._inner = tuple(int(length or 0) for length in (spec.shape or ())[1:])
        self._row = _bytes_of(spec, self._inner)

    def gather(self, asked: ColumnRequest) -> Any:
        """Return :class:`~neurofm_shards.types.Ragged`; ``out`` cannot be given."""
        check_out(self.spec, asked.out, None)
        if len(asked.rows) and (asked.addresses > 0).all():
            sizes = self.sizes[asked.rows]
            asked.reader.need(asked.addresses, sizes)
            lengths = sizes // self._row
            values = np.concatenate(asked.reader.slices(asked.addresses, sizes)).view(self._dtype)
            values = values.reshape(-1, *self._inner)
        else:
            pieces = self._pieces(asked)
            lengths = np.array([len(piece) for piece in pieces], np.int64)
            values = np.concatenate([np.empty((0, *self._inner), self._dtype), *pieces])
        return Ragged(values if asked.dtype is None else values.astype(asked.dtype, copy=False), starts_of(lengths))

    def _pieces(self, asked: ColumnRequest) -> list[npt.NDArray[Any]]:
        """Fetch one by one: some payloads are not raw bytes."""
        pieces: list[npt.NDArray[Any]] = [np.empty(0)] * len(asked.rows)
        raw = np.flatnonzero(asked.addresses > 0)
        sizes = self.sizes[asked.rows[raw]]
        asked.reader.need(asked.addresses[raw], sizes)
        for i, data in zip(raw.tolist(), asked.reader.slices(asked.addresses[raw], sizes), strict=True):
            pieces[i] = data.view(self._dtype).reshape(-1, *self._inner)
        for i, value in self._decoded(asked, np.flatnonzero(asked.addresses < 0)):
            pieces[i] = self._expected(value)
        return pieces

    def _raw_sizes(self, index: ColumnIndex) -> Ints | int | None:
        shape = index.spec.shape
        if not shape or tuple(shape[1:]) != self._inner or self._row == 0 or not self._same_bytes(index):
            return None
        return (shape[0] or 0) * self._row if index.shapes is None else index.shapes[:, 0].astype(np.int64) * self._row


class ListColumn(Column):
    """Values of any kind: decoded one by one. A field that a sample lacks is ``blocks.MISSING``."""

    def gather(self, asked: ColumnRequest) -> Any:
        """Return a list of n values."""
        check_out(self.spec, asked.out, None)
        values: list[Any] = [MISSING] * len(asked.rows)
        for i, value in self._decoded(asked, np.flatnonzero(asked.addresses != ABSENT)):
            if isinstance(value, np.ndarray):
                array = native(value)
                values[i] = array if asked.dtype is None else array.astype(asked.dtype, copy=False)
            else:
                values[i] = value
        return values

    def _raw_sizes(self, index: ColumnIndex) -> None:  # noqa: ARG002  (each value is decoded)
        return None


def _bytes_of(spec: ColumnSpec, shape: Sequence[int]) -> int:
    """Return the bytes of an array; FormatError where no memory could hold it, or NumPy could not count it."""
    size = math.prod(max(length, 1) for length in shape) * np.dtype(spec.dtype).itemsize
    if size > MAX_ARRAY_BYTES:
        raise FormatError(
            f"column {spec.name!r} is said to hold arrays of shape {spec.shape}, which nothing could hold"
        )
    return 0 if 0 in shape else size


def gather_at_once(
    columns: Sequence[Column], copy: RowCopy, rows: Ints, dtypes: Mapping[str, npt.DTypeLike]
) -> dict[str, Any] | None:
    """Gather all columns; None where one of them cannot be gathered at once."""
    found = {}
    for column in columns:
        values = column.gather_at_once(copy, rows, dtypes.get(column.spec.name))
        if values is None:
            return None
        found[column.spec.name] = values
    return found


def make_column(spec: ColumnSpec, num_samples: int, pool: BufferPool, *, everywhere: bool) -> Column:
    """Return the fitting kind of column; ``everywhere`` says whether every sample has the field."""
    if spec.dtype is None or spec.shape is None or not everywhere or None in spec.shape[1:]:
        return ListColumn(spec, num_samples)
    if None in spec.shape:
        return RaggedColumn(spec, num_samples)
    return ConstantColumn(spec, num_samples, pool)
