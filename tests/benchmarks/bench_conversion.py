"""Measure the conversion of made-up NWB recordings alone; see ``contenders/made_recording.py`` for what is measured."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent / "contenders"))

from made_recording import BAR, SIZES, check, converted, make, measured, ratio


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=float, default=SIZES, help="megabytes of the recordings")
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
                converted(recording, folder / "checked")
                print(f"{check(recording, folder / 'checked')} samples compared with the recording")
            found = results[f"{megabytes:g}"] = measured(recording, folder, asked.overlap, asked.rounds)
            recording.unlink()
            print(f"{found['read'] / 1e6:.0f} MB in, {found['written'] / 1e6:.0f} MB out:")
            for who, runs in found["seconds"].items():
                print(f"  {who:28s} {median(runs):8.3f} s [{min(runs):.3f}]  {ratio(found, who):6.2f} x the limit")
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")
    missed = [size for size, one in results.items() if ratio(one) > BAR]
    print(f"at most {BAR:g} x the limit: " + (f"missed at {', '.join(missed)} MB" if missed else "reached"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
