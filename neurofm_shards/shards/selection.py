"""Rows whose values were found, and are yet to be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Ints
from neurofm_shards.errors import ConfigError, SampleIndexError

if TYPE_CHECKING:
    from neurofm_shards.reading.columns import Column


class Selection(NamedTuple):
    """Rows of some columns; made by ``ShardCollection.select``, read by ``ShardCollection.read``.

    Finding values costs about as much for a thousand rows as for one, and stays true as long as the data set is open.
    So what several batches need is found in one go, and each is read by itself, into memory of its own.

    Attributes
    ----------
    rows : numpy.ndarray of int64, shape (n,)
        The rows.
    columns : tuple of Column
        The columns.
    addresses : tuple of numpy.ndarray of int64, shape (n,)
        Where each column's values lie; all of them known.
    plain : tuple of bool
        Whether all values of a column are plain bytes.
    """

    rows: Ints
    columns: tuple[Column, ...]
    addresses: tuple[Ints, ...]
    plain: tuple[bool, ...]

    def cut(self, lengths: Iterable[int]) -> Iterator[Selection]:
        """Cut this selection into parts of so many rows each."""
        rows, columns, addresses, plain = self
        start, everywhere = 0, all(plain)
        for length in lengths:
            part = slice(start, start + length)
            mine = tuple([places[part] for places in addresses])
            yield Selection(rows[part], columns, mine, plain if everywhere else tuple(map(all_plain, mine)))
            start += length


def all_plain(addresses: Ints) -> bool:
    """Say whether all addresses are known, and those of plain bytes."""
    return bool(np.minimum.reduce(addresses, initial=1) > 0)


def checked_rows(rows: npt.ArrayLike, num_samples: int) -> Ints:
    """Return rows as an array.

    Raises
    ------
    ConfigError
        They are not one-dimensional.
    SampleIndexError
        One is not below ``num_samples``, or is negative.
    """
    where = np.asarray(rows, dtype=np.int64)
    if where.ndim != 1:
        raise ConfigError(f"rows must be one-dimensional, not of shape {where.shape}")
    if np.maximum.reduce(where.view(np.uint64), initial=0) >= num_samples > 0 or (
        len(where) and not num_samples
    ):  # negative numbers become huge
        bad = int(where[(where < 0) | (where >= num_samples)][0])
        raise SampleIndexError(f"row {bad} is out of range: the data set has {num_samples} samples")
    return where
