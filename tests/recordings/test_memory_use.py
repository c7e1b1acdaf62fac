"""Peak memory does not grow with the recording: a sparse file stands for a long one, read in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, resource, sys
import numpy as np
from neurofm_shards.recordings import InMemoryRecording, RegularStream, SeriesOptions, WindowOptions, windowed

path, gigabytes, rate, every = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]) or None, int(sys.argv[4])
channels = 384
rows = int(gigabytes * 1e9) // (2 * channels)
with open(path, "wb") as file:
    file.write(np.arange(channels, dtype="<i2").tobytes())
    file.truncate(rows * 2 * channels)
descriptor = os.open(path, os.O_RDONLY)

def read(start, stop):
    raw = os.pread(descriptor, (stop - start) * 2 * channels, start * 2 * channels)
    return np.frombuffer(raw, dtype="<i2").reshape(stop - start, channels)

lf = RegularStream(
    path="lf", modality="lfp", shape=(rows, channels), dtype="<i2", read=read, rate=2500.0, t0=0.0, scale=1e-5, unit="V"
)
samples = windowed(InMemoryRecording([lf]), WindowOptions(lfp=SeriesOptions(rate=rate), overlap=0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count, seen = samples.plan().num_samples, 0
for first in range(0, count, 16 * every):
    seen += len(samples.read(first, min(count, first + 16)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, seen)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "every"), [("0", "4"), ("1000", "40")])
def test_twenty_gigabytes_are_cut_in_less_than_one_of_memory(tmp_path, rate, every):
    if rate != "0":
        pytest.importorskip("scipy")
    path = tmp_path / "sparse.bin"
    command = [sys.executable, "-c", SCRIPT, str(path), "20", rate, every]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    growth, seen = done.stdout.split()
    assert float(growth) < 500, "MiB"
    assert int(seen) > 200
