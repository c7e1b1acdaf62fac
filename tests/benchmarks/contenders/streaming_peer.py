"""MosaicML Streaming."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from serve import Contender, serve
from source import Source
from torch.utils.data import DataLoader
from torchvision_stub import install_where_broken

install_where_broken()

from streaming import MDSWriter, StreamingDataset  # noqa: E402
from streaming.base.util import clean_stale_shared_memory  # noqa: E402


class StreamingPeer(Contender):
    """MDS shards of raw arrays."""

    def __init__(self) -> None:
        self._loader: Any = ()

    def write(self, source: Source, folder: Path, *, shards: int = 4, **_: Any) -> None:
        """Write samples with MDSWriter, without hashes."""
        first = source.sample(0)
        columns = {name: f"ndarray:{value.dtype}:{','.join(map(str, value.shape))}" for name, value in first.items()}
        limit = source.nbytes // shards + source.nbytes // 100
        with MDSWriter(out=str(folder), columns=columns, size_limit=limit) as writer:
            for sample in source.samples():
                writer.write(sample)

    def open(self, folder: Path, *, shuffle: bool = True, batch_size: int = 32, num_workers: int = 0) -> None:
        """Make data set and loader."""
        torch.set_num_threads(1)
        clean_stale_shared_memory()
        data = StreamingDataset(local=str(folder), shuffle=shuffle, batch_size=batch_size, num_canonical_nodes=1)
        self._loader = DataLoader(
            data, batch_size=batch_size, num_workers=num_workers, persistent_workers=num_workers > 0
        )

    def batches(self) -> Iterable[Mapping[str, Any]]:
        """Iterate over the loader."""
        return self._loader  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let the loader go, and its workers with it."""
        self._loader = ()


if __name__ == "__main__":
    serve(StreamingPeer())
