"""What is known of one sample: its values, times, trials and masks, and the tables that name its units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.format.sessions import session_summaries
from neurofm_shards.reading.samples import SampleCollection
from neurofm_shards.stored.windows import WindowCollection

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SampleView:
    """One sample and what is known of it.

    Attributes
    ----------
    values : mapping of str to numpy.ndarray or object
        The sample's fields.
    metadata : mapping of str to object
        Its metadata.
    tables : mapping of str to list of dict
        Side tables, for the names of units, channels and features.
    units : mapping of str to str
        Physical units of columns.
    bin_ms : float or None
        Width of a bin in milliseconds, for samples whose metadata say no times.
    """

    values: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    bin_ms: float | None = None

    @property
    def has_times(self) -> bool:
        """Whether the metadata say when the sample begins and ends."""
        start, stop = self.metadata.get("window_start_s"), self.metadata.get("window_stop_s")
        return start is not None and stop is not None and stop > start

    def span(self, column: str) -> tuple[float, float, str]:
        """Return the first and last value of a column's time axis, and the axis's label."""
        if self.has_times:
            start, stop = self.metadata["window_start_s"], self.metadata["window_stop_s"]
            return float(start), float(stop), "time in session (s)"
        length = len(self.values[column])
        if self.bin_ms:
            return 0.0, length * self.bin_ms / 1000, "time (s)"
        return 0.0, float(length), "bin"

    def rows(self, ids_column: str, table: str) -> list[Mapping[str, Any]]:
        """Return the rows of a side table that a column of row numbers names; none where either is missing."""
        numbers, rows = self.values.get(ids_column), self.tables.get(table)
        if numbers is None or not rows:
            return []
        return [rows[i] if 0 <= i < len(rows) else {} for i in np.asarray(numbers).ravel().tolist()]

    def trials(self) -> list[tuple[str, float, float]]:
        """Return name, start and stop of the trials that share time with the sample, where either is known."""
        if not self.has_times:
            return []
        session, first, last = self.metadata.get("session_id"), *self.span("")[:2]
        rows = [row for row in self.tables.get("trials", ()) if row.get("session_id", session) == session]
        if not rows and {"start_time", "stop_time"} <= set(self.metadata):
            spans = {"start_s": self.metadata["start_time"], "stop_s": self.metadata["stop_time"]}
            rows = [{"trial": self.metadata.get("trial", ""), **spans}]
        told = [(f"trial {row.get('trial', '')}".rstrip(), row.get("start_s"), row.get("stop_s")) for row in rows]
        known = [(name, float(a), float(b)) for name, a, b in told if a is not None and b is not None]
        return [each for each in known if each[1] <= last and each[2] >= first]

    def invalid(self, column: str) -> Array | None:
        """Return where a column is masked, shape (time,) or (time, features); None where nothing is said."""
        for name in (f"{column}_valid", "valid"):
            mask = self.values.get(name)
            if isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.ndim:
                return ~mask
        return None


def known_of(collection: SampleCollection) -> dict[str, Any]:
    """Return what a data set tells of its samples: side tables, physical units, and the width of a bin."""
    manifest = collection.manifest
    widths = set() if manifest is None else {session.bin_size_ms for session in session_summaries(manifest)}
    return {
        "tables": {name: collection.table(name) for name in collection.tables},
        "units": {name: spec.unit for name, spec in collection.columns.items() if spec.unit},
        "bin_ms": widths.pop() if len(widths) == 1 else None,
    }


def stored_view(collection: SampleCollection, row: int, known: Mapping[str, Any]) -> SampleView:
    """Return a sample of a data set by its row, with what :func:`known_of` tells."""
    values = {name: data[0] for name, data in collection.gather(np.array([row])).items()}
    values = {name: value for name, value in values.items() if value is not None}
    trials = {"trials": collection.trials_in(row)} if isinstance(collection, WindowCollection) else {}
    said = {**known, "tables": {**known["tables"], **trials}}
    return SampleView(values, collection.metadata(np.array([row]))[0], **said)
