"""What the recipes share: recordings stored once, a loop that trains, and the comparison with a baseline on later time.

Each recipe takes files, or makes up sessions where none are named. ``--windows`` and ``--convert`` are JSON, and change
the window options and those of the conversion for files that need it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from neurofm_shards import convert_inputs, create_webdataset_dataloader

Batch = dict[str, Any]
SPLIT = {"by": "time", "fractions": {"train": 0.8, "test": 0.2}}


@dataclass(frozen=True)
class Recorded:
    """Recordings that are stored once, and the windows that a recipe cuts out of them."""

    folder: Path
    windows: dict[str, Any]
    moved: dict[str, Any]
    epochs: int

    def training(self, **options: Any) -> Any:
        """Return shuffled batches of the first 80 % of the time, whose windows lie elsewhere in every epoch."""
        return self.loader("train", shuffle="global", windows={**self.windows, **self.moved}, **options)

    def test(self, **options: Any) -> Any:
        """Return batches of the rest, in order."""
        return self.loader("test", shuffle=False, windows=self.windows, **options)

    def loader(self, split: str, **options: Any) -> Any:
        """Return batches of one split."""
        return create_webdataset_dataloader(self.folder, num_workers=0, pin_memory=False, split=split, **options)


@contextmanager
def recorded(
    words: Sequence[str], windows: dict[str, Any], moved: dict[str, Any], made: Sequence[dict[str, Any]]
) -> Iterator[Recorded]:
    """Store the files that a command line names, or one made-up session for each entry of ``made``.

    ``moved`` says how windows move from epoch to epoch of the training.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*")
    parser.add_argument("--windows", type=json.loads, default={})
    parser.add_argument("--convert", type=json.loads, default={})
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args(words)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        files = given.files or sessions(Path(name), made)
        convert_inputs(files, Path(name, "recorded"), {"layout": "recordings", **given.convert})
        yield Recorded(Path(name, "recorded"), {**windows, "split": SPLIT, **given.windows}, moved, given.epochs)


def sessions(folder: Path, made: Sequence[dict[str, Any]]) -> list[str]:
    """Write made-up sessions of reaching."""
    from neurofm_shards_nwb.demo import write_demo_session

    files = [str(folder / f"session{number}.nwb") for number in range(len(made))]
    for number, (file, options) in enumerate(zip(files, made, strict=True)):
        write_demo_session(file, seconds=120.0, seed=number + 1, **options)
    return files


def train(model: nn.Module, batches: Iterable[Batch], loss: Callable[[Batch], torch.Tensor], epochs: int) -> None:
    """Fit a model, and print the mean loss of each epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(epochs):
        losses = []
        for batch in batches:
            now = loss(batch)
            optimizer.zero_grad()
            now.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(now.item())
        print(f"epoch {epoch}: loss {np.mean(losses):.4f}")


@torch.no_grad()
def compare(batches: Iterable[Batch], losses: Callable[[Batch], tuple[torch.Tensor, torch.Tensor]], name: str) -> None:
    """Print the mean losses of a model and of a baseline on held-out time, and stop where the baseline is as good."""
    found, other = np.mean([[loss.item() for loss in losses(batch)] for batch in batches], axis=0)
    print(f"held-out time: loss {found:.4f}, of {name} {other:.4f}")
    if not found < other:
        sys.exit(f"the model is no better than {name}")
