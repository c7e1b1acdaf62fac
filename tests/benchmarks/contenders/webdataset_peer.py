"""webdataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import webdataset as wds
from serve import Contender, serve
from source import Source


class WebDatasetPeer(Contender):
    """Its writer, its pipeline, its loader."""

    def __init__(self) -> None:
        self._loader: Any = ()

    def write(self, source: Source, folder: Path, *, shards: int = 4, extension: str = "npy", **_: Any) -> None:
        """Write samples with ShardWriter."""
        folder.mkdir(parents=True)
        size = -(-source.count // shards)
        with wds.ShardWriter(str(folder / "shard_%06d.tar"), maxcount=size, maxsize=1e12, verbose=0) as writer:
            for row, sample in enumerate(source.samples()):
                named = {f"{name}.{extension}": value for name, value in sample.items()}
                writer.write({"__key__": f"sample_{row + 1:09d}", **named})

    def open(self, folder: Path, *, shuffle: bool = True, batch_size: int = 32, num_workers: int = 0) -> None:
        """Make the pipeline: decode, shuffle within 1,000, batch."""
        torch.set_num_threads(1)
        urls = sorted(map(str, folder.glob("shard_*.tar")))
        data = wds.WebDataset(urls, shardshuffle=len(urls) if shuffle else False, empty_check=False)
        if shuffle:
            data = data.shuffle(1000)
        data = data.decode().batched(batch_size, partial=True)
        self._loader = wds.WebLoader(data, batch_size=None, num_workers=num_workers, persistent_workers=num_workers > 0)

    def batches(self) -> Iterable[Mapping[str, Any]]:
        """Iterate; fields come without their extension."""
        for batch in self._loader:
            yield {name.partition(".")[0]: value for name, value in batch.items() if not name.startswith("__")}

    def close(self) -> None:
        """Let the loader go, and its workers with it."""
        self._loader = ()


if __name__ == "__main__":
    serve(WebDatasetPeer())
