"""From recordings: binning against ``np.bincount``, conversion against reading and writing the same bytes."""

from __future__ import annotations

import shutil

from harness.bench import OURS, Bench
from harness.cases_start import repeated


def recordings(bench: Bench) -> None:
    """Bin ten million spikes; convert a recording of ten minutes."""
    binned, converted = repeated(bench.slow_rounds, ("binning",), ("conversion", bench.folder / "recording"))
    shutil.rmtree(bench.folder / "recording")
    add, hold = bench.results.add, bench.results.hold
    case = "bin 10,000,000 spikes"
    ours = add(case, OURS, "s", [run["seconds"] for run in binned])
    limit = add(case, "np.bincount", "s", [run["limit"] for run in binned])
    hold(case, ours.median, 1, unit="s", at_most=True)
    hold(f"{case}, time against np.bincount", ours.median / limit.median, 3, at_most=True)
    case = "convert a recording of 10 minutes (NWB)"
    ours = add(case, OURS, "s", [run["seconds"] for run in converted])
    limit = add(case, "h5py + tofile", "s", [run["limit"] for run in converted])
    hold(f"{case}, time against h5py + tofile", ours.median / limit.median, 2, at_most=True)
