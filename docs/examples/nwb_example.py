"""An NWB file becomes windows of counts, LFP and behaviour, split by time so that nothing leaks."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from neurofm_shards import ShardedDatasetInfo, convert_inputs, create_webdataset_dataloader


def main(paths: list[str]) -> None:
    """Convert the files named on the command line, or a made-up session."""
    with tempfile.TemporaryDirectory() as folder:
        if not paths:
            from neurofm_shards_nwb.demo import write_demo_session

            paths = [str(Path(folder, "session.nwb"))]
            write_demo_session(paths[0], seconds=60.0)
        shards = Path(folder, "shards")
        convert_inputs(
            paths,
            shards,
            {"windows": {"overlap": 0.0, "split": {"by": "time", "fractions": {"train": 0.8, "test": 0.2}}}},
        )
        ShardedDatasetInfo(shards).print_summary()
        loader = create_webdataset_dataloader(shards, batch_size=8, num_workers=0, split="train")
        batch = next(iter(loader))
        for name, value in batch.items():
            print(f"{name:20} {tuple(value.shape) if hasattr(value, 'shape') else len(value)}")


if __name__ == "__main__":
    main(sys.argv[1:])
