"""Sets of time: sorted, disjoint, half-open spans in ticks, as int64 arrays of shape (n, 2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Ints

EMPTY: Ints = np.zeros((0, 2), dtype=np.int64)
EMPTY.setflags(write=False)


def normalise(spans: Ints | Iterable[tuple[int, int]]) -> Ints:
    """Sort, drop empty spans, and join those that touch or overlap."""
    found = np.asarray(list(spans) if not isinstance(spans, np.ndarray) else spans, dtype=np.int64).reshape(-1, 2)
    found = found[found[:, 0] < found[:, 1]]
    found = found[np.argsort(found[:, 0], kind="stable")]
    if len(found) == 0:
        return EMPTY
    reach = np.maximum.accumulate(found[:, 1])
    begins = np.concatenate([[True], found[1:, 0] > reach[:-1]])
    last = np.concatenate([np.flatnonzero(begins)[1:] - 1, [len(found) - 1]])
    return np.stack([found[begins, 0], reach[last]], axis=1)


def contains(spans: Ints, points: Ints) -> npt.NDArray[np.bool_]:
    """Say of each point whether it lies in the set."""
    if len(spans) == 0:
        return np.zeros(len(points), dtype=bool)
    at = np.searchsorted(spans[:, 0], points, side="right") - 1
    found: npt.NDArray[np.bool_] = (at >= 0) & (points < spans[at, 1])
    return found


def _edges(*sets: Ints) -> Ints:
    return np.unique(np.concatenate([spans.ravel() for spans in sets]))


def intersect(first: Ints, second: Ints) -> Ints:
    """Return the time that lies in both sets."""
    edges = _edges(first, second)
    keep = contains(first, edges[:-1]) & contains(second, edges[:-1])
    return normalise(np.stack([edges[:-1], edges[1:]], axis=1)[keep])


def subtract(first: Ints, second: Ints) -> Ints:
    """Return the time of the first set that is not in the second."""
    edges = _edges(first, second)
    keep = contains(first, edges[:-1]) & ~contains(second, edges[:-1])
    return normalise(np.stack([edges[:-1], edges[1:]], axis=1)[keep])


def covered(spans: Ints, starts: Ints, stops: Ints) -> Ints:
    """Return how many ticks of each interval lie in the set."""
    if len(spans) == 0:
        return np.zeros(len(starts), dtype=np.int64)
    lengths = spans[:, 1] - spans[:, 0]
    before = np.concatenate([[0], np.cumsum(lengths)])

    def up_to(points: Ints) -> Ints:
        at = np.searchsorted(spans[:, 0], points, side="right") - 1
        inside = np.clip(points - spans[at, 0], 0, lengths[at])
        total: Ints = np.where(at >= 0, before[at] + inside, 0)
        return total

    return up_to(stops) - up_to(starts)


def bin_mask(spans: Ints, starts: Ints, bins: int, bin_ticks: int) -> npt.NDArray[np.bool_]:
    """Say of each bin of each window whether it lies in the set as a whole; shape (windows, bins)."""
    edges = (starts[:, None] + np.arange(bins) * bin_ticks).ravel()
    whole: npt.NDArray[np.bool_] = covered(spans, edges, edges + bin_ticks) == bin_ticks
    return whole.reshape(len(starts), bins)


def partition(extent: tuple[int, int], removals: Mapping[str, Ints]) -> list[tuple[int, int, str]]:
    """Cut an extent into labelled pieces.

    Returns
    -------
    list of (start, stop, reason)
        In time order, adjoining, covering the extent; the reason is the first removal that holds the piece, ``""``
        where none does.
    """
    whole = np.array([extent], dtype=np.int64)
    pieces = []
    left = normalise(whole)
    for reason, spans in removals.items():
        taken = intersect(left, spans) if len(spans) else EMPTY
        pieces += [(int(a), int(b), reason) for a, b in taken]
        left = subtract(left, taken)
    pieces += [(int(a), int(b), "") for a, b in left]
    return sorted(pieces)
