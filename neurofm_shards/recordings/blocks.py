"""Runs of samples, read in large blocks of a fixed grid; windows are cut from them in memory, without a loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Ints
from neurofm_shards.recordings.resampling import Track
from neurofm_shards.recordings.ticks import expand

_BYTES_AT_ONCE = 8 << 20


class Blocks:
    """Cuts windows out of runs of samples; the last block read is kept for the next call.

    Parameters
    ----------
    runs : sequence of Track
        Where samples come from.
    width : int
        Channels.
    rows : int
        Samples read at once; changes nothing but speed and memory.
    """

    def __init__(self, runs: Sequence[Track], width: int, rows: int) -> None:
        self.width = width
        self._runs = runs
        self._rows = rows
        numbers = [-(-run.count // rows) for run in runs]
        self._first_block = np.cumsum([0, *numbers])
        self._kept: tuple[int, npt.NDArray[Any], npt.NDArray[np.bool_]] | None = None

    def cut(
        self, windows: int, samples: int, window: Ints, place: Ints, run: Ints, row: Ints, count: Ints
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return windows and their masks: ``count`` samples from ``row`` of ``run`` on, put at ``[window, place:]``.

        Returns
        -------
        values : numpy.ndarray of float32, shape (windows, samples, width)
            Not-a-number where nothing was put.
        mask : numpy.ndarray of bool, shape (windows, samples)
            Where something was put, and some channel is a number.
        """
        out = np.empty((windows, samples, self.width), dtype=np.float32)
        mask = np.zeros((windows, samples), dtype=bool)
        out[np.bincount(window, weights=count, minlength=windows) < samples] = np.nan
        if len(row):
            first = self._first_block[run] + row // self._rows
            last = self._first_block[run] + (row + count - 1) // self._rows
            for number in np.unique(expand(first, last - first + 1)):
                here = np.flatnonzero((first <= number) & (number <= last))
                self._copy(out, mask, int(number), window[here], place[here], row[here], count[here])
        return out, mask

    def _copy(
        self,
        out: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
        number: int,
        window: Ints,
        place: Ints,
        row: Ints,
        count: Ints,
    ) -> None:
        """Put what one block holds of these pieces."""
        run, begin = self._where(number)
        block, known = self._load(number)
        at = row - begin
        whole = (count == out.shape[1]) & (at >= 0) & (at + count <= len(block))
        _put(out, window[whole], _windows(block, at[whole], out.shape[1]), run)
        mask[window[whole]] = _windows(known[:, None], at[whole], out.shape[1])[:, :, 0]
        for i in np.flatnonzero(~whole):
            low, high = max(int(at[i]), 0), min(int(at[i] + count[i]), len(block))
            to = int(place[i]) + low - int(at[i])
            run.finish(block[low:high], out[window[i], to : to + high - low])
            mask[window[i], to : to + high - low] = known[low:high]

    def _where(self, number: int) -> tuple[Track, int]:
        index = int(np.searchsorted(self._first_block, number, side="right")) - 1
        return self._runs[index], (number - int(self._first_block[index])) * self._rows

    def _load(self, number: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return a block as its run gives it, and in which rows some channel is a number."""
        if self._kept is not None and self._kept[0] == number:
            return self._kept[1], self._kept[2]
        self._kept = None
        run, begin = self._where(number)
        block = run.load(begin, min(begin + self._rows, run.count))
        known = np.full(len(block), self.width > 0)
        if block.dtype.kind == "f" and not np.isfinite(block.sum(dtype=np.float64)):
            known = np.isfinite(block).any(axis=1)
        self._kept = number, block, known
        return block, known


def _windows(block: npt.NDArray[Any], at: Ints, samples: int) -> npt.NDArray[Any]:
    """Return windows of a block that start at these rows: a view where they are evenly spaced, else a copy."""
    step = int(at[1] - at[0]) if len(at) > 1 else 0
    if len(at) and (np.diff(at) == step).all() and step >= 0:
        shape = (len(at), samples, block.shape[1])
        strides = (step * block.strides[0], *block.strides)
        return np.lib.stride_tricks.as_strided(block[int(at[0]) :], shape, strides, writeable=False)
    copied: npt.NDArray[Any] = block[at[:, None] + np.arange(samples)]
    return copied


def _put(out: npt.NDArray[np.float32], window: Ints, values: npt.NDArray[Any], run: Track) -> None:
    """Finish windows into ``out``, in one go where they are neighbours there."""
    if len(window) == 0:
        return
    if (np.diff(window) == 1).all():
        run.finish(values, out[int(window[0]) : int(window[-1]) + 1])
        return
    step = max(1, _BYTES_AT_ONCE // max(1, out[0].nbytes))
    for i in range(0, len(window), step):
        part = np.empty((len(values[i : i + step]), *out.shape[1:]), dtype=np.float32)
        run.finish(values[i : i + step], part)
        out[window[i : i + step]] = part
