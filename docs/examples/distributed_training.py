"""DistributedDataParallel: every rank gets the same number of batches, so nothing hangs.

Run it with ``torchrun --nproc-per-node 2 docs/examples/distributed_training.py``; alone, it starts two ranks itself.
"""

from __future__ import annotations

import os
import socket
import tempfile

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from neurofm_shards import create_shards_from_arrays, create_webdataset_dataloader


def train(rank: int, world_size: int, folder: str) -> None:
    """Train on one rank; 333 samples do not divide by 2 x 32, so the last batches are padded evenly."""
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    loader = create_webdataset_dataloader(folder, batch_size=32, num_workers=1)
    model = DistributedDataParallel(torch.nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        for batch in loader:
            loss = torch.nn.functional.mse_loss(model(batch["x"]), batch["y"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f"rank {rank} of {world_size}: {len(loader)} batches an epoch, loss {loss.item():.3f}")
    dist.destroy_process_group()


def main() -> None:
    """Make shards and start two ranks, unless torchrun did."""
    if "RANK" in os.environ:
        train(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), os.environ["SHARDS"])
        return
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        x = np.random.default_rng(0).normal(size=(333, 16)).astype(np.float32)
        create_shards_from_arrays(folder, {"x": x, "y": x[:, :1] * 2}, shard_size=50)
        free.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
        free.close()
        torch.multiprocessing.spawn(train, args=(2, folder), nprocs=2)


if __name__ == "__main__":
    main()
