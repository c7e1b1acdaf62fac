"""Where spikes are counted: integer time, half-open bins, the count of events in each bin, and sets of spans.

Floating floor division puts spikes that lie on a bin's edge into the wrong bin; integers do not. Spans are sorted,
disjoint and half-open, in ticks, as int64 arrays of shape (n, 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import SourceError
from neurofm_shards.values import sorted_unique, starts_of

TICKS_PER_SECOND = 1_000_000_000
_LARGEST_SECOND = 9.0e9


def to_ticks(seconds: Floats | float) -> Ints:
    """Return ``rint(seconds * 1e9)`` as int64; not-a-number is not allowed (raises SourceError)."""
    values = np.asarray(seconds, dtype=np.float64)
    if values.size and not (values.min() >= -_LARGEST_SECOND and values.max() <= _LARGEST_SECOND):
        bad = values[~(np.abs(values) <= _LARGEST_SECOND)].flat[0]
        raise SourceError(f"{bad} is not a time in seconds: not a number, or beyond {_LARGEST_SECOND:g} s")
    scaled = np.asarray(values * TICKS_PER_SECOND)
    ticks: Ints = np.rint(scaled, out=scaled).astype(np.int64)
    return ticks


def is_time(seconds: Floats) -> npt.NDArray[np.bool_]:
    """Return for each value whether :func:`to_ticks` takes it for a time."""
    known: npt.NDArray[np.bool_] = np.abs(seconds) <= _LARGEST_SECOND
    return known


def to_seconds(ticks: Ints | int) -> Any:
    """Return ``ticks / 1e9``: a float64, or an array of them."""
    return ticks / TICKS_PER_SECOND


def expand(starts: Ints, lengths: Ints) -> Ints:
    """Return the indices of many ranges, end to end: ``starts[i], ..., starts[i] + lengths[i] - 1``.

    >>> expand(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    shifts: Ints = np.repeat(starts - (ends - lengths), lengths)
    shifts += np.arange(total)
    return shifts


def seconds_inside(ticks: Ints, length: int) -> npt.NDArray[np.float32]:
    """Return ticks of a window of ``length`` ticks as seconds, rounded to float32 but never up to the window's end."""
    seconds = ticks / TICKS_PER_SECOND
    end = np.float32(length / TICKS_PER_SECOND)
    below_end = np.nextafter(end, np.float32(0)) if end >= length / TICKS_PER_SECOND else end
    found: npt.NDArray[np.float32] = np.minimum(seconds.astype(np.float32), below_end)
    return found


def count_windows(
    ticks: Ints,
    owners: npt.NDArray[Any],
    starts: Ints,
    bin_ticks: int,
    shape: tuple[int, int],
    dtype: str,
    rows: npt.NDArray[np.int32] | None = None,
) -> npt.NDArray[Any]:
    """Count events per window, bin and owner; windows may start anywhere and overlap.

    Parameters
    ----------
    ticks : numpy.ndarray of int64, shape (n,)
        Event times in ascending order.
    owners : numpy.ndarray of int, shape (n,)
        Owner of each event.
    starts : numpy.ndarray of int64, shape (windows,)
        First tick of every window.
    bin_ticks : int
        Width of a bin.
    shape : (int, int)
        Number of bins and of owners.
    dtype : str
        Unsigned type of the result.
    rows : numpy.ndarray of int32, or None
        Where each owner is counted; negative: not at all. None: owners are numbers below ``shape[1]``.

    Returns
    -------
    numpy.ndarray of dtype, shape (windows, bins, owners)

    Raises
    ------
    OverflowError
        A count does not fit into ``dtype``; the message is the count.
    """
    bins, width = shape
    first = np.searchsorted(ticks, starts, side="left")
    lengths = np.searchsorted(ticks, starts + bins * bin_ticks, side="left") - first
    index = expand(first, lengths)
    window = np.repeat(np.arange(len(starts)), lengths)
    cells = (ticks[index] - starts[window]) // bin_ticks
    cells += window * bins
    cells *= width
    cells = placed(cells, owners[index], rows)
    counts = np.bincount(cells, minlength=len(starts) * bins * width)
    return fit(counts, dtype).reshape(len(starts), bins, width)


def placed(cells: Ints, owners: npt.NDArray[Any], rows: npt.NDArray[np.int32] | None) -> Ints:
    """Add to each event's cell where its owner is counted; events of owners that are not counted are left out."""
    if rows is None:
        cells += owners
        return cells
    at = rows[owners]
    kept = at >= 0
    found: Ints = cells[kept] + at[kept]
    return found


def fit(counts: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Return counts as ``dtype``; one that does not fit is an OverflowError, never a wrap."""
    if counts.size and (largest := int(counts.max())) > np.iinfo(dtype).max:
        raise OverflowError(largest)
    return counts.astype(dtype)


EMPTY: Ints = np.zeros((0, 2), dtype=np.int64)
EMPTY.setflags(write=False)


def normalise(spans: Ints | Iterable[tuple[int, int]]) -> Ints:
    """Sort, drop empty spans, and join those that touch or overlap."""
    found = np.asarray(list(spans) if not isinstance(spans, np.ndarray) else spans, dtype=np.int64).reshape(-1, 2)
    if len(found) == 1 and found[0, 0] < found[0, 1]:
        return found
    found = found[found[:, 0] < found[:, 1]]
    found = found[np.argsort(found[:, 0], kind="stable")]
    if len(found) == 0:
        return EMPTY
    reach = np.maximum.accumulate(found[:, 1])
    begins = np.concatenate([[True], found[1:, 0] > reach[:-1]])
    last = np.concatenate([np.flatnonzero(begins)[1:] - 1, [len(found) - 1]])
    return np.stack([found[begins, 0], reach[last]], axis=1)


def contains(spans: Ints, points: Ints) -> npt.NDArray[np.bool_]:
    """Return for each point whether it lies in the set."""
    if len(spans) == 0:
        return np.zeros(len(points), dtype=bool)
    at = np.searchsorted(spans[:, 0], points, side="right") - 1
    found: npt.NDArray[np.bool_] = (at >= 0) & (points < spans[at, 1])
    return found


def _edges(*sets: Ints) -> Ints:
    return sorted_unique(np.concatenate([spans.ravel() for spans in sets]))


def intersect(first: Ints, second: Ints) -> Ints:
    """Return the time that lies in both sets."""
    if len(first) == 0 or len(second) == 0:
        return EMPTY
    edges = _edges(first, second)
    keep = contains(first, edges[:-1]) & contains(second, edges[:-1])
    return normalise(np.stack([edges[:-1], edges[1:]], axis=1)[keep])


def subtract(first: Ints, second: Ints) -> Ints:
    """Return the time of the first set that is not in the second."""
    if len(second) == 0 or len(first) == 0:
        return first
    edges = _edges(first, second)
    keep = contains(first, edges[:-1]) & ~contains(second, edges[:-1])
    return normalise(np.stack([edges[:-1], edges[1:]], axis=1)[keep])


def coarse(spans: Ints, most: int) -> Ints:
    """Return the set as at most so many spans, those that are nearest to each other taken as one."""
    if len(spans) <= most:
        return spans
    gaps = spans[1:, 0] - spans[:-1, 1]
    widest = np.sort(np.argsort(gaps, kind="stable")[len(gaps) - most + 1 :])
    first, last = np.concatenate([[0], widest + 1]), np.concatenate([widest, [len(spans) - 1]])
    return np.stack([spans[first, 0], spans[last, 1]], axis=1)


def covered(spans: Ints, starts: Ints, stops: Ints) -> Ints:
    """Return how many ticks of each interval lie in the set."""
    if len(spans) == 0:
        return np.zeros(len(starts), dtype=np.int64)
    lengths = spans[:, 1] - spans[:, 0]
    before = starts_of(lengths)

    def up_to(points: Ints) -> Ints:
        at = np.searchsorted(spans[:, 0], points, side="right") - 1
        inside = np.clip(points - spans[at, 0], 0, lengths[at])
        total: Ints = np.where(at >= 0, before[at] + inside, 0)
        return total

    return up_to(stops) - up_to(starts)


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
