"""Copying rows from several threads at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

Bytes = npt.NDArray[np.uint8]


def copy_in_one_call(everything: Bytes, offsets: npt.NDArray[np.int64], size: int, out: Bytes) -> None:
    """Copy rows with torch, which lets go of the GIL once for all of them.

    NumPy can fill an array that is there only row by row, and takes the GIL again after each. Where several threads do
    that they wait for one another: two copied no more rows in a second than one, and four fewer.

    Parameters
    ----------
    everything : numpy.ndarray of uint8
        What rows are copied from.
    offsets : numpy.ndarray of int64, shape (n,)
        Where rows begin.
    size : int
        Bytes of a row.
    out : numpy.ndarray of uint8, shape (n * size,)
        Filled with the rows, end to end.
    """
    windows = torch.from_numpy(everything).as_strided((everything.size - size + 1, size), (1, 1))
    torch.index_select(windows, 0, torch.from_numpy(offsets), out=torch.from_numpy(out).view(len(offsets), size))
