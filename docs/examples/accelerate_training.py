"""Accelerate, two ranks: the samples are divided once, by the loader or by Accelerate.

Run it with ``accelerate launch docs/examples/accelerate_training.py FOLDER``; alone, it starts two ranks itself.
"""

from __future__ import annotations

import os
import tempfile

import numpy as np
import torch
from accelerate import Accelerator, debug_launcher
from torch.utils.data import DataLoader

from neurofm_shards import (
    WebDatasetLoader,
    collate_webdataset,
    create_shards_from_arrays,
    create_webdataset_dataloader,
)


def loaders(folder: str) -> dict[str, DataLoader]:
    """Return both ways: a loader that Accelerate leaves alone, and samples that it divides itself."""
    # All samples on every rank, of which Accelerate takes its part; it passes on tensors only, so without metadata.
    samples = WebDatasetLoader(folder, shard=False, metadata=False)
    return {
        "divided by the loader": create_webdataset_dataloader(folder, batch_size=16, num_workers=0),
        "divided by Accelerate": DataLoader(samples, batch_size=16, collate_fn=collate_webdataset),
    }


def train(folder: str) -> None:
    """Train one epoch each way, and count the samples that this rank was given."""
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(16, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for name, loader in loaders(folder).items():
        numbers = []
        for batch in accelerator.prepare(loader):
            loss = torch.nn.functional.mse_loss(model(batch["x"]), batch["y"])
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            numbers += batch["number"].tolist()
        print(f"rank {accelerator.process_index}, {name}: {numbers}", flush=True)
    accelerator.end_training()


def main() -> None:
    """Make shards and start two ranks, unless accelerate launch did."""
    with tempfile.TemporaryDirectory() as folder:
        x = np.random.default_rng(0).normal(size=(100, 16)).astype(np.float32)
        create_shards_from_arrays(folder, {"x": x, "y": x[:, :1] * 2, "number": np.arange(100)}, shard_size=25)
        if "LOCAL_RANK" in os.environ:
            train(folder)
        else:
            debug_launcher(train, (folder,), num_processes=2)


if __name__ == "__main__":
    main()
