"""Measure how fast batches reach an accelerator, against a plain copy from pinned memory.

Run it by hand on a machine with a device: ``python tests/benchmarks/feed_device.py``. Without one it says "no device".
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time

import numpy as np
import torch

from neurofm_shards import create_shards_from_arrays, create_webdataset_dataloader
from neurofm_shards.loading.device import has_accelerator

SAMPLES, SHAPE, BATCH = 4000, (100, 96), 256


def plain_copy(device: torch.device, seconds: float) -> float:
    """Return the GB/s of copying one pinned buffer over and over, on one stream."""
    source = torch.empty((BATCH, *SHAPE), dtype=torch.float32).pin_memory()
    target = torch.empty_like(source, device=device)
    target.copy_(source, non_blocking=True)
    torch.accelerator.synchronize(device)
    copies, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(10):
            target.copy_(source, non_blocking=True)
        torch.accelerator.synchronize(device)
        copies += 10
    return copies * source.nbytes / (time.perf_counter() - start) / 1e9


def feed(device: torch.device, folder: str, workers: int, seconds: float) -> float:
    """Return the GB/s at which the loader's batches arrive on the device."""
    loader = create_webdataset_dataloader(
        folder, BATCH, workers, "global", device=device, metadata=False, drop_last=True, persistent_workers=True
    )
    arrived, start = 0, 0.0
    for epoch in range(1_000_000):
        if epoch == 1:  # the first one finds files and starts workers
            arrived, start = 0, time.perf_counter()
        for batch in loader:
            arrived += batch["x"].nbytes
        torch.accelerator.synchronize(device)
        if epoch and time.perf_counter() - start > seconds:
            break
    loader.close()
    return arrived / (time.perf_counter() - start) / 1e9


def main() -> int:
    """Print one JSON line per setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure each setting")
    arguments = parser.parse_args()
    if not has_accelerator():
        print("no device")
        return 0
    device = torch.accelerator.current_accelerator()
    limit = plain_copy(device, arguments.seconds)
    print(json.dumps({"what": "plain pinned copy", "GB/s": round(limit, 2)}))
    with tempfile.TemporaryDirectory() as folder:
        data = np.random.default_rng(0).standard_normal((SAMPLES, *SHAPE)).astype(np.float32)
        create_shards_from_arrays(folder, {"x": data}, shard_size=1000)
        for workers in (0, 1, 2, 4):
            rate = feed(device, folder, workers, arguments.seconds)
            print(json.dumps({"workers": workers, "GB/s": round(rate, 2), "of the copy": round(rate / limit, 2)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
