"""Masked-count pre-training on several sessions that are stored once, in the manner of NDT (Ye and Pandarinath 2021).

A quarter of the bins of each window is hidden, and a model that shares its middle between sessions predicts the counts
in them. On later time it is compared with the mean rate of each unit. Batches hold windows of one session, so that no
padding over units is needed. Each epoch shifts the windows.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neurofm_shards import convert_inputs, create_webdataset_dataloader
from neurofm_shards.loading.batching import OneSession

WINDOWS = {
    "modalities": ["spikes"],
    "bin_size_ms": 50.0,
    "sequence_length": 20,
    "stride": 20,
    "jitter": True,
    "split": {"by": "time", "fractions": {"train": 0.8, "test": 0.2}},
}


class MaskedCounts(nn.Module):
    """Reads counts into a shared width per session, mixes over time, and gives log rates."""

    def __init__(self, units: dict[str, int], width: int = 32) -> None:
        super().__init__()
        self.number = {session: i for i, session in enumerate(units)}
        self.read = nn.ModuleList(nn.Linear(n + 1, width) for n in units.values())
        self.mix = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.place = nn.Parameter(0.02 * torch.randn(WINDOWS["sequence_length"], width))
        self.write = nn.ModuleList(nn.Linear(width, n) for n in units.values())

    def forward(self, counts: torch.Tensor, hidden: torch.Tensor, session: str) -> torch.Tensor:
        """Return log rates, shape (windows, bins, units)."""
        number = self.number[session]
        shown = torch.where(hidden[..., None], 0.0, counts)
        inputs = torch.cat([shown, hidden[..., None].float()], dim=-1)
        return self.write[number](self.mix(self.read[number](inputs) + self.place))


def loader(folder: Path, split: str) -> Any:
    """Return batches of one split, each of one session."""
    return create_webdataset_dataloader(
        folder, 16, 0, shuffle="global", windows=WINDOWS, split=split, batching=OneSession(), pin_memory=False
    )


def loss(log_rate: torch.Tensor, counts: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Return the Poisson loss of what was hidden."""
    return nn.functional.poisson_nll_loss(log_rate[hidden], counts[hidden])


def hide(counts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Choose a quarter of the bins."""
    return torch.rand(counts.shape[:2], generator=generator) < 0.25


def main(paths: list[str]) -> None:
    """Store the files named on the command line, or made-up sessions, and train on them."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        if not paths:
            from neurofm_shards_nwb.demo import write_demo_session

            paths = [str(Path(name, f"session{i}.nwb")) for i in range(2)]
            for i, path in enumerate(paths):
                write_demo_session(path, seconds=120.0, seed=i + 1)
        folder = Path(name, "recorded")
        convert_inputs(paths, folder, {"layout": "recordings", "session_template": "{stem}"})
        train, test = loader(folder, "train"), loader(folder, "test")
        sums: dict[str, torch.Tensor] = {}
        bins: dict[str, int] = {}
        for batch in train:
            session = batch["metadata"][0]["session_id"]
            sums[session] = sums.get(session, 0) + batch["spikes"].sum(dim=(0, 1))
            bins[session] = bins.get(session, 0) + batch["spikes"].shape[0] * batch["spikes"].shape[1]
        means = {session: (total + 0.5) / (bins[session] + 1) for session, total in sums.items()}
        model = MaskedCounts({session: len(mean) for session, mean in means.items()})
        with torch.no_grad():
            for session, mean in means.items():
                model.write[model.number[session]].bias.copy_(mean.log())
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for epoch in range(10):
            total = 0.0
            for batch in train:
                hidden, session = hide(batch["spikes"], generator), batch["metadata"][0]["session_id"]
                now = loss(model(batch["spikes"], hidden, session), batch["spikes"], hidden)
                optimizer.zero_grad()
                now.backward()
                optimizer.step()
                total += now.item()
            print(f"epoch {epoch}: loss {total / len(train):.4f}")
        found = baseline = 0.0
        with torch.no_grad():
            for batch in test:
                hidden, session = hide(batch["spikes"], generator), batch["metadata"][0]["session_id"]
                found += loss(model(batch["spikes"], hidden, session), batch["spikes"], hidden).item()
                rates = means[session].log().expand_as(batch["spikes"])
                baseline += loss(rates, batch["spikes"], hidden).item()
        print(f"held-out time: loss {found / len(test):.4f}, of mean rates {baseline / len(test):.4f}")
        if found >= baseline:
            sys.exit("the model is no better than mean rates")


if __name__ == "__main__":
    main(sys.argv[1:])
