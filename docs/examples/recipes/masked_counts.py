"""Masked-count pre-training on many sessions that are stored once, as NDT does it (Ye and Pandarinath 2021).

A fifth of the bins of each window is hidden, and a model that shares its middle between sessions predicts the counts
in them. Batches hold windows of one session, so that no padding over units is needed.

Compared with ``Masker`` of snel-repo/neural-data-transformers (commit 98dd85a) in its default mode: it hides a fifth
of the time steps of all units, shows zeros there, and takes the Poisson loss of what was hidden alone; so does this.
The baseline is the mean rate of each unit.

python masked_counts.py day1.nwb day2.nwb day3.nwb
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from training import Batch, compare, recorded, train

from neurofm_shards.loading.batching import OneSession

BINS = 20
WINDOWS = {"modalities": ["spikes"], "bin_size_ms": 50.0, "sequence_length": BINS, "stride": BINS}


class MaskedCounts(nn.Module):
    """Reads counts into a shared width per session, mixes over time, and gives log rates."""

    def __init__(self, rates: dict[str, torch.Tensor], width: int = 32) -> None:
        super().__init__()
        self.number = {session: i for i, session in enumerate(rates)}
        self.read = nn.ModuleList(nn.Linear(len(rate) + 1, width) for rate in rates.values())
        self.place = nn.Parameter(0.02 * torch.randn(BINS, width))
        self.mix = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.write = nn.ModuleList(nn.Linear(width, len(rate)) for rate in rates.values())
        for layer, rate in zip(self.write, rates.values(), strict=True):
            nn.init.zeros_(layer.weight)
            layer.bias.data.copy_(rate.log())

    def forward(self, batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
        """Return log rates, of shape (windows, bins, units)."""
        number = self.number[session_of(batch)]
        shown = batch["spikes"].masked_fill(hidden[..., None], 0.0)
        inputs = torch.cat([shown, hidden[..., None].float()], dim=-1)
        return self.write[number](self.mix(self.read[number](inputs) + self.place))


def session_of(batch: Batch) -> str:
    """Return the one session of a batch."""
    return batch["metadata"][0]["session_id"]


def hide(batch: Batch) -> torch.Tensor:
    """Choose a fifth of the bins, of shape (windows, bins)."""
    return torch.rand(batch["spikes"].shape[:2]) < 0.2


def mean_rates(batches: Any) -> dict[str, torch.Tensor]:
    """Return the mean counts per bin of each session's units."""
    counts: dict[str, torch.Tensor] = {}
    bins: dict[str, int] = {}
    for batch in batches:
        session, spikes = session_of(batch), batch["spikes"].flatten(0, 1)
        counts[session] = counts.get(session, 0.5) + spikes.sum(dim=0)
        bins[session] = bins.get(session, 1) + len(spikes)
    return {session: counts[session] / bins[session] for session in counts}


def main(words: list[str]) -> None:
    """Predict hidden counts on later time."""
    with recorded(words, WINDOWS, {"jitter": True}, made=[{}, {"units": 30}]) as stored:
        options = {"batch_size": 16, "batching": OneSession(), "ragged": "pad"}
        batches = stored.training(**options)
        mean = mean_rates(batches)
        model = MaskedCounts(mean)

        def losses(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            hidden, counts = hide(batch), batch["spikes"]
            base = mean[session_of(batch)].log().expand_as(counts)
            loss = nn.functional.poisson_nll_loss
            return loss(model(batch, hidden)[hidden], counts[hidden]), loss(base[hidden], counts[hidden])

        train(model, batches, lambda batch: losses(batch)[0], stored.epochs)
        compare(stored.test(**options), losses, "mean rates")


if __name__ == "__main__":
    main(sys.argv[1:])
