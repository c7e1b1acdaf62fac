"""The limit: ``tofile`` and a memory map indexed by the rows of a batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serve import Contender, serve
from source import Source


class MemoryMap(Contender):
    """One ``.npy`` file per column."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._options: dict[str, Any] = {}
        self._rng = np.random.default_rng(0)

    def write(self, source: Source, folder: Path, *, durable: bool = False, **_: Any) -> None:
        """Write each array with ``tofile``."""
        folder.mkdir(parents=True)
        for name, data in source.columns.items():
            with (folder / f"{name}.raw").open("wb") as file:
                (data[0] if isinstance(data, tuple) else data).tofile(file)
                if durable:
                    os.fsync(file.fileno())

    def open(self, folder: Path, **options: Any) -> None:
        """Map the source's own files."""
        torch.set_num_threads(1)
        self._source, self._options = Source.load(folder), options

    def batches(self) -> Iterable[Mapping[str, Any]]:
        """Index the maps by rows: the same work as the program's, with nothing around it."""
        source, options = self._source, self._options
        assert source is not None
        rows = np.arange(source.count)[:: options.get("step", 1)]
        if options.get("shuffle", True):
            rows = self._rng.permutation(rows)
        names = options.get("columns") or source.names
        size = options.get("batch_size", 32)
        for start in range(0, len(rows), size):
            yield {name: self._batch(source.columns[name], rows[start : start + size]) for name in names}

    def _batch(self, data: Any, rows: np.ndarray) -> Any:
        if isinstance(data, tuple):
            values, offsets = data
            pieces = [values[offsets[row] : offsets[row + 1]] for row in rows.tolist()]
            ends = np.cumsum([0, *map(len, pieces)])
            return torch.from_numpy(np.concatenate(pieces)), torch.from_numpy(ends)
        found = data[rows]
        if self._options.get("cast"):
            found = found.astype(self._options["cast"])
        return torch.from_numpy(found * 2 if self._options.get("scaled") else found)


if __name__ == "__main__":
    serve(MemoryMap())
