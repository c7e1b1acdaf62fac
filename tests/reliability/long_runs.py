"""Runs loaders for many epochs and prints what they hold: memory, file descriptors, shared memory.

python tests/reliability/long_runs.py --epochs 200
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from neurofm_shards import create_shards_from_arrays, create_webdataset_dataloader

#: Small batches that are only copied are not handed to workers.
USED = {"batch_transform": dict}

#: Name, compression, arguments of the loader.
LOADERS = (
    ("no workers", "none", {"num_workers": 0}),
    ("4 threads", "none", {"num_workers": 4, **USED}),
    ("2 processes", "none", {"num_workers": 2, "worker_type": "process", "persistent_workers": True, **USED}),
    ("2 new ones an epoch", "none", {"num_workers": 2, "worker_type": "process", **USED}),
    ("gz, 2 threads", "gz", {"num_workers": 2}),
    ("verify, 2 threads", "none", {"num_workers": 2, "verify": True, **USED}),
)


def held():
    """Memory of this process in MB, its own and shared; its descriptors, maps and threads."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {
        "rss_mb": round(int(fields["RssAnon"].split()[0]) / 1024, 1),
        "shared_mb": round(int(fields["RssShmem"].split()[0]) / 1024, 1),
        "fds": len(list(Path("/proc/self/fd").iterdir())),
        "maps": len(Path("/proc/self/maps").read_text().splitlines()),
        "threads": int(fields["Threads"]),
    }


def data_set(folder, compression, samples):
    rng = np.random.default_rng(0)
    arrays = {
        "spikes": rng.poisson(1, (samples, 50, 32)).astype("u1"),
        "behavior": rng.standard_normal((samples, 50, 2)).astype("f4"),
    }
    create_shards_from_arrays(folder, arrays, shard_size=250, compression=compression)


def run(folder, epochs, samples, **arguments):
    """Yield (epoch, held) at a few epochs of one loader that lives through all of them."""
    loader = create_webdataset_dataloader(str(folder), batch_size=50, **arguments)
    marks = {e for e in (2, 5, 10, 20, 50, 100, 150, 200, 500, 1000) if e <= epochs} | {epochs}
    for epoch in range(1, epochs + 1):
        seen = 0
        for i, batch in enumerate(loader):
            seen += len(batch["spikes"])
            if epoch % 7 == 0 and i == 3:
                break  # as one does who stops early
        else:
            assert seen == samples
        if epoch in marks:
            yield epoch, held()


def one(name, epochs, samples):
    """Run one loader in this process and print its line at every mark."""
    _, compression, arguments = next(entry for entry in LOADERS if entry[0] == name)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        data_set(Path(folder) / "data", compression, samples)
        start = time.monotonic()
        for epoch, found in run(Path(folder) / "data", epochs, samples, **arguments):
            cells = " ".join(f"{found[key]:>8}" for key in found)
            print(f"{name:<20} {epoch:>6} {cells} {time.monotonic() - start:>7.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--only", nargs="*", default=[name for name, _, _ in LOADERS])
    args = parser.parse_args()
    print(f"{'loader':<20} {'epoch':>6} {'MB':>8} {'shared':>8} {'fds':>8} {'maps':>8} {'threads':>8}")
    sys.stdout.flush()
    context = multiprocessing.get_context("spawn")
    for name in args.only:
        process = context.Process(target=one, args=(name, args.epochs, args.samples))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
