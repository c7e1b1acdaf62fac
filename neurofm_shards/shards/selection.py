"""Rows whose values were found, and are yet to be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from neurofm_shards.shards.columns import Column

Ints = npt.NDArray[np.int64]


class Located(NamedTuple):
    """Where the values of one column lie.

    Attributes
    ----------
    column : Column
        The column.
    addresses : numpy.ndarray of int64, shape (n,)
        One per row; all of them known.
    plain : bool
        Whether all addresses are positive, that is, whether all values are plain bytes.
    """

    column: Column
    addresses: Ints
    plain: bool

    def part(self, rows: slice) -> Located:
        """Return some of the rows."""
        addresses = self.addresses[rows]
        return Located(self.column, addresses, self.plain or all_plain(addresses))


class Selection(NamedTuple):
    """Rows of some columns; made by ``ShardCollection.select``, read by ``ShardCollection.read``.

    Finding values costs about as much for a thousand rows as for one, and stays true as long as the data set is open.
    So what several batches need is found in one go, and each is read by itself, into memory of its own.

    Attributes
    ----------
    rows : numpy.ndarray of int64, shape (n,)
        The rows.
    columns : tuple of Located
        Where their values lie.
    """

    rows: Ints
    columns: tuple[Located, ...]

    def cut(self, lengths: Iterable[int]) -> Iterator[Selection]:
        """Cut this selection into parts of so many rows each."""
        start = 0
        for length in lengths:
            part = slice(start, start + length)
            yield Selection(self.rows[part], tuple([located.part(part) for located in self.columns]))
            start += length


def all_plain(addresses: Ints) -> bool:
    """Say whether all addresses are known, and those of plain bytes."""
    return bool(np.minimum.reduce(addresses, initial=1) > 0)
