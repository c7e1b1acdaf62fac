"""Lightning, two ranks that it starts itself: the loader is made before, and finds its rank when it is iterated."""

from __future__ import annotations

import tempfile
from pathlib import Path

import lightning
import numpy as np
import torch

from neurofm_shards import create_shards_from_arrays, create_webdataset_dataloader

FOLDER = Path(tempfile.gettempdir()) / "neurofm-shards-lightning-example"


class Model(lightning.LightningModule):
    """A linear layer that notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 1)
        self.numbers: list[int] = []

    def training_step(self, batch: dict, _: int) -> torch.Tensor:
        """Return the loss of a batch."""
        self.numbers += batch["number"].tolist()
        return torch.nn.functional.mse_loss(self.linear(batch["x"]), batch["y"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main() -> None:
    """Make shards, and train on two ranks; Lightning runs this script once more for the second."""
    x = np.random.default_rng(0).normal(size=(96, 16)).astype(np.float32)
    if not FOLDER.exists():
        create_shards_from_arrays(FOLDER, {"x": x, "y": x[:, :1] * 2, "number": np.arange(96)}, shard_size=25)
    loader = create_webdataset_dataloader(FOLDER, batch_size=8, num_workers=1)
    model = Model()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, loader)
    print(f"rank {trainer.global_rank}, divided by the loader: {model.numbers}", flush=True)


if __name__ == "__main__":
    main()
