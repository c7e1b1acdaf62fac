"""What a sample says about its trial: the row, and the columns that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from neurofm_shards._typing import Ints
from neurofm_shards.errors import ConfigError
from neurofm_shards.recordings.modality import plain
from neurofm_shards.recordings.ticks import to_seconds
from neurofm_shards.recordings.trials import Trials
from neurofm_shards.types import Metadata

RESERVED = frozenset(
    {
        "sample_id",
        "modalities",
        "shard_idx",
        "sample_idx_in_shard",
        "session_id",
        "subject_id",
        "source_file",
        "window_start_s",
        "window_stop_s",
        "origin_s",
        "split",
        "trial",
        "align_s",
    }
)


class Labels:
    """Makes the ``trial`` (row in the file's table, -1 for none), ``align_s`` and label entries of samples.

    Every sample has the same keys. Without a trial, or where the table says nothing, a text is ``""`` and everything
    else None.

    Parameters
    ----------
    trials : Trials or None
        The usable trials.
    names : sequence of str
        Columns to copy; ``"*"`` for all that hold one number, text or truth value per row.
    """

    def __init__(self, trials: Trials | None, names: Sequence[str]) -> None:
        self._trials = trials
        self._columns: dict[str, list[Any]] = {}
        self._none: dict[str, Any] = {}
        for name in _chosen(trials, names):
            values = [] if trials is None else [plain(value) for value in trials.columns[name]]
            self._none[name] = "" if any(isinstance(value, str) for value in values) else None
            self._columns[name] = [self._none[name] if value is None else value for value in values]

    def of(self, starts: Ints, stops: Ints, origin: Ints) -> list[Metadata]:
        """Return the entries of windows; ``origin`` is the trial each was cut from, or -1."""
        trials = self._trials
        if trials is None:
            return [{"trial": -1, **self._none} for _ in range(len(starts))]
        at = np.where(origin >= 0, origin, trials.around(starts, stops))
        rows = np.where(at >= 0, trials.rows[np.maximum(at, 0)], -1) if len(trials.rows) else np.full(len(at), -1)
        said: list[Metadata] = [
            {"trial": row, **({name: values[i] for name, values in self._columns.items()} if i >= 0 else self._none)}
            for row, i in zip(rows.tolist(), at.tolist(), strict=True)
        ]
        if trials.align is not None:
            for entry, time in zip(said, to_seconds(trials.align[at]).tolist(), strict=True):
                entry["align_s"] = time
        return said


def _chosen(trials: Trials | None, names: Sequence[str]) -> list[str]:
    if trials is None:
        return []
    chosen = [name for name in names if name != "*"]
    if taken := sorted(RESERVED & set(chosen)):
        raise ConfigError(
            f"label_columns names {', '.join(taken)}, which samples already say of themselves: leave it out"
        )
    if "*" in names:
        scalar = [name for name, values in trials.columns.items() if _scalar(values)]
        chosen += [name for name in scalar if name not in RESERVED and name not in chosen]
    return chosen


def _scalar(values: Any) -> bool:
    return values.dtype != object or all(value is None or isinstance(value, str) for value in values)
