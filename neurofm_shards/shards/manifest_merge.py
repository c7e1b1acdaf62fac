"""Joining what is said of shards into what is said of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from neurofm_shards.format.manifest import ColumnEntry


def merge_columns(groups: Iterable[Sequence[ColumnEntry]], total_samples: int) -> list[ColumnEntry]:
    """Join the columns of shards or data sets.

    Parameters
    ----------
    groups : iterable of sequence of ColumnEntry
        The columns of each.
    total_samples : int
        Samples of all together.

    Returns
    -------
    list of ColumnEntry
        Axes, dtypes, units and tables that differ become None; ``num_samples`` are added up, and a column that some
        samples lack is ``optional``. Where codecs differ, the first one is named: readers go by the members' names.
    """
    merged: dict[str, ColumnEntry] = {}
    for group in groups:
        for entry in group:
            before = merged.get(entry.name)
            merged[entry.name] = entry if before is None else _merge(before, entry)
    return [entry.model_copy(update={"optional": entry.num_samples < total_samples}) for entry in merged.values()]


def _merge(a: ColumnEntry, b: ColumnEntry) -> ColumnEntry:
    dtype = a.dtype if a.dtype == b.dtype else None
    shape = None
    if dtype is not None and a.shape is not None and b.shape is not None and len(a.shape) == len(b.shape):
        shape = [m if m == n else None for m, n in zip(a.shape, b.shape, strict=True)]
    return a.model_copy(
        update={
            "dtype": dtype,
            "shape": shape,
            "unit": a.unit if a.unit == b.unit else None,
            "table": a.table if a.table == b.table else None,
            "num_samples": a.num_samples + b.num_samples,
        }
    )
