"""Copying rows from several threads at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

Bytes = npt.NDArray[np.uint8]


class CopyInOneCall:
    """Copies rows with torch, which lets go of the GIL once for all of them.

    NumPy can fill an array that is there only row by row, and takes the GIL again after each. Where several threads do
    that they wait for one another: two copied no more rows in a second than one, and four fewer.

    Parameters
    ----------
    everything : numpy.ndarray of uint8
        What rows are copied from.
    """

    def __init__(self, everything: Bytes) -> None:
        self._everything = torch.from_numpy(everything)
        self._rows: dict[int, torch.Tensor] = {}

    def __call__(self, offsets: npt.NDArray[np.int64], size: int, out: Bytes) -> None:
        """Copy rows.

        Parameters
        ----------
        offsets : numpy.ndarray of int64, shape (n,)
            Where rows begin.
        size : int
            Bytes of a row.
        out : numpy.ndarray of uint8, shape (n * size,)
            Filled with the rows, end to end.
        """
        rows = self._rows.get(size)
        if rows is None:
            count = self._everything.numel() - size + 1
            rows = self._rows[size] = self._everything.as_strided((count, size), (1, 1))
        torch.index_select(rows, 0, torch.from_numpy(offsets), out=torch.from_numpy(out.reshape(-1, size)))
