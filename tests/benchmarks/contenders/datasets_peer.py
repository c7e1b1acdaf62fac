"""Hugging Face datasets: Arrow files with fixed shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List, Value, load_from_disk
from serve import Contender, serve
from source import Source
from torch.utils.data import DataLoader


class DatasetsPeer(Contender):
    """Rows are flat lists of a fixed length, which Arrow gives back as numpy arrays without a copy."""

    def __init__(self) -> None:
        self._data: Any = None
        self._loader: Any = None
        self._options: dict[str, Any] = {}
        self._epoch = 0
        self._shapes: dict[str, tuple[int, ...]] = {}

    def write(self, source: Source, folder: Path, *, shards: int = 4, **_: Any) -> None:
        """Write by way of a generator, as its documentation advises for data larger than memory."""
        first = source.sample(0)
        features = {name: List(Value(str(value.dtype)), length=value.size) for name, value in first.items()}

        def rows() -> Iterator[dict[str, np.ndarray]]:
            for sample in source.samples():
                yield {name: value.ravel() for name, value in sample.items()}

        data = Dataset.from_generator(rows, features=Features(features), cache_dir=f"{folder}-cache")
        data.save_to_disk(folder, num_shards=shards)
        np.savez(folder / "shapes.npz", **{name: np.array(value.shape) for name, value in first.items()})

    def open(self, folder: Path, *, shuffle: bool = True, batch_size: int = 32, num_workers: int = 0) -> None:
        """Open the Arrow files; worker processes are torch's."""
        torch.set_num_threads(1)
        self._options = {"shuffle": shuffle, "batch_size": batch_size}
        data = load_from_disk(folder)
        dtype = next(iter(data.features.values())).feature.dtype  # without it floats become float32
        kind, types = ("torch", torch) if num_workers else ("numpy", np)
        self._data = data.with_format(kind, dtype=getattr(types, dtype))
        self._shapes = {name: tuple(shape.tolist()) for name, shape in np.load(folder / "shapes.npz").items()}
        if num_workers:
            self._loader = DataLoader(
                self._data, batch_size, shuffle=shuffle, num_workers=num_workers, persistent_workers=True
            )

    def batches(self) -> Iterable[Mapping[str, Any]]:
        """Iterate."""
        self._epoch += 1
        for batch in self._loader or self._plain():
            yield {name: torch.as_tensor(value).reshape(-1, *self._shapes[name]) for name, value in batch.items()}

    def close(self) -> None:
        """Let the loader go, and its workers with it."""
        self._loader = self._data = None

    def _plain(self) -> Iterable[Mapping[str, Any]]:
        data = self._data.shuffle(seed=self._epoch) if self._options["shuffle"] else self._data
        return data.iter(batch_size=self._options["batch_size"])  # type: ignore[no-any-return]


if __name__ == "__main__":
    serve(DatasetsPeer())
