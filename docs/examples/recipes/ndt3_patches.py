"""NDT3's patches out of recordings that are stored once, and a small model that predicts the next bin's counts.

The counts of 32 units in one bin are a token, which knows its time (the bin) and its space (the patch): a window is one
flat sequence of them, time by time, and sessions with more units have more tokens per bin. Units that a last patch
lacks are 0 and counted out. A token sees those of its own and earlier bins, and predicts its patch in the next one.

Compared with ``SpikingDataset.tokenize_spike_arrays`` of joel99/ndt3 (commit 472466a), which gives the same patches,
times, positions and channel counts. The baseline is the mean rate of each unit.

python ndt3_patches.py head_direction.nwb three_units.nwb
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from training import Batch, compare, recorded, train

from neurofm_shards import ShardDataset

PATCH = 32
BINS = 25
WINDOWS = {"modalities": ["spikes"], "bin_size_ms": 20.0, "sequence_length": BINS, "stride": BINS}


def tokens(sample: dict[str, Any]) -> dict[str, Any]:
    """Return the patches of a window, one after the other: those of a bin together, bins in their order."""
    counts = sample["spikes"]
    bins, units = counts.shape
    space = -(-units // PATCH)
    lacking = space * PATCH - units
    channels = torch.full((space,), PATCH)
    channels[-1:] -= lacking
    return {
        "patch": functional.pad(counts, (0, lacking)).reshape(bins * space, PATCH),
        "patch_time": torch.arange(bins).repeat_interleave(space),
        "patch_space": torch.arange(space).repeat(bins),
        "patch_channels": channels.repeat(bins),
        "patch_units": functional.pad(sample["unit_ids"].long() + 1, (0, lacking))
        .reshape(space, PATCH)
        .repeat(bins, 1),
    }


def known(batch: Batch) -> torch.Tensor:
    """Return which counts are those of units, of shape (windows, tokens, 32): none in tokens that only pad."""
    return torch.arange(PATCH) < batch["patch_channels"][..., None]


def following(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each token's patch one bin later, and whether there is one."""
    space = batch["patch_space"].amax(dim=1, keepdim=True) + 1
    later = torch.arange(batch["patch"].shape[1]) + space
    inside = later < BINS * space
    later = later.where(inside, 0)[..., None].expand(-1, -1, PATCH)
    return batch["patch"].gather(1, later), known(batch) & inside[..., None]


class Patches(nn.Module):
    """A transformer over flat tokens; what is its own in a session are the base rates and the places of its units."""

    def __init__(self, rates: torch.Tensor, width: int = 32) -> None:
        super().__init__()
        self.base = nn.Embedding.from_pretrained(rates.log()[:, None], freeze=False)
        self.unit = nn.Embedding(len(rates), width)
        nn.init.normal_(self.unit.weight, std=0.1)
        self.read, self.time, self.space = nn.Linear(PATCH, width), nn.Embedding(BINS, width), nn.Embedding(8, width)
        self.mix = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.write = nn.Linear(width, width)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return log rates of each token's patch in the next bin, of shape (windows, tokens, 32)."""
        units = self.unit(batch["patch_units"])
        spikes = (batch["patch"][..., None] * units).sum(dim=-2)
        place = self.time(batch["patch_time"]) + self.space(batch["patch_space"])
        time = batch["patch_time"].where(batch["patch_channels"] > 0, BINS)  # nothing sees padding but padding
        hidden = (time[:, None, :] > time[:, :, None]).repeat_interleave(4, dim=0)
        mixed = self.mix(self.read(batch["patch"]) + spikes + place, src_mask=hidden)
        return self.base(batch["patch_units"])[..., 0] + (self.write(mixed)[..., None, :] * units).sum(dim=-1)


def rates(batches: Any, units: int) -> torch.Tensor:
    """Return the mean counts per bin of each unit, with a first one for those that are lacking."""
    counts, bins = torch.full((units + 1,), 0.5), torch.ones(units + 1)
    for batch in batches:
        places = batch["patch_units"].where(known(batch), 0).flatten()
        counts.index_add_(0, places, batch["patch"].where(known(batch), 0.0).flatten())
        bins.index_add_(0, places, torch.ones(len(places)))
    return counts / bins


def main(words: list[str]) -> None:
    """Predict counts on later time."""
    with recorded(words, WINDOWS, {"jitter": True}, made=[{"units": 70}, {"units": 40}]) as stored:
        units = len(ShardDataset(stored.folder, windows=stored.windows).table("units"))
        options = {"batch_size": 32, "ragged": "pad", "transform": tokens}
        batches = stored.training(**options)
        mean = rates(batches, units)
        model = Patches(mean)

        def losses(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            counts, there = following(batch)
            base = mean.log()[batch["patch_units"]]
            loss = functional.poisson_nll_loss
            return loss(model(batch)[there], counts[there]), loss(base[there], counts[there])

        train(model, batches, lambda batch: losses(batch)[0], stored.epochs)
        compare(stored.test(**options), losses, "mean rates")


if __name__ == "__main__":
    main(sys.argv[1:])
