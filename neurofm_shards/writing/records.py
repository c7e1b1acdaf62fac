"""Laying many samples of one form out at once, without a Python loop over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Bytes
from neurofm_shards.format.headers import MEMBER_BLOCK, Digits, HeaderTemplate, Stencil, padded
from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.shards.fields import FieldWriter, plain
from neurofm_shards.shards.index_log import IndexLog


@dataclass(frozen=True)
class FixedColumn:
    """A column of arrays of one dtype and shape, and what its codec puts around each.

    Attributes
    ----------
    writer : FieldWriter
        Field and codec.
    data : numpy.ndarray, shape (n, ...)
        The values, of plain numbers.
    before, after : bytes
        The codec's envelope.
    """

    writer: FieldWriter
    data: npt.NDArray[Any]
    before: bytes
    after: bytes

    @property
    def data_bytes(self) -> int:
        """Bytes of one array."""
        count = 1
        for length in self.data.shape[1:]:
            count *= length
        return count * self.data.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes of one payload."""
        return len(self.before) + self.data_bytes + len(self.after)

    def rows(self, start: int, stop: int) -> Bytes:
        """Return the bytes of some samples' arrays, shape (stop - start, data_bytes)."""
        part = plain(self.data[start:stop])
        if part.size == 0:
            return np.empty((stop - start, 0), np.uint8)
        return part.reshape(stop - start, -1).view(np.uint8)


def fixed_column(writer: FieldWriter, data: npt.NDArray[Any]) -> FixedColumn | None:
    """Return a column that can be laid out at once; None when its codec has to see each value."""
    around = writer.envelope(data.dtype.newbyteorder("<"), data.shape[1:])
    return None if around is None else FixedColumn(writer, data, *around)


def record_bytes(columns: Sequence[FixedColumn], metadata_bytes: int) -> int:
    """Return the bytes of one sample's record."""
    return sum(MEMBER_BLOCK + padded(column.size) for column in columns) + MEMBER_BLOCK + padded(metadata_bytes)


class LaidOut:
    """Samples whose headers and metadata are made, and whose data only have to be copied between them.

    Parameters
    ----------
    columns : sequence of FixedColumn
        The fields.
    keys : numpy.ndarray of uint8, shape (n, k)
        ASCII keys of equal length.
    start : int
        First sample in the columns.
    metadata : (HeaderTemplate, numpy.ndarray of uint8 (n, m), numpy.ndarray of int64 (n,))
        What makes the metadata member's headers, the texts (zeros behind each), and their sizes.

    Attributes
    ----------
    record : int
        Bytes of each record.
    """

    def __init__(
        self,
        columns: Sequence[FixedColumn],
        keys: Bytes,
        start: int,
        metadata: tuple[HeaderTemplate, Bytes, npt.NDArray[np.int64]],
    ) -> None:
        self._columns = columns
        self._start = start
        template, texts, sizes = metadata
        self._sizes = sizes.tolist()
        self.record = record_bytes(columns, self._sizes[0])
        self._keys, self._texts = keys, texts
        key, totals = keys[0].tobytes(), keys.sum(axis=1, dtype=np.int64)
        #: What stands before each column's data, and behind the last.
        self._between: list[tuple[Stencil, Digits]] = []
        behind = b""
        for column in columns:
            stencil = column.writer.template.stencil(key, column.size, behind, column.before)
            self._between.append((stencil, stencil.digits(totals)))
            behind = column.after + bytes(-column.size % MEMBER_BLOCK)
        stencil = template.stencil(key, self._sizes[0], behind)
        same = self._sizes.count(self._sizes[0]) == len(self._sizes)
        self._between.append((stencil, stencil.digits(totals, None if same else sizes)))

    def fill(self, out: Bytes, first: int) -> None:
        """Write records, the first one being that of sample ``first``; every byte of ``out`` is written."""
        stop, at = first + len(out), 0
        data = [column.rows(self._start + first, self._start + stop) for column in self._columns]
        for (stencil, digits), behind in zip(self._between, [*data, self._texts[first:stop]], strict=True):
            stencil.many(out[:, at : (at := at + len(stencil))], self._keys[first:stop], digits.part(first, stop))
            out[:, at : (at := at + behind.shape[1])] = behind
        out[:, at:] = 0

    def note(self, log: IndexLog, position: int) -> None:
        """Note in the index where everything is; the first record begins at ``position``."""
        note_records(log, self._columns, len(log.keys), position, self.record, self._sizes)


def note_records(
    log: IndexLog, columns: Sequence[FixedColumn], row: int, position: int, record: int, sizes: Sequence[int]
) -> None:
    """Note consecutive records of one length in the index.

    Parameters
    ----------
    log : IndexLog
        The index.
    columns : sequence of FixedColumn
        The fields.
    row, position : int
        Number of the first sample, and where its record begins.
    record : int
        Bytes of each record.
    sizes : sequence of int
        Bytes of each sample's metadata.
    """
    at, end = position + MEMBER_BLOCK, record * len(sizes)
    for column in columns:
        form = (column.data.dtype.newbyteorder("<").str, column.data.shape[1:])
        logged = log.column(column.writer.field, column.writer.codec.name, column.writer.codec.extension)
        logged.add_many(row, range(at, at + end, record), [column.size] * len(sizes), len(column.before), form)
        at += padded(column.size) + MEMBER_BLOCK
    log.column(METADATA_FIELD, "json", "json").add_many(row, range(at, at + end, record), sizes, -1, None)
    log.records.extend(range(position, position + end, record))
