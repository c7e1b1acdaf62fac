"""The untimed pass: every batch against its source, now and once more when the epoch is over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from source import Source, row_of

#: Batches that are kept, and compared again at the end: no later batch may change an earlier one.
_KEPT = 64


def as_arrays(value: Any) -> list[np.ndarray]:
    """Return one array per sample of a batch's column: a tensor, an array, a list, or (values, offsets)."""
    if isinstance(value, tuple):
        values, offsets = (np.asarray(part) for part in value)
        return [values[low:high] for low, high in pairwise(offsets)]
    return [np.asarray(item) for item in value]


def check_batch(batch: Mapping[str, Any], source: Source, columns: list[str], scale: float) -> list[int]:
    """Compare one batch with its source; return its rows."""
    key = columns[0]
    stored = source.columns[key]
    dtype = (stored[0] if isinstance(stored, tuple) else stored).dtype
    found = {name: as_arrays(batch[name]) for name in columns}
    rows = [row_of(value / scale if scale != 1 else value, dtype) for value in found[key]]
    for name, values in found.items():
        for row, value in zip(rows, values, strict=True):
            if not np.array_equal(value, source.value(name, row) * scale if scale != 1 else source.value(name, row)):
                raise AssertionError(f"column {name!r} of row {row} is not what was written")
    return rows


def check_epoch(
    batches: Iterable[Mapping[str, Any]], source: Source, columns: list[str] | None, expected: list[int], scale: float
) -> int:
    """Compare an epoch; every expected row must come, and none twice.

    Returns
    -------
    int
        Samples that were compared.
    """
    names = columns or source.names
    kept: list[Mapping[str, Any]] = []
    rows: list[int] = []
    for batch in batches:
        rows += check_batch(batch, source, names, scale)
        if len(kept) < _KEPT:
            kept.append(batch)
    for batch in kept:
        check_batch(batch, source, names, scale)
    if sorted(rows) != expected:
        raise AssertionError(f"{len(rows)} samples came, {len(set(rows))} of them different; {len(expected)} expected")
    return len(rows)
