"""Writing: whole arrays against ``tofile``, samples in a loop against the peers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.bench import MAP, OURS, TARFILE, Bench
from harness.client import ContenderError


def write_race(
    bench: Bench, case: str, source: Path, runners: Mapping[str, tuple[str, Mapping[str, Any]]], rounds: int
) -> dict[str, float]:
    """Let contenders write in turns; ``runners`` are label: (contender, options)."""
    rates: dict[str, list[float]] = {label: [] for label in runners}
    for turn in range(rounds + 1):
        # in changing order: what a contender left in memory, and gave back, makes the next one faster or slower
        for label in list(rates) if turn % 2 else list(rates)[::-1]:
            who, options = runners[label]
            try:
                answer = bench.timed_write(who, source, "written", **options)
            except ContenderError as error:
                bench.results.lack(f"{label}: {case}", str(error))
                del rates[label]
                continue
            if turn:
                rates[label].append(answer["samples"] / answer["seconds"])
    shutil.rmtree(bench.folder / "written")
    os.sync()
    return {label: bench.results.add(case, label, "samples/s", values).median for label, values in rates.items()}


def arrays(bench: Bench) -> None:
    """``create_shards_from_arrays`` against ``tofile``: both without and both with fsync."""
    source = bench.source("quick", 4000, 1500)
    for durable in (False, True):
        case = f"write arrays, 78 KB, {'with' if durable else 'without'} fsync"
        runners: dict[str, tuple[str, Mapping[str, Any]]] = {
            MAP: (MAP, {"durable": durable}),
            OURS: (OURS, {"durable": durable, "half": False}),
            f"{OURS}, with metadata of each sample": (OURS, {"durable": durable}),
        }
        found = write_race(bench, case, source, runners, bench.rounds)
        bench.results.hold(f"{case}, against tofile", found[OURS] / found[MAP], 0.6)


def samples(bench: Bench) -> None:
    """``write_sample`` in a loop against everybody's writer."""
    source = bench.source("quick", 4000, 1500)
    case = "write samples in a loop, 78 KB"
    runners: dict[str, tuple[str, Mapping[str, Any]]] = {who: (who, {}) for who in (TARFILE, *bench.peers)}
    found = write_race(bench, case, source, {OURS: (OURS, {"loop": True}), **runners}, bench.slow_rounds)
    ours, _ = found.pop(OURS), found.pop(TARFILE)
    if found:
        bench.results.hold(f"{case}, against the fastest peer", ours / max(found.values()), 5)
    else:
        bench.results.fail(f"{case}, against the fastest peer", 5, "no peer could be measured")
