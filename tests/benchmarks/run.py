"""Measure this program, the limits and the peers on the same data, in one run.

Writes ``docs/benchmarks`` (or ``--out``): README.md, results.json and a plot. Ends with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness.bench import Bench
from harness.cases_compressed import compressed
from harness.cases_paths import paths, python_transform
from harness.cases_read import peers, sequential, shuffled
from harness.cases_recordings import recordings
from harness.cases_start import big_inputs, million, start_up
from harness.cases_write import arrays, samples
from harness.environments import PEERS, Environment, prepared
from harness.machine import load, machine
from harness.report import write_report

GROUPS: dict[str, Callable[[Bench], None]] = {
    "start": start_up,
    "shuffled": shuffled,
    "paths": paths,
    "python": python_transform,
    "compressed": compressed,
    "arrays": arrays,
    "samples": samples,
    "peers": peers,
    "sequential": sequential,
    "million": million,
    "big": big_inputs,
    "recordings": recordings,
}
DOCS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less data, fewer turns; the report goes to --out only")
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", help=f"some of: {', '.join(GROUPS)}")
    parser.add_argument("--out", type=Path, help=f"where the report goes; default for a whole run: {DOCS}")
    parser.add_argument("--envs", type=Path, help="keep the peers' environments in this folder")
    parser.add_argument("--skip-peers", action="store_true", help="measure this program and the limits alone")
    parser.add_argument("--folder", type=Path, help="make the temporary folder for the data here")
    return parser.parse_args()


def environments(asked: argparse.Namespace, folder: Path) -> list[Environment]:
    """Prepare the peers' environments."""
    if asked.skip_peers:
        return [Environment(peer, reason="--skip-peers was given") for peer in PEERS]
    found = []
    for peer in PEERS:
        found.append(prepared(peer, asked.envs.resolve() if asked.envs else folder / "environments"))
        print(f"{peer.name}: {found[-1].versions or found[-1].reason}", flush=True)
    return found


def main() -> int:
    """Run the groups asked for."""
    asked, load_before = arguments(), load()
    with tempfile.TemporaryDirectory(prefix="neurofm-shards-bench-", dir=asked.folder) as name:
        folder = Path(name)
        peers_there = environments(asked, folder)
        bench = Bench(folder, peers_there, quick=asked.quick)
        try:
            for group in asked.only or GROUPS:
                start = time.perf_counter()
                print(f"{group}:", flush=True)
                GROUPS[group](bench)
                print(f"  ({time.perf_counter() - start:.0f} s)", flush=True)
        finally:
            bench.close()
        out = asked.out or (None if asked.quick or asked.only else DOCS)
        if out is not None:
            write_report(bench.results, machine(folder, peers_there, load_before), out)
    missed = [bar.title for bar in bench.results.bars if not bar.reached]
    print(f"{len(bench.results.bars) - len(missed)} bars reached, {len(missed)} missed", *missed, sep="\n  ")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
