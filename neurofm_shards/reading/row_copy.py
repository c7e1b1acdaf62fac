"""Copying rows of bytes out of memory: most of what reading a batch is.

:class:`CompiledRows` is used where the package was built with a C compiler, :class:`NumpyRows` elsewhere. Both give the
same bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Bytes, Ints

try:
    from neurofm_shards.reading import _rows
except ImportError:  # built without a compiler
    COMPILED = False
else:
    COMPILED = True


#: Rows of at least this size are copied one by one; smaller ones in one fancy index.
LARGE_ROW = 256 << 10
#: NumPy fills memory that is there row by row, which pays from this size on.
_ONE_BY_ONE = 16 << 10
#: A processor that reads on in advance stops where a page of this size ends, however large the system's pages are.
_PAGE = 4 << 10


class RowCopy(ABC):
    """Copies rows of equal size from addresses of a data set; used by several threads at once.

    Attributes
    ----------
    smallest_row : int
        Smaller rows are better fetched with ``rows`` and then put where they belong, larger ones put there directly
        with ``rows_into``.
    finds_rows : bool
        Whether ``numbered_rows_into`` costs less than finding the rows of several batches together.
    """

    smallest_row = 0
    finds_rows = False

    def rows(self, offsets: Ints, size: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return rows, end to end, in a new array.

        Parameters
        ----------
        offsets : numpy.ndarray of int64, shape (n,)
            Where rows begin.
        size : int
            Bytes of a row.
        dtype, shape
            Of the array, which has ``n * size`` bytes.
        """
        out = np.empty(shape, dtype)
        self.rows_into(offsets, size, out)
        return out

    @abstractmethod
    def rows_into(self, offsets: Ints, size: int, out: npt.NDArray[Any]) -> None:
        """Copy rows, end to end, into a contiguous array of any type, which they fill."""

    def numbered_rows_into(self, table: Ints, numbers: Ints, size: int, out: npt.NDArray[Any]) -> bool:
        """Copy the rows at ``table[numbers]`` and return True.

        Where one of the numbers is not in the table, or its offset is not positive, nothing is copied: False.
        """
        if not ((numbers >= 0) & (numbers < len(table))).all():
            return False
        offsets = table[numbers]
        if not (offsets > 0).all():
            return False
        self.rows_into(offsets, size, out)
        return True


class CompiledRows(RowCopy):
    """Announces rows to the processor before their turn, and lets go of the GIL once for all of them."""

    finds_rows = True

    def __init__(self, everything: Bytes) -> None:
        self._source = everything.data  # found by C in less time than an array

    def rows_into(self, offsets: Ints, size: int, out: npt.NDArray[Any]) -> None:
        """See :class:`RowCopy`."""
        _rows.copy_rows(self._source, offsets, size, out)

    def numbered_rows_into(self, table: Ints, numbers: Ints, size: int, out: npt.NDArray[Any]) -> bool:
        """See :class:`RowCopy`."""
        return _rows.copy_numbered_rows(self._source, table, numbers, size, out)


class NumpyRows(RowCopy):
    """Copies small rows by one fancy index, large ones one by one."""

    smallest_row = _ONE_BY_ONE

    def __init__(self, everything: Bytes) -> None:
        self._everything = everything
        self._runs: dict[int, npt.NDArray[Any]] = {}
        self._pages: dict[int, Bytes] = {}

    def rows(self, offsets: Ints, size: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """See :class:`RowCopy`."""
        if size >= LARGE_ROW:
            return super().rows(offsets, size, dtype, shape)
        self._approach(offsets, size)
        copied: npt.NDArray[Any] = self._all_runs(size)[offsets]
        return copied.view(dtype).reshape(shape)

    def rows_into(self, offsets: Ints, size: int, out: npt.NDArray[Any]) -> None:
        """See :class:`RowCopy`; NumPy lets go of the GIL and takes it again for each row."""
        rows = [self._everything[start : start + size] for start in offsets.tolist()]
        np.concatenate(rows, out=out.reshape(-1).view(np.uint8))

    def _all_runs(self, size: int) -> npt.NDArray[Any]:
        """Return all runs of ``size`` bytes, overlapping, one per address: indexing it copies rows."""
        runs = self._runs.get(size)
        if runs is None:
            count = self._everything.size - size + 1
            runs = self._runs[size] = np.ndarray((count,), f"V{size}", self._everything, strides=(1,))
        return runs

    def _approach(self, offsets: Ints, size: int) -> None:
        """Read one byte of each page of the rows to be copied."""
        # These reads do not wait for one another, and the copy then finds its pages on their way.
        pages = self._pages.get(size)
        if pages is None:
            count = self._everything.size - size + 1
            lines = np.ndarray((count, -(-size // _PAGE)), np.uint8, self._everything, strides=(1, _PAGE))
            pages = self._pages[size] = lines if lines.shape[1] > 1 else self._everything
        pages[offsets]


def make_row_copy(everything: Bytes) -> RowCopy:
    """Return the fastest there is."""
    return CompiledRows(everything) if COMPILED else NumpyRows(everything)
