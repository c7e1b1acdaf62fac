"""Laying many samples of one form out at once, without a Python loop over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.shards.fields import FieldWriter, plain
from neurofm_shards.shards.headers import MEMBER_BLOCK, HeaderTemplate, padded
from neurofm_shards.shards.index_log import IndexLog

Bytes2D = npt.NDArray[np.uint8]


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

    def rows(self, start: int, stop: int) -> Bytes2D:
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


def lay_out(
    out: Bytes2D,
    keys: Bytes2D,
    columns: Sequence[FixedColumn],
    start: int,
    metadata: tuple[HeaderTemplate, Bytes2D, npt.NDArray[np.int64]],
) -> None:
    """Fill records.

    Parameters
    ----------
    out : numpy.ndarray of uint8, shape (n, record_bytes)
        Every byte of it is written.
    keys : numpy.ndarray of uint8, shape (n, k)
        ASCII keys of equal length.
    columns : sequence of FixedColumn
        The fields; samples ``start`` to ``start + n`` are taken.
    start : int
        First sample in the columns.
    metadata : (HeaderTemplate, numpy.ndarray of uint8 (n, m), numpy.ndarray of int64 (n,))
        The metadata member's headers, texts (zeros behind each), and their sizes.
    """
    at = 0
    for column in columns:
        column.writer.template.fill(out[:, at : at + MEMBER_BLOCK], keys, column.size)
        at = _fill_payload(out, at + MEMBER_BLOCK, column, start)
    template, texts, sizes = metadata
    template.fill(out[:, at : at + MEMBER_BLOCK], keys, sizes)
    at += MEMBER_BLOCK
    out[:, at : at + texts.shape[1]] = texts
    out[:, at + texts.shape[1] :] = 0


def _fill_payload(out: Bytes2D, at: int, column: FixedColumn, start: int) -> int:
    end = at + padded(column.size)
    for part in (
        np.frombuffer(column.before, np.uint8),
        column.rows(start, start + len(out)),
        np.frombuffer(column.after, np.uint8),
    ):
        length = part.shape[-1]
        out[:, at : at + length] = part
        at += length
    out[:, at:end] = 0
    return end


def note(
    log: IndexLog, columns: Sequence[FixedColumn], position: int, count: int, record: int, sizes: Sequence[int]
) -> None:
    """Note in the index where the values of ``count`` records of one length are; the first begins at ``position``."""
    row, at = len(log.keys), position + MEMBER_BLOCK
    end = record * count
    for column in columns:
        form = (column.data.dtype.newbyteorder("<").str, column.data.shape[1:])
        codec = column.writer.codec
        logged = log.column(column.writer.field, codec.name, codec.extension)
        logged.add_many(row, range(at, at + end, record), [column.size] * count, len(column.before), form)
        at += padded(column.size) + MEMBER_BLOCK
    log.column("metadata", "json", "json").add_many(row, range(at, at + end, record), sizes, -1, None)
    log.records.extend(range(position, position + end, record))
