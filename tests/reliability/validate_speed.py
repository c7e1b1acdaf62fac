"""Compares the time of validating a data set with that of sha256sum over the same files.

python tests/reliability/validate_speed.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import numpy as np

from neurofm_shards import create_shards_from_arrays

VALIDATE = """
import resource, sys, time
from neurofm_shards.maintenance.validate import validate_dataset
start = time.perf_counter()
assert validate_dataset(sys.argv[1], 1).ok
used = resource.getrusage(resource.RUSAGE_SELF)
print(time.perf_counter() - start)
"""


def timed(command):
    """Return seconds of wall clock and of processor."""
    before, start = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = getrusage(RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    with tempfile.TemporaryDirectory() as scratch:
        for name, shape, dtype in (("spikes 100 x 96 uint8", (100, 96), "u1"), ("features 16 float32", (16,), "f4")):
            folder = Path(scratch) / name.split()[0]
            samples = 20_000
            data = np.random.default_rng(0).integers(0, 9, (samples, *shape)).astype(dtype)
            create_shards_from_arrays(folder, {"x": data}, shard_size=2000)
            shards = sorted(str(path) for path in folder.glob("*.tar"))
            size = sum(Path(path).stat().st_size for path in shards)
            sha = [timed(["sha256sum", *shards]) for _ in range(5)]
            nothing = [timed([sys.executable, "-c", VALIDATE.partition("start")[0]]) for _ in range(5)]
            ours = [timed([sys.executable, "-c", VALIDATE, str(folder)]) for _ in range(5)]
            for i, what in enumerate(("wall clock", "processor")):
                best = min(t[i] for t in sha)
                net = max(min(t[i] for t in ours) - min(t[i] for t in nothing), 1e-3)
                print(
                    f"{name}, {size / 1e6:.0f} MB, {what}: sha256sum {size / best / 1e6:.0f} MB/s, "
                    f"validate (one thread) {size / net / 1e6:.0f} MB/s, ratio {best / net:.2f}"
                )


if __name__ == "__main__":
    main()
