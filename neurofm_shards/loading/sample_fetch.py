"""From rows to single samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import ConfigError
from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.loading.fetch import OnError, RowReader
from neurofm_shards.loading.samples import split_samples
from neurofm_shards.loading.transforming import SampleFunction
from neurofm_shards.loading.workers.pipeline import Fetched


@dataclass(frozen=True)
class SampleFetch:
    """Reads rows and gives them one by one.

    Attributes
    ----------
    reader : RowReader
        Reads and transforms.
    transform : callable or None
        Given each sample, returns the sample to use.
    metadata : bool
        Whether samples have ``metadata``.
    on_error : "raise" or "skip"
        What happens to samples that cannot be read.
    decode : bool
        False: fields, the metadata too, are bytes as they are stored.
    """

    reader: RowReader
    transform: SampleFunction | None = None
    metadata: bool = True
    on_error: OnError = "raise"
    decode: bool = True

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error={self.on_error!r}; choose 'raise' or 'skip'")

    def __call__(self, rows: npt.NDArray[np.int64]) -> Fetched:
        """Return the samples of rows; ``batch`` is a list of dicts, without those that failed."""
        if self.decode:
            columns, metadata, failures = self.reader.read(rows, self.on_error)
            found = list(split_samples(columns, metadata if self.metadata else None))
        else:
            failures = ()
            found = [self._stored(row) for row in rows.tolist()]
        return Fetched(found if self.transform is None else [self.transform(sample) for sample in found], failures)

    def _stored(self, row: int) -> dict[str, Any]:
        collection = self.reader.collection
        names = [*(collection.columns if self.reader.columns is None else self.reader.columns)]
        names += [METADATA_FIELD] if self.metadata else []
        return {name: collection.payload(row, name) for name in names if collection.has(row, name)}
