"""Start-up, opening a million samples, resuming, planning; memory with large inputs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
from harness.bench import OURS, Bench
from harness.client import CONTENDERS


def probe(name: str, *arguments: object) -> dict[str, Any]:
    """Run a probe in a fresh process."""
    command = [sys.executable, str(CONTENDERS / "probes.py"), name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the probe {name} failed: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def repeated(rounds: int, *asked: tuple[object, ...]) -> list[list[dict[str, Any]]]:
    """Run probes in turns."""
    turns = [[probe(*map(str, one)) for one in asked] for _ in range(rounds)]
    return [list(runs) for runs in zip(*turns, strict=True)]


def start_up(bench: Bench) -> None:
    """Imports and planning."""
    imports, planned = repeated(bench.rounds, ("imports",), ("planning", 1_000_000_000))
    add, hold = bench.results.add, bench.results.hold
    add("import torch", "torch", "ms", [run["torch"] * 1e3 for run in imports])
    beyond = add("import neurofm_shards, beyond torch", OURS, "ms", [run["beyond"] * 1e3 for run in imports])
    hold(beyond.case, beyond.median, 50, unit="ms", at_most=True)
    case = "plan a global shuffle of 1e9 samples and seek to its end"
    hold(case, add(case, OURS, "ms", [run["seconds"] * 1e3 for run in planned]).median, 50, unit="ms", at_most=True)
    memory = add(f"{case}: memory", OURS, "MB", [run["memory"] / 1e6 for run in planned])
    hold(memory.case, memory.median, 10, unit="MB", at_most=True)


def million(bench: Bench) -> None:
    """A data set of 1,000,000 samples in 1,000 shards: open, first batch, resume."""
    source = bench.source("tiny", 1_000_000, 100_000)
    folder = bench.written(OURS, source, "ours-million", shards=1000)
    probe("states", folder)
    add, hold = bench.results.add, bench.results.hold
    runs = repeated(bench.rounds, ("collection", folder), *(("first_batch", folder, part) for part in (0, 0.5, 0.99)))
    opened, *firsts = runs
    count = f"{opened[0]['samples']:,} samples in 1,000 shards"
    case = f"open {count}"
    hold(case, add(case, OURS, "s", [run["seconds"] for run in opened]).median, 1, unit="s", at_most=True)
    case = f"open {count}: growth of memory"
    hold(case, add(case, OURS, "MB", [run["memory"] / 1e6 for run in opened]).median, 150, unit="MB", at_most=True)
    case = f"first batch of {count}, beyond imports"
    start = add(case, OURS, "s", [run["seconds"] for run in firsts[0]])
    hold(case, start.median, 1, unit="s", at_most=True)
    for part, found in zip(("50 %", "99 %"), firsts[1:], strict=True):
        title = f"first batch of {count}, resumed at {part}"
        resumed = add(title, OURS, "s", [run["seconds"] for run in found])
        hold(f"{title}, against 0", resumed.median / start.median, 1.2, at_most=True)
    shutil.rmtree(folder)


def big_inputs(bench: Bench) -> None:
    """Memory-mapped inputs that are larger than what may be held: of zeros, which take no room on the disk."""
    place = bench.folder / "big"
    for title, gigabytes, compression in (("plain", 2, "none"), ("zstd", 10, "zstd")):
        size = gigabytes / 5 if bench.quick else gigabytes
        place.mkdir()
        np.lib.format.open_memmap(place / "x.npy", "w+", "<f8", (int(size * 1e4), 125, 100)).flush()
        run = probe("big_input", place / "x.npy", place, compression)
        shutil.rmtree(place)
        case = f"memory-mapped input of {run['bytes'] / 1e9:.1f} GB, {title}"
        bench.results.add(f"{case}: rate", OURS, "MB/s", [run["bytes"] / 1e6 / run["seconds"]])
        bench.results.add(f"{case}: growth of private memory", OURS, "MB", [run["private"] / 1e6])
        grown = bench.results.add(f"{case}: growth of memory", OURS, "MB", [run["memory"] / 1e6])
        bench.results.hold(grown.case, grown.median, 200, unit="MB", at_most=True)
