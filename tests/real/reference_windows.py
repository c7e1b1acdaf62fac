"""Where windows begin, what spikes they hold, and what behaviour and LFP are there: h5py and numpy alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

BILLION = 1_000_000_000


def extent(epochs, trains, trials=None):
    """Return the first and one past the last nanosecond of a recording: its epochs, else its events and near trials."""
    if epochs is not None:
        return int(epochs[0].min()), int(epochs[1].max())
    times = np.sort(np.concatenate(trains))
    start, stop = int(times[0]), int(times[-1]) + 1
    if trials is None:
        return start, stop
    reach = usual_silence(times)
    first, last = (np.array(trials[name], dtype=float) * 1e9 for name in ("start_time", "stop_time"))
    near = (first >= start - reach) & (last <= stop + reach)
    low, high = (np.rint(each[near]).astype(np.int64) for each in (first, last))
    return min([start, *low.tolist()]), max([stop, *high.tolist()])


def usual_silence(times):
    """Return the longest silence in ns that events leave by chance or in bursts: three times the longest but a few."""
    gaps, n = np.sort(np.diff(times)), len(times)
    few = max(n // 1000, min(3, n // 100))
    return max((np.log(n) + 14) * (times[-1] - times[0]) / n, 3 * gaps[-1 - few])


def starts_in_epochs(epochs, width, bins, stride):
    """Return window starts where only epochs were recorded, and how many windows were left out."""
    origin, found, left = int(epochs[0].min()), [], 0
    bounds = sorted(zip(epochs[0].tolist(), epochs[1].tolist(), strict=True))
    for start, stop in bounds:
        starts, part = fixed_starts(origin - (origin - start) // width * width, stop, width, bins, stride)
        found, left = [*found, starts], left + part
    for (_, start), (stop, _) in pairwise(bounds):
        starts, part = fixed_starts(origin - (origin - start) // width * width, stop, width, bins, stride)
        left += len(starts) + part
    return np.concatenate(found), left


def fixed_starts(start, stop, width, bins, stride):
    """Return window starts on the grid of bins, and whether a part window was left over at the end."""
    starts, at = [], start
    while at + bins * width <= stop:
        starts.append(at)
        at += stride * width
    used = starts[-1] + bins * width if starts else start
    return np.array(starts, dtype=np.int64), int(stop > used)


def counts(trains, starts, width, bins):
    """Return the number of events in each bin, shape (windows, bins, trains); a bin holds its start and not its end."""
    edges = starts[:, None] + np.arange(bins + 1, dtype=np.int64)[None, :] * width
    columns = [np.diff(np.searchsorted(train, edges, side="left"), axis=1) for train in trains]
    return np.stack(columns, axis=-1)


def centres(starts, width, bins):
    """Return the middle of every bin in seconds, shape (windows, bins)."""
    edges = starts[:, None] + np.arange(bins, dtype=np.int64)[None, :] * width
    return (edges + width // 2) / 1e9


def interpolated(times, values, at, period=None):
    """Return values at given times and a mask of those between the first and last time stamp.

    With a period the variable lives on a circle: its unwrapped course is interpolated, and wrapped again.
    """
    course = values if period is None else np.unwrap(values, period=period)
    found = np.interp(at, times, course)
    known = (at >= times[0]) & (at <= times[-1])
    return (found if period is None else np.mod(found, period)), known


def circular_distance(a, b, period):
    """Return how far apart two values on a circle are."""
    apart = np.mod(a - b, period)
    return np.minimum(apart, period - apart)


def samples_of_windows(data, first, rate, starts, length):
    """Return stored rows of a regular series, ``length`` of them from the first at or after each window's start."""
    rows = [int(np.ceil((start / BILLION - first) * rate - 1e-6)) for start in starts.tolist()]
    return np.stack([data[row : row + length] for row in rows])


def trials_around(trial_starts, trial_stops, starts, stops):
    """Return, for each window, the row of the last-started trial that holds all of it, or -1."""
    rows = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        holding = [
            (begin, row)
            for row, (begin, end) in enumerate(zip(trial_starts.tolist(), trial_stops.tolist(), strict=True))
            if begin <= start and stop <= end
        ]
        rows.append(max(holding)[1] if holding else -1)
    return rows
