"""Copying rows from several threads at once, where the package was built without a compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from neurofm_shards._typing import Bytes, Ints
from neurofm_shards.reading.row_copy import NumpyRows


class TorchRows(NumpyRows):
    """Copies rows into memory that is there with torch, which lets go of the GIL once for all of them.

    NumPy does that only row by row, and takes the GIL again after each. Where several threads do so they wait for one
    another: two copied no more rows in a second than one, and four fewer.
    """

    smallest_row = 0

    def __init__(self, everything: Bytes) -> None:
        super().__init__(everything)
        self._tensor = torch.from_numpy(everything)
        self._tensors: dict[int, torch.Tensor] = {}

    def rows_into(self, offsets: Ints, size: int, out: npt.NDArray[Any]) -> None:
        """See :class:`~neurofm_shards.reading.row_copy.RowCopy`."""
        runs = self._tensors.get(size)
        if runs is None:
            count = self._tensor.numel() - size + 1
            runs = self._tensors[size] = self._tensor.as_strided((count, size), (1, 1))
        rows = torch.from_numpy(out.reshape(-1).view(np.uint8).reshape(-1, size))
        torch.index_select(runs, 0, torch.from_numpy(offsets), out=rows)

    def _approach(self, offsets: Ints, size: int) -> None:
        """Other threads would wait for that."""
