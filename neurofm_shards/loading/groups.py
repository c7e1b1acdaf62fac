"""Rows that share their values of metadata columns: sessions, conditions, sessions by condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from neurofm_shards._typing import Rows
from neurofm_shards.errors import ConfigError
from neurofm_shards.expressions import unknown_name
from neurofm_shards.loading.subsets import TableColumns


def group_rows(collection: Any, by: str | Sequence[str], subset: Rows | None = None) -> dict[str, Rows]:
    """Return the rows of each group, ascending; groups in the order of their names.

    Parameters
    ----------
    collection : ShardCollection
        The data.
    by : str or sequence of str
        Metadata columns; samples belong together when all of them agree.
    subset : numpy.ndarray of int64 or None
        Rows to consider.

    Raises
    ------
    ConfigError
        A column is not there, or some samples have no value of it.
    """
    columns = TableColumns(collection.metadata_table())
    names = [by] if isinstance(by, str) else list(by)
    rows = np.arange(collection.num_samples, dtype=np.int64) if subset is None else subset
    parts = []
    for name in names:
        if name not in columns:
            raise ConfigError(f"cannot group by {name!r}: {unknown_name('metadata column', name, columns)}")
        values = columns[name][rows].tolist()
        missing = sum(value is None or value != value for value in values)  # noqa: PLR0124  (NaN)
        if missing:
            raise ConfigError(
                f"cannot group by {name!r}: {missing} samples have no value of it; leave them out by where="
            )
        parts.append(values)
    labels = np.array([" / ".join(map(str, each)) for each in zip(*parts, strict=True)], dtype=np.str_)
    distinct, group = np.unique(labels, return_inverse=True)
    turn = np.argsort(group.reshape(-1), kind="stable")
    edges = np.cumsum(np.bincount(group.reshape(-1), minlength=len(distinct)))[:-1]
    return dict(zip(distinct.tolist(), np.split(rows[turn], edges), strict=True))
