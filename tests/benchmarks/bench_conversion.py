"""Measure the conversion of a made-up NWB recording against reading what it needs and writing what it gives.

The limit reads the needed datasets with h5py, in blocks, and writes as many bytes as the shards have with ``tofile``.
The conversion is one call of ``convert_inputs`` in this process, unsynced, after all imports. Opening with pynwb alone
is shown apart: no program that opens files with pynwb can be faster. All of them run in turns; a first turn is not
counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "contenders"))

from made_recording import check, make, open_with_pynwb, output_bytes, read_and_write

from neurofm_shards import convert_inputs

LIMIT, OURS, PLAIN, PYNWB = "h5py + tofile", "neurofm_shards", "neurofm_shards, reader=h5py", "opening with pynwb"
BAR = 2.0


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def converted(recording: Path, out: Path, overlap: float, reader: str = "auto") -> float:
    """Convert into an empty folder; return the seconds."""
    shutil.rmtree(out, ignore_errors=True)
    config = {"windows": {"overlap": overlap}, "source": {"reader": reader}, "durable": False}
    return seconds(lambda: convert_inputs([recording], out, config))


def measured(recording: Path, folder: Path, overlap: float, rounds: int) -> dict[str, Any]:
    """Measure one recording; return the seconds of every turn, and the bytes in and out."""
    out, blob = folder / "out", folder / "blob"
    converted(recording, out, overlap)
    size = output_bytes(out)
    runs: dict[str, list[float]] = {LIMIT: [], OURS: [], PLAIN: [], PYNWB: []}
    for turn in range(rounds + 1):
        blob.unlink(missing_ok=True)
        took = {
            LIMIT: seconds(lambda: read_and_write(recording, size, blob)),
            OURS: converted(recording, out, overlap),
            PLAIN: converted(recording, out, overlap, "h5py"),
            PYNWB: seconds(lambda: open_with_pynwb(recording)),
        }
        for who in runs if turn else ():
            runs[who].append(took[who])
    for path in (out, blob):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {"read": recording.stat().st_size, "written": size, "seconds": runs}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=float, default=[10, 100, 600], help="megabytes of the recordings")
    parser.add_argument("--overlap", type=float, default=0.0, help="overlap of the windows; 0 writes all once")
    parser.add_argument("--rounds", type=int, default=5, help="turns that are counted")
    parser.add_argument("--folder", type=Path, help="make the temporary folder for the data here")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


def main() -> int:
    """Measure each size; end with 1 when the bar is missed."""
    asked = arguments()
    warnings.simplefilter("ignore")  # pynwb's about files without a subject
    print(f"load before: {os.getloadavg()[0]:.2f}; medians of {asked.rounds}, quickest in brackets")
    results = {}
    with tempfile.TemporaryDirectory(prefix="neurofm-shards-bench-", dir=asked.folder) as name:
        folder = Path(name)
        for megabytes in asked.sizes:
            recording = folder / f"made-{megabytes:g}.nwb"
            make(recording, megabytes)
            if megabytes == min(asked.sizes):
                converted(recording, folder / "checked", 0.0)
                print(f"{check(recording, folder / 'checked')} samples compared with the recording")
            found = results[f"{megabytes:g}"] = measured(recording, folder, asked.overlap, asked.rounds)
            recording.unlink()
            print(f"{found['read'] / 1e6:.0f} MB in, {found['written'] / 1e6:.0f} MB out:")
            limit = median(found["seconds"][LIMIT])
            for who, runs in found["seconds"].items():
                print(f"  {who:28s} {median(runs):8.3f} s [{min(runs):.3f}]  {median(runs) / limit:6.2f} x the limit")
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")
    missed = [size for size, one in results.items() if ratio(one) > BAR]
    print(f"at most {BAR:g} x the limit: " + (f"missed at {', '.join(missed)} MB" if missed else "reached"))
    return 1 if missed else 0


def ratio(found: dict[str, Any]) -> float:
    """Return the time of a conversion against the limit."""
    return float(median(found["seconds"][OURS]) / median(found["seconds"][LIMIT]))


if __name__ == "__main__":
    sys.exit(main())
