"""A 20 GB recording is converted in less than 1 GB of memory: an NWB file of equal chunks, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import itertools, resource, sys, zlib
from datetime import datetime, timezone
from pathlib import Path
import h5py
import numpy as np
from pynwb import NWBHDF5IO, NWBFile
from pynwb.ecephys import ElectricalSeries
from neurofm_shards.convert.session import convert_inputs

folder, gigabytes = Path(sys.argv[1]), float(sys.argv[2])
channels, rate = 384, 2500.0
rows = int(gigabytes * 1e9) // (2 * channels)
nwbfile = NWBFile("SYNTHETIC: mostly one value", "large", datetime(2026, 1, 1, tzinfo=timezone.utc))
group = nwbfile.create_electrode_group("g", "d", "CA1", nwbfile.create_device(name="probe"))
for _ in range(channels):
    nwbfile.add_electrode(group=group, location="CA1")
region = nwbfile.create_electrode_table_region(list(range(channels)), "all")
data = np.zeros((1, channels), dtype=np.int16)
nwbfile.add_acquisition(ElectricalSeries(name="lfp", data=data, electrodes=region, rate=rate, conversion=1e-6))
with NWBHDF5IO(folder / "large.nwb", "w") as io:
    io.write(nwbfile)
with h5py.File(folder / "large.nwb", "r+") as file:
    attributes = dict(file["acquisition/lfp/data"].attrs)
    del file["acquisition/lfp/data"]
    stored = file["acquisition/lfp"].create_dataset(
        "data", shape=(rows, channels), dtype="<i2", chunks=(4114, 121), compression="gzip")
    stored.attrs.update(attributes)
    chunk = zlib.compress(np.full(stored.chunks, 3, dtype="<i2"))  # a chunk that was never written is an error
    for place in itertools.product(range(0, rows, 4114), range(0, channels, 121)):
        stored.id.write_direct_chunk(place, chunk)
    stored[:10_000] = np.arange(channels, dtype=np.int16)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
windows = {"lfp": {"rate": 250.0, "channels": ("0", "383")}, "overlap": 0.0}
done = convert_inputs([folder / "large.nwb"], folder / "out", {"windows": windows, "durable": False})
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak / 1024, (peak - before) / 1024, done["total_samples"])
"""


@pytest.mark.slow
def test_twenty_gigabytes_are_converted_in_less_than_one_of_memory(tmp_path):
    pytest.importorskip("scipy")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path), "20"]
    peak, _, samples = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert float(peak) < 1000, "MiB"
    assert int(samples) == int(20e9) // (2 * 384) // 2500
