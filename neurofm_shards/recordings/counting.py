"""Count events in windows that lie anywhere, in trains of many recordings at once.

A small module in C does it where the package was built with a compiler, NumPy elsewhere; both give the same counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Ints
from neurofm_shards.recordings.ticks import count_windows

try:
    from neurofm_shards.recordings import _events
except ImportError:  # built without a compiler
    COMPILED = False
else:
    COMPILED = True

#: Types that counts are made in.
COUNT_TYPES = frozenset({"uint8", "uint16", "float32"})
#: Cells that NumPy, which counts in int64, makes at once.
_CELLS_AT_ONCE = 1 << 22
#: The most that counts of each unsigned type may be.
_MOST = {name: int(np.iinfo(name).max) for name in ("uint8", "uint16")}


class Train(NamedTuple):
    """Events in time order: what is counted.

    Attributes
    ----------
    ticks : numpy.ndarray of int64, shape (n,)
        Times, ascending.
    owner : numpy.ndarray of uint16, uint32 or int32, shape (n,)
        Whose each is.
    rows : numpy.ndarray of int32, shape (owners,), or None
        Where each owner is counted; negative: not at all. None: at its own number.
    """

    ticks: Ints
    owner: npt.NDArray[Any]
    rows: npt.NDArray[np.int32] | None


def count_trains(
    trains: Sequence[Train],
    which: Ints,
    spans: tuple[Ints, Ints],
    bins: Ints,
    bin_ticks: int,
    widths: Ints,
    types: tuple[str, str],
) -> npt.NDArray[Any]:
    """Count the events of windows.

    Parameters
    ----------
    trains : sequence of Train
        The events of one recording each.
    which : numpy.ndarray of int64, shape (n,)
        The train of each window.
    spans : (starts, stops), numpy.ndarray of int64, shape (n,)
        First tick of each window, and the tick behind its last: bins that it does not hold as a whole stay 0.
    bins : numpy.ndarray of int64, shape (n,)
        Bins of each window.
    bin_ticks : int
        Width of a bin.
    widths : numpy.ndarray of int64, shape (n,)
        Rows of each window's counts.
    types : (str, str)
        Unsigned type that counts have to fit into, and the type they are made in.

    Returns
    -------
    numpy.ndarray, shape (sum of ``bins * widths``,)
        The windows' counts, (bins, width) each, end to end.

    Raises
    ------
    OverflowError
        A count does not fit.
    IndexError
        An event belongs to nobody.
    """
    starts, stops = spans
    cells = bins * widths
    ends = cells.cumsum()
    first = ends - cells
    held = np.minimum((stops - starts) // bin_ticks, bins)
    out = np.empty(int(ends[-1]) if len(ends) else 0, dtype=types[1])
    if COMPILED and types[1] in COUNT_TYPES:
        windows = np.array((which, starts, held, first, widths, bins), dtype=np.int64).T.copy()
        _events.count_events(list(trains), windows, bin_ticks, _MOST[types[0]], out)
        return out
    for number, length in sorted(set(zip(which.tolist(), bins.tolist(), strict=True))):
        mine = np.flatnonzero((which == number) & (bins == length))
        shape = (length, bin_ticks, int(widths[mine[0]]))
        step = max(1, _CELLS_AT_ONCE // max(1, length * shape[2]))
        for at in range(0, len(mine), step):
            _count_one(trains[number], mine[at : at + step], starts, held, shape, types[0], first, out)
    return out


def _count_one(
    train: Train,
    mine: Ints,
    starts: Ints,
    held: Ints,
    shape: tuple[int, int, int],
    dtype: str,
    first: Ints,
    out: npt.NDArray[Any],
) -> None:
    """Count the windows of one train with NumPy."""
    bins, bin_ticks, width = shape
    counts = count_windows(train.ticks, train.owner, starts[mine], bin_ticks, (bins, width), dtype, train.rows)
    for k, i in enumerate(mine.tolist()):
        counts[k, held[i] :] = 0
        out[first[i] : first[i] + bins * width] = counts[k].ravel()
