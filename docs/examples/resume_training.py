"""A run that is stopped anywhere goes on with the next sample, on another number of workers if need be."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from neurofm_shards import create_shards_from_arrays, create_webdataset_dataloader


def main() -> None:
    """Stop after 7 batches, save, resume, and see every sample exactly once."""
    with tempfile.TemporaryDirectory() as folder:
        create_shards_from_arrays(folder, {"number": np.arange(1000)[:, None]}, shard_size=150)
        seen: list[int] = []

        loader = create_webdataset_dataloader(folder, batch_size=32, num_workers=2, seed=3)
        for step, batch in enumerate(loader, start=1):
            seen += batch["number"][:, 0].tolist()
            if step == 7:
                break
        checkpoint = Path(folder, "state.json")
        checkpoint.write_text(json.dumps(loader.state_dict()))

        loader = create_webdataset_dataloader(folder, batch_size=32, num_workers=0, seed=3)
        loader.load_state_dict(json.loads(checkpoint.read_text()))
        for batch in loader:
            seen += batch["number"][:, 0].tolist()

        assert sorted(seen) == list(range(1000))
        print(f"{len(seen)} samples, each exactly once, in spite of the interruption")


if __name__ == "__main__":
    main()
