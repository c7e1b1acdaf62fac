"""Things that need a fresh process: ``python probes.py NAME [ARGUMENTS]`` prints one JSON line."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def private() -> int:
    """Return the bytes of memory that nothing but this process holds: no pages of mapped files."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def imports() -> dict[str, float]:
    """Import torch, then this program and the names a training script uses."""
    start = time.perf_counter()
    import torch  # noqa: F401

    between = time.perf_counter()
    import neurofm_shards  # noqa: F401

    return {"torch": between - start, "beyond": time.perf_counter() - between}


def first_batch(folder: str, part: str) -> dict[str, float]:
    """Open a data set and take the first batch, at its start or resumed; imports do not count."""
    from neurofm_shards import create_webdataset_dataloader

    before, start = resident(), time.perf_counter()
    loader = create_webdataset_dataloader(folder, num_workers=0, shuffle="global")
    opened = time.perf_counter() - start
    grown = resident() - before
    if float(part):
        state = json.loads(Path(folder, "..", f"state-{part}.json").read_text())
        loader.load_state_dict(state)
    next(iter(loader))
    return {"open": opened, "seconds": time.perf_counter() - start, "open_memory": grown, "memory": resident() - before}


def collection(folder: str) -> dict[str, float]:
    """Open a data set without torch."""
    from neurofm_shards.reading.collection import ShardCollection

    before, start = resident(), time.perf_counter()
    with ShardCollection.open(folder) as found:
        return {"seconds": time.perf_counter() - start, "memory": resident() - before, "samples": len(found)}


def planning(samples: str) -> dict[str, float]:
    """Plan a global shuffle and look at its end."""
    import numpy as np

    from neurofm_shards.loading.order.shuffle import ShuffleOrder

    count = int(samples)
    tracemalloc.start()
    start = time.perf_counter()
    order = ShuffleOrder(np.array([count]), shuffle="global", seed=1)
    rows = order.positions_to_rows(0, np.arange(count - 32, count))
    seconds = time.perf_counter() - start
    assert len(set(rows.tolist())) == 32
    assert rows.min() >= 0
    assert rows.max() < count
    return {"seconds": seconds, "memory": tracemalloc.get_traced_memory()[1]}


def big_input(source: str, folder: str, compression: str) -> dict[str, float]:
    """Write a memory-mapped array; return by how much the process grew at most."""
    import numpy as np

    from neurofm_shards import create_shards_from_arrays

    array = np.load(source, mmap_mode="r")
    create_shards_from_arrays(Path(folder, "warm-up"), {"x": array[:4]}, compression=compression)
    before, most, done = resident(), [0, 0], threading.Event()
    anonymous = private()

    def watch() -> None:
        while not done.wait(0.01):
            most[0], most[1] = max(most[0], resident() - before), max(most[1], private() - anonymous)

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    try:
        create_shards_from_arrays(Path(folder, "out"), {"x": array}, 200, compression=compression)
    finally:
        done.set()
        thread.join()
    return {"seconds": time.perf_counter() - start, "memory": most[0], "private": most[1], "bytes": array.nbytes}


def states(folder: str) -> dict[str, float]:
    """Save the states of loaders that stand at parts of an epoch."""
    from neurofm_shards import create_webdataset_dataloader

    for part in ("0.5", "0.99"):
        loader = create_webdataset_dataloader(folder, num_workers=0, shuffle="global")
        state = loader.state_dict()
        state["position"] = state["sample_offset"] = int(float(part) * len(loader)) * 32
        loader.load_state_dict(state)
        next(iter(loader))
        Path(folder, "..", f"state-{part}.json").write_text(json.dumps(state))
    return {"bytes": float(len(json.dumps(state)))}


def binning() -> dict[str, float]:
    """Bin ten million spikes of 100 units into 10 ms."""
    import numpy as np

    from neurofm_shards.recordings.counting import Train, count_trains
    from neurofm_shards.recordings.ticks import to_ticks

    spikes, units, seconds, width = 10_000_000, 100, 3600, 10_000_000
    rng = np.random.default_rng(0)
    ticks, owners = to_ticks(np.sort(rng.random(spikes) * seconds)), rng.integers(0, units, spikes).astype(np.int32)
    cells, bins = ticks // width * units + owners, seconds * 100
    windows = (np.zeros(1, np.int64), (np.zeros(1, np.int64), np.array([bins * width])), np.array([bins]))
    start = time.perf_counter()
    expected = np.bincount(cells, minlength=bins * units)
    between = time.perf_counter()
    found = count_trains([Train(ticks, owners, None)], *windows, width, np.array([units]), ("uint8", "uint8"))
    end = time.perf_counter()
    assert np.array_equal(found, expected)
    return {"seconds": end - between, "limit": between - start}


def conversion(folder: str, megabytes: str, rounds: str) -> dict[str, Any]:
    """Convert a made-up recording, in turns with the limit; the first conversion is compared with the recording."""
    import warnings

    from made_recording import check, converted, make, measured

    warnings.simplefilter("ignore")  # pynwb's about files without a subject
    place = Path(folder)
    place.mkdir(exist_ok=True)
    recording, out = place / f"made-{megabytes}.nwb", place / "out"
    make(recording, float(megabytes))
    converted(recording, out)
    samples = check(recording, out)
    return {"samples": samples, **measured(recording, place, 0.0, int(rounds))}


PROBES: dict[str, Callable[..., dict[str, Any]]] = {
    probe.__name__: probe
    for probe in (imports, first_batch, collection, planning, big_input, states, binning, conversion)
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PROBES)
    parser.add_argument("arguments", nargs="*")
    asked = parser.parse_args()
    json.dump(PROBES[asked.name](*asked.arguments), sys.stdout)
