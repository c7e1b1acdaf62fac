"""Giving the memory of mapped input files back while going through them."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.types import Ragged


def drop_pages(data: Any, start: int, stop: int) -> None:
    """Let go of the memory behind rows of a memory-mapped array that were read; a later access reads them again.

    Parameters
    ----------
    data : anything
        Only arrays that lie in a file mapped for reading, or shared, are touched.
    start, stop : int
        Rows along the first axis (of a Ragged: samples).
    """
    if isinstance(data, Ragged):
        data, start, stop = data.values, int(data.offsets[start]), int(data.offsets[stop])
    owner = _memmap(data)
    if owner is None or stop <= start or not data.flags.c_contiguous:
        return
    # A private map ("c") may hold changes that are nowhere else.
    mapping, mode = owner._mmap, owner.mode  # type: ignore[attr-defined]  # noqa: SLF001  (numpy's documented attribute)
    if mode not in ("r", "r+", "w+") or not isinstance(mapping, mmap.mmap):
        return
    base = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
    first = data[start:stop].__array_interface__["data"][0] - base
    low = first // mmap.PAGESIZE * mmap.PAGESIZE
    high = (first + data[start:stop].nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if high > low and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED, low, high - low)


def is_mapped(data: Any) -> bool:
    """Say whether a column lies in a mapped file."""
    return _memmap(data.values if isinstance(data, Ragged) else data) is not None


def _memmap(array: Any) -> npt.NDArray[Any] | None:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return array
        array = array.base
    return None
