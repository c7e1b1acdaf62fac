"""This program."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from serve import Contender, serve
from source import Source

from neurofm_shards import WebDatasetWriter, create_shards_from_arrays, create_webdataset_dataloader
from neurofm_shards.loading.dataloader import ShardDataLoader
from neurofm_shards.plugins.interfaces import Transform
from neurofm_shards.types import Block, Ragged, Sample


class Doubled(Transform):
    """One vectorised transform."""

    holds_gil: ClassVar[bool] = False

    def __call__(self, sample: Sample, metadata: dict[str, Any]) -> Sample:
        return {name: value * 2 for name, value in sample.items()}

    def apply_block(self, block: Block) -> Block:
        return dataclasses.replace(block, columns={name: data * 2 for name, data in block.columns.items()})


def python_work(sample: dict[str, Any]) -> dict[str, Any]:
    """Hold the GIL for about half a millisecond."""
    total = 0
    for number in range(8000):
        total ^= number * number
    return sample if total >= 0 else {}


class Ours(Contender):
    """Whole arrays by ``create_shards_from_arrays``, or samples in a loop by ``WebDatasetWriter``."""

    def __init__(self) -> None:
        self._loader: ShardDataLoader | None = None
        self._packed: list[str] = []

    def write(
        self, source: Source, folder: Path, *, shards: int = 4, loop: bool = False, half: bool = True, **options: Any
    ) -> None:
        """Write; ``loop`` calls ``write_sample`` for each sample, ``half`` gives each a number as metadata."""
        size = -(-source.count // shards)
        if loop:
            with WebDatasetWriter(folder, size, **options) as writer:
                for sample in source.samples():
                    writer.write_sample(sample)
            return
        metadata = {"half": np.arange(source.count) % 2} if half else None
        data = {name: Ragged(*data) if isinstance(data, tuple) else data for name, data in source.columns.items()}
        create_shards_from_arrays(folder, data, size, metadata=metadata, **options)

    def open(self, folder: Path, *, scaled: bool = False, python: bool = False, **options: Any) -> None:
        """Make the data loader; ``options`` are its own."""
        torch.set_num_threads(1)
        self._loader = create_webdataset_dataloader(
            folder,
            transforms=[Doubled()] if scaled else None,
            transform=python_work if python else None,
            **{"num_workers": 0, "persistent_workers": True, **options},
        )
        self._packed = [] if options.get("ragged") != "packed" else list(self._loader.dataset.columns)

    def batches(self) -> Iterable[Mapping[str, Any]]:
        """Iterate over the data loader."""
        assert self._loader is not None
        return map(self._unpacked, self._loader) if self._packed else self._loader

    def close(self) -> None:
        """End the workers."""
        if self._loader is not None:
            self._loader.close()
            self._loader = None

    def _unpacked(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: (batch[name], batch[f"{name}_offsets"]) for name in self._packed}


if __name__ == "__main__":
    serve(Ours())
