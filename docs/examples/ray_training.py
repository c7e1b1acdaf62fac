"""Ray Train, two ranks: the loader is made in the training function, and not given to ``prepare_data_loader``."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import ray
import ray.train.torch
import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from neurofm_shards import create_shards_from_arrays, create_webdataset_dataloader


def train(config: dict[str, Any]) -> None:
    """Train one epoch on one rank; Ray Train has initialised torch.distributed, which tells the loader its rank."""
    loader = create_webdataset_dataloader(config["folder"], batch_size=8, num_workers=0)
    model = ray.train.torch.prepare_model(torch.nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    numbers = []
    for batch in loader:
        loss = torch.nn.functional.mse_loss(model(batch["x"]), batch["y"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        numbers += batch["number"].tolist()
    rank = ray.train.get_context().get_world_rank()
    with open(f"{config['folder']}/rank {rank}", "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(f"rank {rank}, divided by the loader: {numbers}")


def main() -> None:
    """Make shards, and train on two ranks."""
    with tempfile.TemporaryDirectory() as folder:
        x = np.random.default_rng(0).normal(size=(96, 16)).astype(np.float32)
        create_shards_from_arrays(folder, {"x": x, "y": x[:, :1] * 2, "number": np.arange(96)}, shard_size=25)
        ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
        TorchTrainer(train, train_loop_config={"folder": folder}, scaling_config=ScalingConfig(num_workers=2)).fit()
        for rank in range(2):
            with open(f"{folder}/rank {rank}", encoding="utf-8") as file:  # noqa: PTH123
                print(file.read())
        ray.shutdown()


if __name__ == "__main__":
    main()
