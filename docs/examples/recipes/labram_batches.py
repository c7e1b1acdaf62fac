"""LaBraM's patches and batches out of recordings that are stored once, and a small model of hidden patches.

Signals at 200 Hz become patches of one second of one channel. Every batch holds windows of one session, so of one set
of channels, and says which channels these are; half of its patches are hidden, and the model predicts their spectra
from the others.

Compared with LaBraM (935963004/LaBraM, commit c431221): ``train_one_epoch`` cuts batches of one list of channels into
patches of 200 samples of 100 uV, (windows, channels, seconds, 200), and hides half of them by ``random_masking``. Its
tokenizer's codes are trained to give the spectra of patches; here the log power of bands is predicted itself. The
baseline is the mean of each channel.

python labram_batches.py eog.npz --convert '{"source": {"kind": "npz", "time_axis": 1, "rate": "sf", "channels": "chan",
    "modality": {"data": "lfp"}, "units": {"data": "uV"}}}' --windows '{"lfp": {"rate": 200}}'
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from training import Batch, compare, recorded, train

from neurofm_shards import ShardDataset
from neurofm_shards.loading.batching import OneSession

RATE, SECONDS = 200, 4
WINDOWS = {
    "modalities": ["lfp"],
    "lfp": {"rate": RATE, "units": "uV"},
    "bin_size_ms": 100.0,
    "sequence_length": 10 * SECONDS,
    "stride": 10,
}


def patches(sample: dict[str, Any]) -> dict[str, Any]:
    """Return the patches of a window, of shape (channels, seconds, 200), in units of 100 uV, and its channels."""
    signal = sample["lfp"].T / 100
    return {"patches": signal.reshape(len(signal), SECONDS, RATE), "channels": sample["lfp_channels"].long()}


def hide(batch: Batch) -> torch.Tensor:
    """Choose half of the patches of each window, of shape (windows, channels, seconds)."""
    shape = batch["patches"].shape[:3]
    order = torch.rand(shape).flatten(1).argsort(dim=1).argsort(dim=1)
    return (order >= order.shape[1] // 2).reshape(shape)


def spectra(batch: Batch) -> torch.Tensor:
    """Return the log power of each patch in bands of 5 Hz, up to 50 Hz, of shape (windows, channels, seconds, 10)."""
    centred = batch["patches"] - batch["patches"].mean(dim=-1, keepdim=True)
    power = torch.fft.rfft(centred * torch.hann_window(RATE)).abs()[..., 1:51].square()
    return (power.unflatten(-1, (10, 5)).mean(dim=-1) + 1e-6).log()


class Patches(nn.Module):
    """Convolutions over a patch's samples, and a transformer over the patches of a window."""

    def __init__(self, mean: torch.Tensor, width: int = 32) -> None:
        super().__init__()
        self.base = nn.Embedding.from_pretrained(mean, freeze=False)
        self.channel, self.time = nn.Embedding(len(mean), width), nn.Embedding(SECONDS, width)
        for embedding in (self.channel, self.time):
            nn.init.normal_(embedding.weight, std=0.02)
        self.hidden = nn.Parameter(torch.zeros(width))
        self.read = nn.Sequential(
            nn.Conv1d(1, 8, 15, stride=8, padding=7), nn.GELU(), nn.GroupNorm(4, 8), nn.Flatten(), nn.LazyLinear(width)
        )
        self.spectrum = nn.Linear(mean.shape[1], width)
        self.mix = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.write = nn.Linear(width, mean.shape[1])
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(self, batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
        """Return the log spectra of all patches, from those that are not hidden."""
        shape, base = batch["patches"].shape, self.base(batch["channels"])[:, :, None]
        seen = self.read(batch["patches"].reshape(-1, 1, RATE)).reshape(*shape[:3], -1)
        seen = seen + self.spectrum(spectra(batch) - base)
        place = self.channel(batch["channels"])[:, :, None] + self.time.weight
        tokens = self.hidden.where(hidden[..., None], seen) + place
        return base + self.write(self.mix(tokens.flatten(1, 2)).reshape(*shape[:3], -1))


def mean_spectra(batches: Any, channels: int) -> torch.Tensor:
    """Return the mean log spectrum of each channel."""
    total, count = 0.0, torch.zeros(channels)
    for batch in batches:
        found = spectra(batch).mean(dim=2).flatten(0, 1)
        places = batch["channels"].flatten()
        total = total + torch.zeros(channels, found.shape[1]).index_add_(0, places, found)
        count.index_add_(0, places, torch.ones(len(places)))
    return total / count.clamp(min=1)[:, None]


def main(words: list[str]) -> None:
    """Predict spectra of hidden patches on later time."""
    with recorded(words, WINDOWS, {"jitter": True}, made=[{"channels": 8}, {"channels": 5}]) as stored:
        channels = len(ShardDataset(stored.folder, windows=stored.windows).table("channels"))
        options = {"batch_size": 16, "batching": OneSession(), "transform": patches}
        batches = stored.training(**options)
        mean = mean_spectra(batches, channels)
        model = Patches(mean)

        def losses(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            hidden, truth = hide(batch), spectra(batch)
            base = mean[batch["channels"]][:, :, None].expand_as(truth)
            error = nn.functional.mse_loss
            return error(model(batch, hidden)[hidden], truth[hidden]), error(base[hidden], truth[hidden])

        train(model, batches, lambda batch: losses(batch)[0], stored.epochs)
        compare(stored.test(**options), losses, "mean spectra")


if __name__ == "__main__":
    main(sys.argv[1:])
