"""A made-up recording of any size, and its conversion against the limit: the one definition of both.

The limit reads the datasets that a conversion needs with h5py, in blocks, and writes as many bytes as the shards have
with ``tofile``. The conversion is one call of ``convert_inputs`` in a process that has converted before. Neither syncs.
Opening with pynwb alone is shown apart: no program that opens files with pynwb can be faster.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np

LIMIT, OURS, PLAIN, PYNWB = "h5py + tofile", "neurofm_shards", "neurofm_shards, reader=h5py", "opening with pynwb"
#: At most this many times the limit, at every size.
BAR = 2.0
#: Megabytes of the recordings that are measured.
SIZES = (10, 100, 600)
UNITS, CHANNELS = 100, 32
SPIKES_HZ, LFP_HZ, POSITION_HZ = 10.0, 1250.0, 100.0
_SECOND_BYTES = CHANNELS * LFP_HZ * 2 + UNITS * SPIKES_HZ * 8 + POSITION_HZ * 3 * 8
_READ_BYTES = 8 << 20
#: What a conversion cannot do without: ids, values and times, and no schemas or descriptions.
NEEDED = (
    "units/id",
    "units/spike_times",
    "units/spike_times_index",
    "acquisition/lfp/data",
    "processing/behavior/Position/hand/data",
    "processing/behavior/Position/hand/timestamps",
)


def make(path: Path, megabytes: float, seed: int = 0) -> None:
    """Write spikes, LFP (int16, contiguous) and a position with time stamps with pynwb."""
    import pynwb
    from pynwb.behavior import Position, SpatialSeries
    from pynwb.ecephys import ElectricalSeries

    rng = np.random.default_rng(seed)
    seconds = max(10, round(megabytes * 1e6 / _SECOND_BYTES))
    file = pynwb.NWBFile("SYNTHETIC", f"made-{seed}", datetime(2026, 1, 1, tzinfo=timezone.utc), session_id="made")
    device = file.create_device("probe")
    group = file.create_electrode_group("shank", "made", "CA1", device)
    for _ in range(CHANNELS):
        file.add_electrode(group=group, location="CA1")
    electrodes = file.create_electrode_table_region(list(range(CHANNELS)), "all")
    for _ in range(UNITS):
        file.add_unit(spike_times=np.sort(rng.random(rng.poisson(SPIKES_HZ * seconds)) * seconds))
    counts = rng.integers(-2000, 2000, (round(seconds * LFP_HZ), CHANNELS), dtype=np.int16)
    file.add_acquisition(ElectricalSeries("lfp", counts, electrodes, rate=LFP_HZ, starting_time=0.0, conversion=2e-7))
    stamps = np.arange(round(seconds * POSITION_HZ)) / POSITION_HZ + rng.uniform(0, 1e-3, round(seconds * POSITION_HZ))
    steps = rng.standard_normal((len(stamps), 2)).cumsum(axis=0)
    hand = SpatialSeries("hand", steps, "the table's corner", timestamps=stamps)
    file.create_processing_module("behavior", "made").add(Position(spatial_series=hand))
    with pynwb.NWBHDF5IO(str(path), mode="w") as io:
        io.write(file)


def read_and_write(path: Path, size: int, blob: Path) -> None:
    """Read what is needed with h5py, in blocks, and write as many bytes as a conversion does with ``tofile``."""
    with h5py.File(path) as file:
        for name in NEEDED:
            data = file[name]
            rows = max(1, _READ_BYTES // max(1, data.dtype.itemsize * int(np.prod(data.shape[1:]))))
            for start in range(0, len(data), rows):
                data[start : start + rows]
    np.ones(size, np.uint8).tofile(blob)


def open_with_pynwb(path: Path) -> None:
    """Let pynwb open and construct the file, and do nothing with it."""
    import pynwb

    with pynwb.NWBHDF5IO(str(path), mode="r", load_namespaces=True) as io:
        io.read()


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def converted(recording: Path, out: Path, overlap: float = 0.0, reader: str = "auto") -> float:
    """Convert into an empty folder; return the seconds."""
    from neurofm_shards import convert_inputs

    shutil.rmtree(out, ignore_errors=True)
    config = {"windows": {"overlap": overlap}, "source": {"reader": reader}, "durable": False}
    return seconds(lambda: convert_inputs([recording], out, config))


def measured(recording: Path, folder: Path, overlap: float, rounds: int) -> dict[str, Any]:
    """Measure one recording in turns; return the seconds of every turn but the first, and the bytes in and out."""
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
    shutil.rmtree(out)
    blob.unlink()
    return {"read": recording.stat().st_size, "written": size, "seconds": runs}


def ratio(found: Mapping[str, Any], who: str = OURS) -> float:
    """Return the time of something measured against the limit."""
    return float(median(found["seconds"][who]) / median(found["seconds"][LIMIT]))


def output_bytes(out: Path) -> int:
    """Return the bytes of the shards in a folder."""
    return sum(shard.stat().st_size for shard in out.glob("shard_*.tar"))


def check(path: Path, out: Path) -> int:
    """Compare every spike count and LFP value of a conversion with overlap 0 with the recording; return the samples."""
    from neurofm_shards import ShardDataset

    with h5py.File(path) as file:
        times, ends = file["units/spike_times"][:], file["units/spike_times_index"][:].astype(np.int64)
        stored = file["acquisition/lfp/data"][:] * file["acquisition/lfp/data"].attrs["conversion"]
    owners = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    ticks = np.rint(times * 1e9).astype(np.int64)
    samples = ShardDataset(out)
    for i in range(len(samples)):
        found: Mapping[str, Any] = samples[i]
        start = round(found["metadata"]["window_start_s"])
        inside = (ticks >= start * 10**9) & (ticks < (start + 1) * 10**9)
        cells = (ticks[inside] - start * 10**9) // 10**7 * UNITS + owners[inside]
        assert np.array_equal(found["spikes"].ravel(), np.bincount(cells, minlength=100 * UNITS))
        rows = stored[start * int(LFP_HZ) : (start + 1) * int(LFP_HZ)]
        assert np.allclose(found["lfp"], rows, rtol=1e-6, atol=0)
    return len(samples)
