"""Binning ten million spikes against ``np.bincount`` of the same: ``python tests/benchmarks/bench_binning.py``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from neurofm_shards.recordings import InMemoryRecording, WindowOptions, windowed
from neurofm_shards.recordings.memory import events
from neurofm_shards.recordings.ticks import count_grid, to_ticks

SPIKES, UNITS, SECONDS = 10_000_000, 100, 3600.0
BIN = 10_000_000


def median_seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """Return the median of a few runs."""
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def main() -> None:
    """Print seconds and ratios."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.random(SPIKES) * SECONDS)
    owners = rng.integers(0, UNITS, SPIKES).astype(np.int32)
    ticks = to_ticks(times)
    bins = int(SECONDS * 100)
    cells = ticks // BIN * UNITS + owners
    ours = count_grid(ticks, owners, 0, BIN, (bins, UNITS), "uint8")
    assert (ours.ravel() == np.bincount(cells, minlength=bins * UNITS)).all()

    limit = median_seconds(lambda: np.bincount(cells, minlength=bins * UNITS))
    binning = median_seconds(lambda: count_grid(ticks, owners, 0, BIN, (bins, UNITS), "uint8"))

    trains = {str(unit): times[owners == unit] for unit in range(UNITS)}
    recording = InMemoryRecording([events("units", trains)])
    opening = median_seconds(lambda: windowed(recording, WindowOptions(overlap=0)), 1)
    samples = windowed(recording, WindowOptions(overlap=0))
    count = samples.plan().num_samples

    def read_all() -> None:
        for first in range(0, count, 500):
            samples.read(first, min(count, first + 500))

    reading = median_seconds(read_all)
    print(f"{SPIKES:,} spikes of {UNITS} units in {bins:,} bins of 10 ms")
    for what, seconds in (
        ("np.bincount of given cells", limit),
        ("binning (times to counts)", binning),
        ("sorting and checking at opening", opening),
        ("reading all windows", reading),
    ):
        print(f"{what:34s} {seconds:7.3f} s   {seconds / limit:5.2f} x np.bincount")


if __name__ == "__main__":
    main()
