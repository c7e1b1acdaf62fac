"""From a folder and settings to rows and readers, the same way for every loader."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Rows
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.fetch import RowReader
from neurofm_shards.loading.subsets import Where, select
from neurofm_shards.loading.tensors import count_dtypes
from neurofm_shards.loading.transforming import bind
from neurofm_shards.plugins.interfaces import Transform
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.shards.make_space import IO

DEFAULT_PATTERN = "shard_*.tar*"
Counts: TypeAlias = Literal["float32", "stored"]


def open_shards(shard_dir: str | os.PathLike[str], pattern: str, io: IO, verify: bool) -> ShardCollection:
    """Open a folder; the default pattern means what the manifest lists, where there is one."""
    return ShardCollection.open(
        os.fspath(shard_dir), None if pattern == DEFAULT_PATTERN else pattern, io=io, verify=verify
    )


def chosen_rows(
    collection: ShardCollection,
    where: Where | None,
    keys: Iterable[str] | None,
    split: str | None,
    rows: npt.ArrayLike | None = None,
) -> Rows | None:
    """Return the selected rows, ascending, or None for all.

    Raises
    ------
    ConfigError
        Nothing is left.
    """
    found = select(collection, where=where, keys=keys, split=split)
    if rows is not None:
        wanted = np.unique(np.asarray(rows, dtype=np.int64))
        found = wanted if found is None else np.intersect1d(found, wanted, assume_unique=True)
    if found is not None and len(found) == 0:
        raise ConfigError(
            f"no sample of {collection.catalog.folder} is left: where={where!r}, split={split!r}, keys and rows "
            "together select none; see `neurofm-shards info` for what there is"
        )
    return found


def make_reader(
    collection: ShardCollection, columns: Sequence[str] | None, counts: Counts, transforms: Sequence[Transform]
) -> RowReader:
    """Make a reader with its transforms bound to the data set.

    Raises
    ------
    ConfigError
        There is no such column; known before the first batch.
    """
    wanted = None if columns is None else tuple(dict.fromkeys(columns))
    missing = [name for name in wanted or () if name not in collection.columns]
    if missing:
        raise ConfigError(
            f"there is no column {', '.join(map(repr, missing))} in {collection.catalog.folder}; it has "
            f"{', '.join(collection.columns)}"
        )
    dtypes = count_dtypes(collection.columns, counts)
    if wanted is not None:
        dtypes = {name: dtype for name, dtype in dtypes.items() if name in wanted}
    return RowReader(collection, wanted, dtypes, bind(transforms, collection.manifest))


def sample_bytes(reader: RowReader) -> int:
    """Estimate the bytes of one sample as it is delivered (lengths that differ count as one)."""
    collection, dtypes = reader.collection, reader.dtypes or {}
    total = 0
    for name in collection.columns if reader.columns is None else reader.columns:
        spec = collection.columns[name]
        if spec.dtype is not None and spec.shape is not None:
            total += int(np.prod([n or 1 for n in spec.shape])) * np.dtype(dtypes.get(name, spec.dtype)).itemsize
    return total
