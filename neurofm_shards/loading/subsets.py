"""Which rows to load: by metadata, by key, by named split; without reading any data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Rows
from neurofm_shards.errors import ConfigError
from neurofm_shards.expressions import compile_expression
from neurofm_shards.loading.named_splits import saved_splits

Columns = Mapping[str, npt.NDArray[Any]]
Where: TypeAlias = "str | Callable[[Columns], Any]"


class TableColumns(Mapping[str, npt.NDArray[Any]]):
    """The columns of a metadata table as a mapping; each is read when it is asked for.

    Parameters
    ----------
    table : MetadataTable
        See :mod:`neurofm_shards.format.metadata_table`.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self._names = list(table.names)
        self._read: dict[str, npt.NDArray[Any]] = {}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            self._read[name] = self._table.values(name)
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def select(
    collection: Any, *, where: Where | None = None, keys: Iterable[str] | None = None, split: str | None = None
) -> Rows | None:
    """Return the rows that satisfy all conditions, ascending; None when there is no condition.

    Parameters
    ----------
    collection : ShardCollection
        The data.
    where : str or callable, optional
        An expression over metadata (:mod:`neurofm_shards.expressions`), or a function of a mapping of columns, arrays
        of shape (n,), that returns a boolean array of shape (n,).
    keys : iterable of str, optional
        Sample keys, in any order; each is taken once, in storage order.
    split : str, optional
        Name of a split that was saved (:mod:`neurofm_shards.loading.named_splits`), or, where none were, that the
        metadata column ``split`` names.

    Raises
    ------
    ConfigError
        There is no such column or split, or a function returned something else than a mask.
    SampleNotFoundError
        There is no such key.
    """
    masks = []
    if where is not None:
        masks.append(where_mask(where, TableColumns(collection.metadata_table()), collection.num_samples))
    if split is not None:
        masks.append(split_mask(split, collection))
    mask = np.logical_and.reduce(masks) if masks else None
    if keys is None:
        return None if mask is None else np.flatnonzero(mask).astype(np.int64)
    rows = np.unique(np.array([collection.find(key) for key in keys], dtype=np.int64))
    return rows if mask is None else rows[mask[rows]]


def where_mask(where: Where, columns: Columns, num_samples: int) -> npt.NDArray[np.bool_]:
    """Return which samples an expression or a function chooses, bool of shape (num_samples,)."""
    found = compile_expression(where)(columns) if isinstance(where, str) else where(columns)
    mask = np.asarray(found)
    if mask.dtype != np.bool_ or mask.shape != (num_samples,):
        raise ConfigError(
            f"where= gave {mask.dtype} of shape {mask.shape}; a boolean array of shape ({num_samples},) was expected, "
            "one value per sample"
        )
    return mask


def split_mask(split: str, collection: Any) -> npt.NDArray[np.bool_]:
    """Return which samples are in this split: a saved one, or one that the metadata names."""
    saved = saved_splits(collection)
    mask = np.zeros(collection.num_samples, dtype=np.bool_)
    if saved:
        mask[saved.get(split, [])] = True
        there = sorted(saved)
    else:
        columns = TableColumns(collection.metadata_table())
        if "split" not in columns:
            raise ConfigError(
                f"split={split!r}: no splits are saved with the data, and the samples have no metadata column 'split'; "
                "make splits with neurofm_shards.split and save_splits, or convert with split options"
            )
        values = np.asarray(columns["split"])
        mask |= np.array(values == split, dtype=np.bool_)
        there = sorted({str(value) for value in values if value})
    if not mask.any():
        raise ConfigError(f"there is no split {split!r}; the samples have: {', '.join(there) or 'none'}")
    return mask
