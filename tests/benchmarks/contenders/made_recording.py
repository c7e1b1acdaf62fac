"""A made-up recording of any size, what is needed of it, and the limit: reading just that and writing the output."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import h5py
import numpy as np

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
