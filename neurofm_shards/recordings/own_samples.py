"""Behaviour at its own samples: the values that lie in each window, with their times, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Ints
from neurofm_shards.errors import ConfigError
from neurofm_shards.recordings.behavior import confidence_channel, feature_rows, joint_covers, kind_of
from neurofm_shards.recordings.description import field_names
from neurofm_shards.recordings.modality import WindowedModality, row_numbers
from neurofm_shards.recordings.options import BehaviorOptions
from neurofm_shards.recordings.series import Scaled, Series, SeriesTimes, channel_names, check_series
from neurofm_shards.recordings.ticks import TICKS_PER_SECOND, expand, seconds_inside, to_ticks
from neurofm_shards.recordings.timeline import TimeGrid, series_coverage
from neurofm_shards.recordings.trains import listing, pick
from neurofm_shards.streams import AnyStream, IrregularStream, RegularStream
from neurofm_shards.types import ColumnData, ColumnSpec, Ragged

#: Rows between two windows that are read with them rather than apart.
_NEAR = 4096


def own_names(chosen: Sequence[BehaviorOptions] | None) -> dict[str, str]:
    """Return, by path, the names of the series that are taken at their own samples: the ends of their paths."""
    paths = [choice.path for choice in chosen or () if choice.at == "samples"]
    return dict(zip(paths, field_names(paths), strict=True))


def own_columns(name: str, width: int) -> tuple[ColumnSpec, ...]:
    """Return the columns of a series of that name."""
    return (
        ColumnSpec(f"{name}_values", "<f4", (None, width)),
        ColumnSpec(f"{name}_times", "<f4", (None,), "s"),
        ColumnSpec(f"{name}_features", "<i4", (width,), None, "sample_features"),
    )


class OwnSamples(WindowedModality):
    """Ragged columns ``NAME_values`` and ``NAME_times``, and ``NAME_features``, of each series.

    Values (samples, columns) are float32, times are seconds from the window's start, and features are rows of the table
    ``sample_features``. Values that the file does not have are not-a-number.

    Parameters
    ----------
    sources : sequence of (stream, BehaviorOptions)
        What to take, in this order.
    names : mapping of str to str
        Names of the columns by the options' paths; see :func:`own_names`.
    grid : TimeGrid
        Windows.
    """

    name = "behavior_samples"

    def __init__(
        self, sources: Sequence[tuple[AnyStream, BehaviorOptions]], names: Mapping[str, str], grid: TimeGrid
    ) -> None:
        self._parts: list[_OwnSeries] = []
        rows: list[dict[str, Any]] = []
        for stream, options in sources:
            if not isinstance(stream, (RegularStream, IrregularStream)):
                raise ConfigError(f"{listing([stream])} holds no samples: take it at bins, or with modalities=events")
            part = _OwnSeries(names[options.path], stream, options, grid, len(rows))
            self._parts.append(part)
            rows += feature_rows(stream, part.picked, part, grid)
        self.columns = tuple(spec for part in self._parts for spec in part.columns)
        self.tables = {"sample_features": rows}
        self.problems = tuple(problem for part in self._parts for problem in part.problems)
        self.covers = joint_covers([part.covers for part in self._parts])
        self.facts = {"paths": [stream.path for stream, _ in sources]}

    def read(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:
        """Return the samples from each start on and before each stop, in time order."""
        columns: dict[str, ColumnData] = {}
        for part in self._parts:
            columns.update(part.read(starts, stops))
        return columns


class _OwnSeries:
    """The samples of one series in windows."""

    def __init__(self, name: str, stream: Series, options: BehaviorOptions, grid: TimeGrid, first_feature: int) -> None:
        check_series(stream)
        self.picked = pick(channel_names(stream), options.columns, stream.path)
        sure = confidence_channel(stream, options)
        self._least = options.min_confidence if sure else None
        self._scaled = Scaled(stream, [*self.picked, *sure])
        self._times = SeriesTimes(stream)
        self._grid, self._first_feature = grid, first_feature
        self.kind, self.unit = kind_of(stream, options), self._scaled.unit
        self.problems, self.covers = self._times.problems, series_coverage(stream, grid.timeline)
        self.columns = own_columns(name, len(self.picked))

    def read(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:
        length = self._grid.window_ticks
        first = self._first_from(starts)
        counts = self._first_from(np.minimum(stops, starts + length)) - first
        index = expand(first, counts)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        times = seconds_inside(self._ticks(index) - np.repeat(starts, counts), length)
        features = row_numbers(len(self.picked), len(starts)) + np.int32(self._first_feature)
        columns = (Ragged(self._values(index), offsets), Ragged(times, offsets), features)
        return {spec.name: column for spec, column in zip(self.columns, columns, strict=True)}

    def _ticks(self, index: Ints) -> Ints:
        return to_ticks(self._times.at(index))

    def _first_from(self, ticks: Ints) -> Ints:
        """Return the first sample at or after each tick; the float times only say about where it is."""
        low, high = self._times.bracket((ticks - 2) / TICKS_PER_SECOND, (ticks + 2) / TICKS_PER_SECOND)
        return bisect(self._ticks, low, high, ticks)

    def _values(self, index: Ints) -> npt.NDArray[np.float32]:
        """Read the samples of all windows, those that lie near each other together."""
        out = np.empty((len(index), self._scaled.width))
        order = np.argsort(index, kind="stable")
        ascending = index[order]
        for part in np.split(order, np.flatnonzero(np.diff(ascending) > _NEAR) + 1):
            if len(part):
                low, high = int(index[part[0]]), int(index[part[-1]]) + 1
                out[part] = self._times.values(self._scaled, low, high)[index[part] - low]
        if self._least is not None:
            out[~(out[:, -1] >= self._least)] = np.nan
        return out[:, : len(self.picked)].astype(np.float32)


def bisect(value: Callable[[Ints], Ints], low: Ints, high: Ints, wanted: Ints) -> Ints:
    """Return, for each of ``wanted``, the first index from ``low`` on and below ``high`` with no smaller value.

    >>> bisect(lambda index: index * 10, np.array([0, 0]), np.array([5, 5]), np.array([11, 99])).tolist()
    [2, 5]
    """
    low, high = low.copy(), high.copy()
    while len(open_ := np.flatnonzero(low < high)):
        middle = (low[open_] + high[open_]) // 2
        below = value(middle) < wanted[open_]
        low[open_[below]] = middle[below] + 1
        high[open_[~below]] = middle[~below]
    return low
