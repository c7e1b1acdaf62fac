"""Spikes in windows: counts per bin and unit (made in ``counting``), spike times, and what was not observed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import SourceError
from neurofm_shards.recordings.counting import Train, count_trains
from neurofm_shards.recordings.modality import WindowedModality, row_numbers
from neurofm_shards.recordings.ticks import (
    expand,
    normalise,
    seconds_inside,
    subtract,
)
from neurofm_shards.recordings.timeline import TimeGrid
from neurofm_shards.recordings.trains import Trains
from neurofm_shards.types import ColumnData, ColumnSpec, Ragged
from neurofm_shards.values import starts_of


class BinnedEvents(WindowedModality):
    """Counts (windows, bins, owners) of events, with the owners' rows of a side table.

    Parameters
    ----------
    trains : Trains
        The events.
    grid : TimeGrid
        Bins and windows.
    name : str
        Name of the modality and of the column.
    dtype : str
        Stored type; a count that does not fit is an error.
    ids : (str, str)
        Names of the column of row numbers and of the side table.

    Attributes
    ----------
    train : Train
        The events, for those who count windows of many recordings at once.
    width : int
        Rows of the counts.
    """

    def __init__(
        self, trains: Trains, grid: TimeGrid, *, name: str = "spikes", dtype: str, ids: tuple[str, str]
    ) -> None:
        self.name = name
        self.problems = trains.problems
        self.facts = trains.facts
        self.tables = {ids[1]: trains.table}
        self._trains = trains
        self._grid = grid
        self.dtype = dtype
        self._ids = ids
        self.width = len(trains.table)
        self.train = Train(trains.ticks, trains.owner, trains.rows)
        self._masks = _differing(trains)
        shape = (grid.bins, self.width)
        self.columns = (
            ColumnSpec(name, np.dtype(dtype).str, shape, "count"),
            ColumnSpec(ids[0], "<i4", (self.width,), None, ids[1]),
        )
        if self._masks is not None:
            self.columns += (ColumnSpec(f"{name}_valid", "|b1", shape),)
        self.removals = {"not observed": _unobserved(trains, grid)}

    def read(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:
        """Return counts, row numbers and, where units were observed at different times, a mask."""
        bins, n = self._grid.bins, len(starts)
        lengths, widths = np.full(n, bins), np.full(n, self.width)
        which, types = np.zeros(n, dtype=np.int64), (self.dtype, self.dtype)
        try:
            counts = count_trains([self.train], which, (starts, stops), lengths, self._grid.bin_ticks, widths, types)
        except OverflowError as error:
            raise self.too_many() from error
        shape = (n, bins, self.width)
        columns: dict[str, ColumnData] = {self.name: counts.reshape(shape), self._ids[0]: row_numbers(self.width, n)}
        if self._masks is not None:
            columns[f"{self.name}_valid"] = self._mask(starts)
        return columns

    def valid_fraction(self, starts: Ints) -> Floats:
        """Return the share of bins and units that were observed."""
        if self._masks is None or self.width == 0:
            return np.ones(len(starts))
        fraction: Floats = self._mask(starts).mean(axis=(1, 2))
        return fraction

    def too_many(self) -> SourceError:
        """Return the error of counts that do not fit."""
        return SourceError(
            f"the {self.name} of one unit in a bin of {self._grid.bin_ticks / 1e6:g} ms do not fit into {self.dtype}: "
            "say counts_dtype=uint16, or make bins shorter"
        )

    def _mask(self, starts: Ints) -> npt.NDArray[np.bool_]:
        mask = np.empty((len(starts), self._grid.bins, self.width), dtype=bool)
        for spans, owners in self._masks or ():
            mask[:, :, owners] = self._grid.mask(spans, starts)[:, :, None]
        return mask


class SpikeEvents(WindowedModality):
    """Ragged columns ``spike_times`` (float32 seconds from the window's start) and ``spike_units`` (int32 rows)."""

    name = "spikes"

    def __init__(self, trains: Trains, grid: TimeGrid, *, alone: bool) -> None:
        self._trains = trains
        self._grid = grid
        self._alone = alone
        self.columns = (
            ColumnSpec("spike_times", "<f4", (None,), "s"),
            ColumnSpec("spike_units", "<i4", (None,), None, "units"),
        )
        if alone:
            self.columns += (ColumnSpec("unit_ids", "<i4", (len(trains.table),), None, "units"),)
            self.problems = trains.problems
            self.facts = trains.facts
            self.tables = {"units": trains.table}
            self.removals = {"not observed": _unobserved(trains, grid)}

    def read(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:
        """Return the events of each window in time order.

        The relative time is rounded to float32 but never up to the window's end, so that all can be binned again.
        """
        length = self._grid.window_ticks
        ticks = self._trains.ticks
        first = np.searchsorted(ticks, starts, side="left")
        counts = np.searchsorted(ticks, np.minimum(stops, starts + length), side="left") - first
        index = expand(first, counts)
        times = seconds_inside(ticks[index] - np.repeat(starts, counts), length)
        offsets = starts_of(counts)
        owner = self._trains.owner[index]
        if self._trains.rows is not None:
            owner = self._trains.rows[owner]
            kept = owner >= 0
            offsets = starts_of(kept)[offsets]
            times, owner = times[kept], owner[kept]
        columns: dict[str, ColumnData] = {
            "spike_times": Ragged(times, offsets),
            "spike_units": Ragged(owner.astype(np.int32, copy=False), offsets),
        }
        if self._alone:
            columns["unit_ids"] = row_numbers(len(self._trains.table), len(starts))
        return columns


def _differing(trains: Trains) -> list[tuple[Ints, Ints]] | None:
    """Return the distinct observed spans with the owners of each; None where all owners share one."""
    groups: dict[bytes, tuple[Ints, list[int]]] = {}
    for owner, spans in enumerate(trains.observed):
        groups.setdefault(spans.tobytes(), (spans, []))[1].append(owner)
    if len(groups) <= 1:
        return None
    return [(spans, np.array(owners)) for spans, owners in groups.values()]


def _unobserved(trains: Trains, grid: TimeGrid) -> Ints:
    recorded = grid.timeline.recorded
    if not trains.observed:
        return recorded[:0]
    return subtract(recorded, normalise(np.concatenate(trains.observed)))
