"""POYO's tokens out of recordings that are stored once, and a small decoder of behaviour.

Each window becomes spike tokens (unit, kind, time) behind a start and an end token of every unit, a grid of latent
tokens, and targets: the samples of one behaviour series at its own rate, with times and weights. A circular series
(heading) is decoded as cosine and sine.

Compared with ``POYO.tokenize`` of torch_brain 0.2.1 (github.com/neuro-galaxy/torch_brain): a test cuts the same windows
out of the same file with both, and finds the same tokens and targets. The baseline is the mean of the targets.

python poyo_tokens.py head_direction.nwb \\
    --windows '{"behavior": [{"path": "CompassDirection/ry", "at": "samples"}], "epochs": ["wake"]}'
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from training import Batch, compare, recorded, train

from neurofm_shards import ShardDataset

SECONDS, STEP, LATENTS = 1.0, 0.125, 8
START, END = 1, 2  # kinds of tokens; 0 is a spike
WINDOWS = {
    "modalities": ["spikes", "behavior"],
    "spikes": "events",
    "behavior": [{"path": "hand_velocity", "at": "samples"}],
    "bin_size_ms": 50.0,
    "sequence_length": 20,
}


@dataclass(frozen=True)
class Tokens:
    """Makes the tokens of a window; times count from its start."""

    circular: frozenset[int]

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        units, spikes = sample["unit_ids"].long(), sample["spike_units"].long()
        name = next(column for column in sample if column.endswith("_values")).removesuffix("_values")
        target = self.targets(sample[f"{name}_values"], sample[f"{name}_features"])
        return {
            "input_unit": torch.cat([units.repeat_interleave(2), spikes]),
            "input_kind": torch.cat([torch.tensor([START, END]).repeat(len(units)), torch.zeros_like(spikes)]),
            "input_time": torch.cat([torch.tensor([0.0, SECONDS]).repeat(len(units)), sample["spike_times"]]),
            "latent_index": torch.arange(LATENTS).repeat(round(SECONDS / STEP)),
            "latent_time": (torch.arange(0, SECONDS, STEP) + STEP / 2).repeat_interleave(LATENTS),
            "target_time": sample[f"{name}_times"],
            "target": target.nan_to_num(),
            "target_weight": target.isfinite().all(dim=1).float(),
        }

    def targets(self, values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Return values with columns that are circular as cosine and sine."""
        turns = [int(feature) in self.circular for feature in features]
        columns = zip(values.T, turns, strict=True)
        return torch.stack(
            [part for value, turn in columns for part in ([value.cos(), value.sin()] if turn else [value])], dim=1
        )


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

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return predictions at the targets' times."""
        inputs = self.unit(batch["input_unit"]) + self.kind(batch["input_kind"]) + self.when(batch["input_time"])
        latents = self.latent(batch["latent_index"]) + self.when(batch["latent_time"])
        latents = latents + self.read(latents, inputs, inputs, key_padding_mask=~batch["input_time_mask"])[0]
        latents = latents + self.mix(latents)
        return self.out(self.write(self.when(batch["target_time"]), latents, latents)[0])


def main(words: list[str]) -> None:
    """Decode behaviour on later time."""
    with recorded(words, WINDOWS, {"random": True}, made=[{}]) as stored:
        table = ShardDataset(stored.folder, windows=stored.windows).table
        circular = frozenset(i for i, feature in enumerate(table("sample_features")) if feature["kind"] == "circular")
        options = {"batch_size": 32, "ragged": "pad", "transform": Tokens(circular)}
        batches = stored.training(**options)
        seen = [(batch["target"], batch["target_weight"][..., None]) for batch in batches]
        weight = sum(weights.sum() for _, weights in seen)
        mean = sum((weights * target).sum(dim=(0, 1)) for target, weights in seen) / weight
        scale = (sum((weights * (target - mean) ** 2).sum(dim=(0, 1)) for target, weights in seen) / weight).sqrt()

        def losses(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            truth = (batch["target"] - mean) / scale
            weights = batch["target_weight"][..., None].expand_as(truth)
            errors = [(weights * (found - truth) ** 2).sum() / weights.sum() for found in (model(batch), 0.0)]
            return errors[0], errors[1]

        model = Decoder(len(table("units")), len(mean))
        train(model, batches, lambda batch: losses(batch)[0], stored.epochs)
        compare(stored.test(**options), losses, "the mean of the targets")


if __name__ == "__main__":
    main(sys.argv[1:])
