"""POYO-style tokens out of recordings that are stored once, and a small decoder of them that is tested on later time.

Each window becomes spike tokens (unit, time) after a start and an end token of every unit, a grid of latent tokens, and
targets with times and weights. Start, end and latent tokens are compared with those of torch_brain (0.1) where that is
installed. No data set class is needed: tokens are a function of a sample.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from neurofm_shards import convert_inputs, create_webdataset_dataloader

SECONDS, STEP, LATENTS = 1.0, 0.125, 8
START, END = 1, 2  # kinds of tokens; 0 is a spike
WINDOWS = {
    "modalities": ["spikes", "behavior"],
    "spikes": "events",
    "behavior": [{"path": "hand_velocity"}],
    "bin_size_ms": 50.0,
    "sequence_length": 20,
    "stride": 10,
    "jitter": True,
    "split": {"by": "time", "fractions": {"train": 0.8, "test": 0.2}},
}


def tokens(sample: dict[str, Any]) -> dict[str, Any]:
    """Return the tokens of a window; times count from its start."""
    units = len(sample["unit_ids"])
    both = torch.arange(units).repeat_interleave(2)
    bins = len(sample["behavior"])
    known = sample["behavior_valid"].all(dim=1)
    return {
        "input_unit": torch.cat([both, sample["spike_units"].long() - sample["unit_ids"][0].long()]),
        "input_kind": torch.cat(
            [torch.tensor([START, END]).repeat(units), torch.zeros(len(sample["spike_units"])).long()]
        ),
        "input_time": torch.cat([torch.tensor([0.0, SECONDS]).repeat(units), sample["spike_times"]]),
        "latent_index": torch.arange(LATENTS).repeat(round(SECONDS / STEP)),
        "latent_time": (torch.arange(0, SECONDS, STEP) + STEP / 2).repeat_interleave(LATENTS),
        "target_time": (torch.arange(bins) + 0.5) * SECONDS / bins,
        "target": torch.nan_to_num(sample["behavior"]),
        "target_weight": known.float(),
        "metadata": sample["metadata"],
    }


def compare(sample: dict[str, Any], units: int) -> None:
    """Compare tokens with those of torch_brain, where it is installed."""
    if importlib.util.find_spec("torch_brain") is None:
        print("torch_brain is not installed: tokens are not compared")
        return
    from torch_brain.utils.tokenizers import create_linspace_latent_tokens, create_start_end_unit_tokens

    kinds, unit, time = create_start_end_unit_tokens(np.arange(units), 0.0, SECONDS)
    np.testing.assert_array_equal(sample["input_kind"][: 2 * units], kinds)
    np.testing.assert_array_equal(sample["input_unit"][: 2 * units], unit)
    np.testing.assert_array_equal(sample["input_time"][: 2 * units], time)
    index, time = create_linspace_latent_tokens(0.0, SECONDS, STEP, LATENTS)
    np.testing.assert_array_equal(sample["latent_index"], index)
    np.testing.assert_allclose(sample["latent_time"], time)
    print("tokens are those of torch_brain")


class Decoder(nn.Module):
    """Cross-attention from latents to spikes, then from targets to latents."""

    def __init__(self, units: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.unit, self.kind = nn.Embedding(units, width), nn.Embedding(3, width)
        self.latent, self.time = nn.Embedding(LATENTS, width), nn.Linear(16, width)
        self.read = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.write = nn.MultiheadAttention(width, 4, batch_first=True)
        self.out = nn.Linear(width, outputs)
        self.register_buffer("waves", 2 * np.pi * 2 ** torch.linspace(0, 4, 8))

    def when(self, times: torch.Tensor) -> torch.Tensor:
        """Embed times as waves."""
        angle = times[..., None] * self.waves
        return self.time(torch.cat([angle.sin(), angle.cos()], dim=-1))

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return predictions at the targets' times."""
        padding = ~batch["input_time_mask"]
        inputs = self.unit(batch["input_unit"]) + self.kind(batch["input_kind"]) + self.when(batch["input_time"])
        latents = self.latent(batch["latent_index"]) + self.when(batch["latent_time"])
        latents = latents + self.read(latents, inputs, inputs, key_padding_mask=padding)[0]
        latents = latents + self.mix(latents)
        return self.out(self.write(self.when(batch["target_time"]), latents, latents)[0])


def loader(folder: Path, split: str, **options: Any) -> Any:
    """Return batches of tokens of one split."""
    return create_webdataset_dataloader(
        folder, 32, 0, windows=WINDOWS, split=split, transform=tokens, ragged="pad", pin_memory=False, **options
    )


def error(predicted: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
    """Return the mean squared error of targets that are known."""
    weight = batch["target_weight"][..., None].expand_as(predicted)
    return (weight * (predicted - batch["target"]) ** 2).sum() / weight.sum()


def main(paths: list[str]) -> None:
    """Store the files named on the command line, or a made-up session, and train on them."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        if not paths:
            from neurofm_shards_nwb.demo import write_demo_session

            paths = [str(Path(name, "session.nwb"))]
            write_demo_session(paths[0], seconds=120.0, seed=1)
        folder = Path(name, "recorded")
        convert_inputs(paths, folder, {"layout": "recordings"})
        train, test = loader(folder, "train", shuffle="global"), loader(folder, "test", shuffle=False)
        first = next(iter(test))
        units = int(first["input_unit"].max()) + 1
        length = int(first["input_time_mask"][0].sum())
        compare(
            {key: value[0][:length] if key.startswith("input") else value[0] for key, value in first.items()}, units
        )
        mean = torch.stack([batch["target"].mean(dim=(0, 1)) for batch in train]).mean(dim=0)
        model = Decoder(units, len(mean))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        spread = torch.stack([error(mean.expand_as(batch["target"]), batch) for batch in train]).mean()
        for epoch in range(10):
            losses = []
            for batch in train:
                loss = error(model(batch) * spread.sqrt() + mean, batch) / spread
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            print(f"epoch {epoch}: loss {np.mean(losses):.3f}")
        with torch.no_grad():
            found = np.mean([error(model(batch) * spread.sqrt() + mean, batch).item() for batch in test])
            baseline = np.mean([error(mean.expand_as(batch["target"]), batch).item() for batch in test])
        print(f"held-out time: error {found:.2f}, of the mean {baseline:.2f}")
        if found >= baseline:
            sys.exit("the decoder is no better than the mean")


if __name__ == "__main__":
    main(sys.argv[1:])
