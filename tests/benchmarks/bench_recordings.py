"""Measure windows cut at load: beside the same windows stored, and beside torch_brain's loader where it is installed.

Each figure is the best of a few epochs. torch_brain reads the same spikes from an HDF5 file that its own library wrote,
with its ``RandomFixedWindowSampler`` and ``BinSpikes``, best of 0 and 2 workers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from neurofm_shards import convert_inputs, create_webdataset_dataloader, open_windows, register_source
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import Source
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.recordings.memory import InMemoryRecording, events, regular

WINDOWS = {"modalities": ["spikes"], "bin_size_ms": 10, "sequence_length": 100, "overlap": 0.0}
EPOCHS = 4


class Made(Source):
    """Opens ``.made`` files: JSON that says how many units, hertz, seconds, or channels of LFP."""

    def open(self, paths):
        """Make a session."""
        said = json.loads(Path(paths[0]).read_text())
        rng = np.random.default_rng(said["seed"])
        streams = []
        if said.get("units"):
            streams.append(events("units", {str(i): times for i, times in enumerate(spikes(said, rng))}))
        if said.get("channels"):
            shape = (int(said["seconds"] * 2500), said["channels"])
            zeros = said.get("zeros")
            values = np.zeros(shape, np.int16) if zeros else rng.integers(-2000, 2000, shape, dtype=np.int16)
            streams.append(regular("lfp", values, 2500.0, unit="V", scale=9.375e-6))
        return InMemoryRecording(streams, session_id=Path(paths[0]).stem, fingerprint=Path(paths[0]).stem)


def spikes(said, rng=None):
    """Return the times of each unit: a Poisson process."""
    rng = np.random.default_rng(said["seed"]) if rng is None else rng
    numbers = rng.poisson(said["hertz"] * said["seconds"], said["units"])
    return [np.sort(rng.uniform(0, said["seconds"], number)) for number in numbers]


def made(folder, name, **said):
    """Write a file that opens a made-up session."""
    path = folder / f"{name}.made"
    path.write_text(json.dumps({"seed": 0, **said}))
    return str(path)


def epoch(loader, count=lambda batch: len(batch["spikes"]), clock=time.perf_counter):
    """Return the samples per second of one epoch."""
    start, total = clock(), 0
    for batch in loader:
        total += count(batch)
    return total / (clock() - start)


def rate(loader, count):
    """Return the samples per second of the quickest epoch."""
    return max(epoch(loader, count) for _ in range(EPOCHS))


def ours(folder, workers, **options):
    """Return our loader of shuffled batches of 32."""
    return create_webdataset_dataloader(folder, 32, workers, "global", pin_memory=False, columns=["spikes"], **options)


def rates(loaders, **options):
    """Return the samples per second of the quickest epoch of each loader, epochs taking turns."""
    return np.max([[epoch(loader, **options) for loader in loaders] for _ in range(2 * EPOCHS)], axis=0).tolist()


def torch_brain_rate(folder, times, seconds):
    """Return torch_brain's rate on the same spikes; None where it is not installed."""
    if importlib.util.find_spec("torch_brain") is None:
        print("torch_brain is not installed (0.2.1 was measured): its figures are left out", file=sys.stderr)
        return None
    import h5py
    import torch
    from torch_brain.data import ArrayDict, Data, Interval, IrregularTimeSeries
    from torch_brain.datasets import Dataset
    from torch_brain.samplers import RandomFixedWindowSampler
    from torch_brain.transforms import BinSpikes

    flat, owner = np.concatenate(times), np.repeat(np.arange(len(times)), [len(t) for t in times])
    order = np.argsort(flat, kind="stable")
    domain = Interval(np.array([0.0]), np.array([float(seconds)]))
    data = Data(
        brainset=Data(id="made"),
        session=Data(id="one"),
        subject=Data(id="mouse"),
        spikes=IrregularTimeSeries(timestamps=flat[order], unit_index=owner[order], domain=domain),
        units=ArrayDict(id=np.array([str(i) for i in range(len(times))])),
        domain=domain,
    )
    with h5py.File(folder / "one.h5", "w") as file:
        data.to_hdf5(file)
    bins = BinSpikes(0.01)
    dataset = Dataset(
        str(folder),
        recording_ids=["one"],
        transform=lambda part: torch.from_numpy(bins(part).spikes_binned.binned_counts),
    )
    best = 0.0
    for workers in (0, 2):
        sampler = RandomFixedWindowSampler(sampling_intervals={"one": domain}, window_length=1.0)
        loader = torch.utils.data.DataLoader(dataset, 32, sampler=sampler, num_workers=workers)
        best = max(best, rate(loader, len))
    return best


def spiking(folder, name, source, times, seconds):
    """Compare shuffled windows of one session."""
    convert_inputs(source, folder / f"{name}-recorded", {"layout": "recordings"})
    convert_inputs(source, folder / f"{name}-windows", {"windows": WINDOWS})
    loaders = [ours(folder / f"{name}-recorded", workers, windows=WINDOWS) for workers in (0, 2)]
    loaders += [ours(folder / f"{name}-windows", workers) for workers in (0, 2)]
    speeds = rates(loaders)
    cut, stored = max(speeds[:2]), max(speeds[2:])
    found = {"cut": cut, "stored": stored, "cut/stored": cut / stored}
    alone, beside = rates(loaders[::2], clock=time.process_time)
    found["cut/stored, processor time, no workers"] = alone / beside
    peer_folder = folder / f"{name}-peer"
    peer_folder.mkdir()
    peer = torch_brain_rate(peer_folder, times, seconds)
    if peer is not None:
        found |= {"torch_brain": peer, "cut/torch_brain": cut / peer}
    return found


def lfp(folder):
    """Compare random windows of 384 channels with a slice of a memory map times the scale, in one thread."""
    source = made(folder, "lfp", channels=384, seconds=120)
    convert_inputs(source, folder / "lfp-recorded", {"layout": "recordings"})
    options = {"modalities": ["lfp"], "sequence_length": 100, "overlap": 0.0}
    raw = np.memmap(folder / "raw", np.int16, "w+", shape=(120 * 2500, 384))
    with open_windows(folder / "lfp-recorded", options) as windows:
        raw[:] = windows._collection.array(0, "lfp_values")
        rows = np.random.default_rng(1).integers(0, windows.num_samples, 64)
        scale = np.float32(9.375e-6)
        seconds = {"cut": [], "slice": []}
        for _ in range(EPOCHS):
            start = time.perf_counter()
            for i in range(0, 64, 8):
                found = windows.gather(rows[i : i + 8], ["lfp"])["lfp"]
            seconds["cut"].append(time.perf_counter() - start)
            start = time.perf_counter()
            for i in range(0, 64, 8):
                expected = np.stack([raw[row * 2500 : (row + 1) * 2500] * scale for row in rows[i : i + 8].tolist()])
            seconds["slice"].append(time.perf_counter() - start)
        np.testing.assert_array_equal(found, expected)
    return {"slice/cut seconds": min(seconds["slice"]) / min(seconds["cut"])}


def many(folder, number):
    """Compare a global shuffle of many sessions with one of a single session, and time opening them."""
    inputs = folder / "many"
    inputs.mkdir()
    files = [made(inputs, f"s{i:04d}", units=50, hertz=5, seconds=60, seed=i) for i in range(number)]
    convert_inputs(files, folder / "many-recorded", {"layout": "recordings"})
    convert_inputs(
        made(folder, "alone", units=50, hertz=5, seconds=600), folder / "alone-recorded", {"layout": "recordings"}
    )
    found = {"sessions": number}
    for which in ("first", "next"):
        start, used = time.perf_counter(), time.process_time()
        open_windows(folder / "many-recorded", WINDOWS).close()
        found[f"{which} opening s"] = time.perf_counter() - start
        found[f"{which} opening, processor s"] = time.process_time() - used
    loaders = [ours(folder / name, 0, windows=WINDOWS) for name in ("many-recorded", "alone-recorded")]
    for loader in loaders:
        epoch(loader)  # opens each session
    together, alone = rates(loaders, clock=time.process_time)
    return {**found, "many/one": together / alone}


def sparse(folder, gibibytes):
    """Store recordings of 1 GiB of LFP and 50 units each, whose zeros take no room on disk."""
    inputs = folder / "sparse"
    inputs.mkdir()
    seconds = (1 << 30) / (384 * 2 * 2500)
    for i in range(gibibytes):
        source = made(inputs, f"s{i:04d}", units=50, hertz=5, channels=384, seconds=seconds, zeros=True, seed=i)
        mode = "append" if i else "new"
        convert_inputs(source, folder / "sparse-recorded", {"layout": "recordings", "shard_bytes": 4 << 30}, mode=mode)
        for path in (folder / "sparse-recorded").glob("*.tar"):
            if path.stat().st_blocks * 512 > path.stat().st_size / 2:
                subprocess.run(["fallocate", "-d", os.fspath(path)], check=True)
    return folder / "sparse-recorded"


def memory(folder, batches=100):
    """Return the most memory that a process held which read shuffled windows of spikes and LFP."""
    options = {"modalities": ["spikes", "lfp"], "overlap": 0.0}
    loader = create_webdataset_dataloader(
        folder, 32, 0, "global", pin_memory=False, columns=["spikes", "lfp"], windows=options
    )
    for _ in zip(range(batches), loader, strict=False):
        pass
    return {"peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def memory_apart(folder, gibibytes):
    """Measure the same in a process of its own."""
    place = sparse(folder, gibibytes)
    said = subprocess.run([sys.executable, __file__, "--memory-of", place], check=True, capture_output=True)
    return {"GiB": gibibytes, **json.loads(said.stdout)}


def sizes(folder, source):
    """Compare bytes on disk at an overlap of 0.9."""
    options = {"modalities": ["spikes", "lfp"], "missing": "mask", "sequence_length": 100, "overlap": 0.9}
    convert_inputs(source, folder / "small-recorded", {"layout": "recordings"})
    convert_inputs(source, folder / "small-windows", {"windows": options})
    total = [sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
             for name in ("small-recorded", "small-windows")]  # fmt: skip
    return {"recorded/windows at overlap 0.9": total[0] / total[1]}


def main() -> int:
    """Measure, and print or write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=1000, help="sessions of the large data set")
    parser.add_argument("--gigabytes", type=int, default=0, help="measure memory on so many GiB (sparse, on Linux)")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--nwb", type=Path, help="a real recording of spikes, A2929_head_direction.nwb say")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    asked = parser.parse_args()
    if asked.memory_of is not None:
        sys.stdout.write(json.dumps(memory(asked.memory_of)))
        return 0
    register_source(SourceEntry(name="made", summary="sessions made here", factory=Made, suffixes=(".made",)))
    found = {"load before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="neurofm-shards-bench-") as name:
        folder = Path(name)
        said = {"units": 200, "hertz": 8, "seconds": 1200, "seed": 0}
        found["200 units at 8 Hz"] = spiking(folder, "large", made(folder, "large", **said), spikes(said), 1200)
        if asked.nwb is not None:
            convert_inputs(asked.nwb, folder / "real", {"layout": "recordings"})
            with ShardCollection.open(folder / "real") as real:
                ticks, owner = real.array(0, "units_ticks"), real.array(0, "units_owner")
                times = [ticks[owner == i] / 1e9 for i in range(int(owner.max()) + 1)]
            found[asked.nwb.stem] = spiking(folder, "nwb", str(asked.nwb), times, 1200)
        found["LFP"] = lfp(folder)
        found["bytes"] = sizes(folder, made(folder, "small", units=20, hertz=5, channels=16, seconds=60))
        found["many"] = many(folder, asked.sessions)
        if asked.gigabytes:
            found["memory"] = memory_apart(folder, asked.gigabytes)
    found["load after"] = os.getloadavg()[0]
    text = json.dumps(found, indent=1)
    sys.stdout.write(text + "\n")
    if asked.json:
        asked.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
