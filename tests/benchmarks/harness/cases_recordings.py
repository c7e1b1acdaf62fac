"""From recordings: binning against ``np.bincount``, conversion against reading and writing the same bytes."""

from __future__ import annotations

import shutil
import sys

from harness.bench import OURS, Bench
from harness.cases_start import probe, repeated
from harness.client import CONTENDERS

sys.path.append(str(CONTENDERS))

from made_recording import BAR, LIMIT, SIZES, ratio


def recordings(bench: Bench) -> None:
    """Bin ten million spikes; convert recordings of some sizes."""
    (binned,) = repeated(bench.slow_rounds, ("binning",))
    add, hold = bench.results.add, bench.results.hold
    case = "bin 10,000,000 spikes"
    ours = add(case, OURS, "s", [run["seconds"] for run in binned])
    limit = add(case, "np.bincount", "s", [run["limit"] for run in binned])
    hold(case, ours.median, 1, unit="s", at_most=True)
    hold(f"{case}, time against np.bincount", ours.median / limit.median, 3, at_most=True)
    for megabytes in SIZES[:-1] if bench.quick else SIZES:
        place = bench.folder / "recording"
        found = probe("conversion", place, megabytes, bench.slow_rounds)
        shutil.rmtree(place)
        bench.results.checked += int(found["samples"])
        case = f"convert a recording of {megabytes} MB (NWB)"
        for who, seconds in found["seconds"].items():
            add(case, who, "s", seconds)
        hold(f"{case}, time against {LIMIT}", ratio(found), BAR, at_most=True)
