"""The same sums again, written apart from the program: numpy, plain loops, no shared code.

Every function works from the seconds a file holds. Tests compare the program with these, and the program broken on
purpose (see the lists in the test modules) with these.
"""

from __future__ import annotations

import numpy as np


def tick(seconds):
    return int(np.rint(np.float64(seconds) * 1e9))


def counts(trains, starts, bins, bin_ticks):
    """Count spikes per window, bin and unit; ``starts`` in ticks."""
    out = np.zeros((len(starts), bins, len(trains)), dtype=np.int64)
    for u, times in enumerate(trains):
        for t in times:
            if not np.isfinite(t):
                continue
            for w, start in enumerate(starts):
                k = (tick(t) - int(start)) // bin_ticks
                if 0 <= k < bins:
                    out[w, k, u] += 1
    return out


def tiles(first, last, bins, stride):
    """Return the first bins of the windows inside ``[first, last)``, in bins."""
    found = []
    while first + bins <= last:
        found.append(first)
        first += stride
    return found


def between(times, values, at, gap):
    """Interpolate one value linearly; not-a-number across gaps, beyond the ends, and next to unknown values."""
    known = [(t, v) for t, v in zip(times, values, strict=True) if np.isfinite(v)]
    before = [(t, v) for t, v in known if t <= at]
    after = [(t, v) for t, v in known if t >= at]
    if not before or not after:
        return np.nan
    (t0, v0), (t1, v1) = before[-1], after[0]
    if t0 == at:
        return v0
    if round(t1 - t0, 9) > gap:
        return np.nan
    return v0 + (v1 - v0) * (at - t0) / (t1 - t0)


def around(times, values, at, gap, low, high):
    """Interpolate on a circle by the angle's unit vector turned through the shorter arc."""
    turned = between(times, np.unwrap(values, period=high - low), at, gap)
    return low + (turned - low) % (high - low)


def held(times, values, at, gap=np.inf):
    """Hold the last value; unknown before the first, after the last, and longer than the gap."""
    before = [(t, v) for t, v in zip(times, values, strict=True) if t <= at]
    if not before or at > times[-1] or round(at - before[-1][0], 9) > gap:
        return np.nan
    return before[-1][1]


def mean(times, values, start, stop):
    """Average the known values inside one bin; ``start`` and ``stop`` in ticks."""
    inside = [v for t, v in zip(times, values, strict=True) if start <= tick(t) < stop and np.isfinite(v)]
    return float(np.mean(inside)) if inside else np.nan
