"""Where windows start in an epoch: always at the same place, or at random, as a function of seed, epoch and window."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Ints
from neurofm_shards.stored.options import LoadedWindows
from neurofm_shards.stored.plan import WindowPlan
from neurofm_shards.values import SPREAD, splitmix64, starts_of


class Placed(NamedTuple):
    """Windows of one batch.

    Attributes
    ----------
    rows : numpy.ndarray of int64, shape (n,)
        Their rows.
    groups : numpy.ndarray of int64, shape (n,)
        The group that each belongs to: its recording and length.
    starts, stops : numpy.ndarray of int64, shape (n,)
        First tick of each, and the tick behind its last.
    """

    rows: Ints
    groups: Ints
    starts: Ints
    stops: Ints


class Placing:
    """Finds windows by number.

    The number of a window is its row; of windows that lie elsewhere in every epoch, the row and the epoch.

    Parameters
    ----------
    plan : WindowPlan
        Where windows lie at rest.
    windows : LoadedWindows
        Whether they move, and how.

    Attributes
    ----------
    first : numpy.ndarray of int64, shape (runs + 1,)
        First row of each run of windows, and the number of rows.
    """

    def __init__(self, plan: WindowPlan, windows: LoadedWindows) -> None:
        self._plan = plan
        self._windows = windows
        cuts = windows.cuts
        self.first: Ints = starts_of(plan.runs[:, 2])
        self._length = np.array([cut.window_bins * cut.bin_ticks for cut in cuts], dtype=np.int64)[plan.kinds]
        self._stride = np.array([cut.stride_bins * cut.bin_ticks for cut in cuts], dtype=np.int64)[plan.kinds]
        if windows.random:
            new = np.ones(len(plan.starts), dtype=bool)
            new[1:] = plan.latest[1:] != plan.latest[:-1]
            new[self.first[:-1]] = True
            self._heads: Ints = np.flatnonzero(new)

    @property
    def _rows(self) -> int:
        return int(self.first[-1])

    def numbers(self, epoch: int, rows: Ints) -> Ints:
        """Return the numbers that rows have in an epoch."""
        return rows + epoch * self._rows if self._windows.moves else rows

    def divided(self, numbers: npt.ArrayLike) -> tuple[Ints, Ints]:
        """Return the epochs and rows of numbers; a negative number is a row that is not there."""
        asked = np.asarray(numbers, dtype=np.int64)
        if not self._windows.moves:
            return np.zeros(asked.shape, dtype=np.int64), asked
        epochs, rows = np.divmod(asked, self._rows)
        return epochs, np.where(asked < 0, asked, rows)

    def at(self, epochs: Ints, rows: Ints) -> Placed:
        """Return where windows lie in these epochs."""
        groups, rest = self.groups(rows), self._plan.starts[rows]
        starts = rest
        if self._windows.moves:
            starts = (self._random if self._windows.random else self._jittered)(epochs, rows, groups)
        return Placed(rows, groups, starts, self._plan.stops[rows] - rest + starts)

    def groups(self, rows: Ints) -> Ints:
        """Return the group of each row."""
        found: Ints = self._plan.runs[self._run(rows), 0]
        return found

    def within(self, rows: Ints) -> Ints:
        """Return the place of each row among the windows of its group."""
        runs = self._run(rows)
        found: Ints = rows - self.first[runs] + self._plan.runs[runs, 1]
        return found

    def _run(self, rows: Ints) -> Ints:
        found: Ints = self.first.searchsorted(rows, side="right") - 1
        return found

    def _jittered(self, epochs: Ints, rows: Ints, groups: Ints) -> Ints:
        """Return starts anywhere from a window's own place to that of the next one, as far as its stretch reaches."""
        rest = self._plan.starts[rows]
        room = np.minimum(self._plan.latest[rows] - rest, self._stride[groups] - 1) + 1
        return rest + self._drawn(epochs, rows, room)

    def _random(self, epochs: Ints, rows: Ints, groups: Ints) -> Ints:
        """Return starts of windows that lie end to end from a random offset on, as many as fit into their stretch."""
        # where the offset leaves room for one less, the last one ends with the stretch, or the first one begins with
        # it, whichever overlaps its neighbour less
        heads = self._heads[np.searchsorted(self._heads, rows, side="right") - 1]
        low, high, length = self._plan.starts[heads], self._plan.latest[rows], self._length[groups]
        number = (high - low) // length + 1
        slack = (high - low) % length
        offset = self._drawn(epochs, heads, length)
        place = rows - heads
        crowded, at_end = offset > slack, slack + length - offset > offset
        shifted = low + offset + (place - (crowded & ~at_end)) * length
        starts = np.where(crowded & at_end & (place == number - 1), high, shifted)
        found: Ints = np.where(crowded & ~at_end & (place == 0), low, starts)
        return found

    def _drawn(self, epochs: Ints, keys: Ints, room: Ints) -> Ints:
        """Return a number below ``room`` for each epoch and key."""
        drawn = _hashes(self._windows.seed, epochs, keys) % room.astype(np.uint64)
        return drawn.astype(np.int64)


def _hashes(seed: int, epochs: Ints, keys: Ints) -> npt.NDArray[np.uint64]:
    """Return a number for each epoch and key: SplitMix64, once for each of the three."""
    seeds = splitmix64(np.full(len(keys), seed, dtype=np.uint64) + SPREAD)
    return splitmix64((keys.astype(np.uint64) ^ splitmix64((epochs.astype(np.uint64) ^ seeds) + SPREAD)) + SPREAD)
