"""Grain over ArrayRecord: records are the raw bytes of a sample, the fastest that the pair allows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np
import torch
from array_record.python.array_record_module import ArrayRecordWriter
from grain.sources import ArrayRecordDataSource
from serve import Contender, serve
from source import Source


class Decode:
    """From a record to a sample."""

    def __init__(self, layout: list[tuple[str, str, list[int]]]) -> None:
        self._layout = layout

    def __call__(self, record: bytes) -> dict[str, np.ndarray]:
        found, start = {}, 0
        for name, dtype, shape in self._layout:
            count = int(np.prod(shape))
            found[name] = np.frombuffer(record, dtype, count, start).reshape(shape)
            start += found[name].nbytes
        return found


class GrainPeer(Contender):
    """One file per shard, uncompressed, one record per group."""

    def __init__(self) -> None:
        self._data: Any = ()

    def write(self, source: Source, folder: Path, *, shards: int = 4, **_: Any) -> None:
        """Write raw bytes."""
        folder.mkdir(parents=True)
        layout = [(name, str(value.dtype), value.shape) for name, value in source.sample(0).items()]
        (folder / "layout.json").write_text(json.dumps(layout))
        for shard, rows in enumerate(np.array_split(np.arange(source.count), shards)):
            writer = ArrayRecordWriter(str(folder / f"{shard:06d}.array_record"), "group_size:1,uncompressed")
            for row in rows.tolist():
                writer.write(b"".join(value.tobytes() for value in source.sample(row).values()))
            writer.close()

    def open(self, folder: Path, *, shuffle: bool = True, batch_size: int = 32, num_workers: int = 0) -> None:
        """Make the pipeline."""
        torch.set_num_threads(1)
        records = ArrayRecordDataSource(sorted(map(str, folder.glob("*.array_record"))))
        data = grain.MapDataset.source(records).seed(0)
        if shuffle:
            data = data.shuffle()
        data = data.map(Decode(json.loads((folder / "layout.json").read_text()))).batch(batch_size)
        self._data = data.to_iter_dataset()
        if num_workers:
            self._data = self._data.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))

    def batches(self) -> Iterable[Mapping[str, Any]]:
        """Iterate, giving tensors as all others do."""
        for batch in self._data:
            yield {name: torch.from_numpy(value) for name, value in batch.items()}


if __name__ == "__main__":
    serve(GrainPeer())
