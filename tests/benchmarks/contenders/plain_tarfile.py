"""What Python's own library does: ``tarfile`` and ``numpy.save``."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serve import Contender, serve
from source import Source


class PlainTarfile(Contender):
    """Members one after the other; shuffled batches by way of a list of members."""

    def __init__(self) -> None:
        self._shards: list[tarfile.TarFile] = []
        self._members: list[tuple[tarfile.TarFile, list[tarfile.TarInfo]]] = []
        self._options: dict[str, Any] = {}

    def write(self, source: Source, folder: Path, *, shards: int = 4, **_: Any) -> None:
        """Write ``.npy`` members."""
        folder.mkdir(parents=True)
        for shard, rows in enumerate(np.array_split(np.arange(source.count), shards)):
            with tarfile.open(folder / f"shard_{shard:06d}.tar", "w") as tar:
                for row in rows.tolist():
                    for name, value in source.sample(row).items():
                        data = io.BytesIO()
                        np.save(data, value)
                        member = tarfile.TarInfo(f"sample_{row + 1:09d}.{name}.npy")
                        member.size = data.tell()
                        data.seek(0)
                        tar.addfile(member, data)

    def open(self, folder: Path, **options: Any) -> None:
        """List the members of every shard."""
        torch.set_num_threads(1)
        self._options = options
        self._shards = [tarfile.open(path) for path in sorted(folder.glob("shard_*.tar"))]  # noqa: SIM115  (kept open)
        for tar in self._shards:
            samples: dict[str, list[tarfile.TarInfo]] = {}
            for member in tar.getmembers():
                samples.setdefault(member.name.partition(".")[0], []).append(member)
            self._members += [(tar, members) for members in samples.values()]

    def batches(self) -> Iterable[Mapping[str, Any]]:
        """Load, stack."""
        order = list(self._members)
        if self._options.get("shuffle", True):
            random.shuffle(order)
        size = self._options.get("batch_size", 32)
        for start in range(0, len(order), size):
            samples = [self._sample(tar, members) for tar, members in order[start : start + size]]
            yield {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}

    def close(self) -> None:
        """Close the shards."""
        for tar in self._shards:
            tar.close()
        self._shards, self._members = [], []

    def _sample(self, tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> dict[str, np.ndarray]:
        found = {}
        for member in members:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name.split(".")[1]] = np.load(io.BytesIO(file.read()))
        return found


if __name__ == "__main__":
    serve(PlainTarfile())
