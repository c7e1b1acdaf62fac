"""Arrays become shards, shards train a model: the whole path in one file."""

from __future__ import annotations

import tempfile

import numpy as np
import torch

from neurofm_shards import ShardedDatasetInfo, create_shards_from_arrays, create_webdataset_dataloader


def make_shards(folder: str) -> None:
    """Write 500 windows of counts and of the behaviour that they encode."""
    rng = np.random.default_rng(0)
    behavior = rng.normal(size=(500, 100, 2)).astype(np.float32)
    tuning = rng.normal(size=(2, 48))
    spikes = rng.poisson(np.exp(0.5 * behavior @ tuning - 1)).astype(np.float32)
    create_shards_from_arrays(folder, {"spikes": spikes, "behavior": behavior}, shard_size=100)


def train(folder: str, epochs: int = 3) -> float:
    """Train a linear decoder and return the last loss."""
    loader = create_webdataset_dataloader(folder, batch_size=32, num_workers=2)
    model = torch.nn.Linear(48, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    loss = torch.tensor(float("nan"))
    for epoch in range(epochs):
        for batch in loader:
            loss = torch.nn.functional.mse_loss(model(batch["spikes"]), batch["behavior"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    return loss.item()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        make_shards(folder)
        ShardedDatasetInfo(folder).print_summary()
        train(folder)
