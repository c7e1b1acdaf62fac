"""Converts many small inputs and prints what that holds: memory and file descriptors.

python tests/reliability/many_inputs.py --inputs 2000
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.events import ShardCommitted


class Watching:
    """Notes memory and descriptors after every shard."""

    def __init__(self):
        self.seen = []

    def __call__(self, event):
        if not isinstance(event, ShardCommitted):
            return
        status = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
        self.seen.append((int(status["RssAnon"].split()[0]) / 1024, len(list(Path("/proc/self/fd").iterdir()))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "in"
        folder.mkdir()
        for i in range(args.inputs):
            np.savez(folder / f"s{i:05d}.npz", spikes=np.full((5, 20, 16), i % 200, "u1"), side=np.zeros((5, 2), "f4"))
        watching = Watching()
        settings = {"shard_size": 50, "durable": False}
        result = convert_inputs(folder, Path(scratch) / "out", settings, workers=args.workers, observer=watching)
        assert result["total_samples"] == 5 * args.inputs
    for at in (0, len(watching.seen) // 4, len(watching.seen) // 2, len(watching.seen) - 1):
        memory, descriptors = watching.seen[at]
        print(f"after shard {at + 1:>5} of {len(watching.seen)}: {memory:.1f} MB, {descriptors} descriptors")


if __name__ == "__main__":
    main()
