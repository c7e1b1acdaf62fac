"""Hugging Face's Trainer, two ranks: ``shard=False``, because the Trainer divides the samples."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from accelerate import debug_launcher
from transformers import Trainer, TrainingArguments

from neurofm_shards import WebDatasetLoader, collate_webdataset, create_shards_from_arrays


class Model(torch.nn.Module):
    """A linear layer that gives the loss, as the Trainer expects, and notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 1)
        self.numbers: list[int] = []

    def forward(self, x: torch.Tensor, y: torch.Tensor, number: torch.Tensor) -> dict[str, Any]:
        """Return the loss of a batch."""
        self.numbers += number.tolist()
        return {"loss": torch.nn.functional.mse_loss(self.linear(x), y)}


def train(folder: str) -> None:
    """Train one epoch."""
    arguments = TrainingArguments(
        output_dir=f"{folder}/run",
        per_device_train_batch_size=8,
        num_train_epochs=1,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
    model = Model()
    samples = WebDatasetLoader(folder, shard=False, metadata=False)
    trainer = Trainer(model, arguments, train_dataset=samples, data_collator=collate_webdataset)
    trainer.train()
    print(f"rank {arguments.process_index}, divided by the Trainer: {model.numbers}", flush=True)
    trainer.accelerator.end_training()


def main() -> None:
    """Make shards and start two ranks."""
    with tempfile.TemporaryDirectory() as folder:
        x = np.random.default_rng(0).normal(size=(96, 16)).astype(np.float32)
        create_shards_from_arrays(folder, {"x": x, "y": x[:, :1] * 2, "number": np.arange(96)}, shard_size=25)
        debug_launcher(train, (folder,), num_processes=2)


if __name__ == "__main__":
    main()
