"""LitData."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from litdata import StreamingDataLoader, StreamingDataset, optimize
from serve import Contender, serve
from source import Source


def tensors(source: Source, row: int) -> dict[str, torch.Tensor]:
    """Return a sample as LitData likes it best."""
    return {name: torch.from_numpy(value) for name, value in source.sample(row).items()}


class LitDataPeer(Contender):
    """Its optimised chunks."""

    def __init__(self) -> None:
        self._loader: Any = ()

    def write(self, source: Source, folder: Path, *, shards: int = 4, **_: Any) -> None:
        """Optimise in one worker; more only cost here."""
        optimize(
            fn=partial(tensors, source),
            inputs=list(range(source.count)),
            output_dir=str(folder),
            chunk_size=-(-source.count // shards),
            num_workers=1,
            start_method="fork",
            verbose=False,
        )

    def open(self, folder: Path, *, shuffle: bool = True, batch_size: int = 32, num_workers: int = 0) -> None:
        """Make data set and loader."""
        torch.set_num_threads(1)
        data = StreamingDataset(str(folder), shuffle=shuffle)
        self._loader = StreamingDataLoader(
            data, batch_size=batch_size, num_workers=num_workers, persistent_workers=num_workers > 0
        )

    def batches(self) -> Iterable[Mapping[str, Any]]:
        """Iterate over the loader."""
        return self._loader  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let the loader go, and its workers with it."""
        self._loader = ()


if __name__ == "__main__":
    serve(LitDataPeer())
