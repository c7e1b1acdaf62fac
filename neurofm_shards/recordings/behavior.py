"""Behaviour in windows: series interpolated, held, averaged or counted per bin, masked where unknown.

Or at its own samples: the values that lie in each window, with their times, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import ConfigError, SourceError
from neurofm_shards.recordings.description import field_names
from neurofm_shards.recordings.modality import WindowedModality, cut_short, row_numbers
from neurofm_shards.recordings.options import BehaviorOptions
from neurofm_shards.recordings.series import Scaled, Series, SeriesTimes, channel_names, check_series, nothing_held
from neurofm_shards.recordings.ticks import (
    EMPTY,
    TICKS_PER_SECOND,
    count_windows,
    expand,
    normalise,
    seconds_inside,
    to_ticks,
)
from neurofm_shards.recordings.timeline import TimeGrid, series_coverage
from neurofm_shards.recordings.trains import by_path, listing, load_trains, pick
from neurofm_shards.streams import AnyStream, EventStream, IntervalStream, IrregularStream, RegularStream
from neurofm_shards.types import ColumnData, ColumnSpec, Problem, Ragged
from neurofm_shards.values import to_json

_VALUES_AT_ONCE = 1 << 22
_GAP_INTERVALS = 3.0
_SHORTEST_GAP = 0.1
#: Values looked at to distinguish states from measurements.
_LOOKED_AT = 10_000
_MOST_STATES = 16
_FEWEST_VALUES = 50
#: Changes of a state that are taken for such, and what has to be asked for (kind, at).
_FEWEST_CHANGES = 6
_MAY_HOLD = ((None, "bin_center"), (None, "bin_end"))
#: Scores of some programs go a little beyond 1.
_MOST_SURE = 1.5
#: Windows this many lengths apart are read apart: what lies between them would cost more.
_FAR_APART = 30
#: Rows between two windows that are read with them rather than apart.
_NEAR = 4096


class SampledSeries:
    """Values of one series at the bins of windows.

    Parameters
    ----------
    stream : Series
        Where values come from.
    columns : list of int
        Which channels.
    options : BehaviorOptions
        How values are taken.
    grid : TimeGrid
        Bins and windows.
    """

    def __init__(self, stream: Series, columns: list[int], options: BehaviorOptions, grid: TimeGrid) -> None:
        check_series(stream)
        sure = confidence_channel(stream, options)
        self._scaled = Scaled(stream, [*columns, *sure])
        self._least = options.min_confidence if sure else None
        self._grid = grid
        self._times = SeriesTimes(stream)
        self.covers = series_coverage(stream, grid.timeline)
        self.kind = kind_of(stream, options)
        changes = self.kind == "continuous" and (options.kind, options.at) in _MAY_HOLD and logs_changes(stream)
        self.kind = "step" if changes else self.kind
        self.unit = self._scaled.unit
        self._at = options.at
        gap = math.inf if self.kind == "step" else max(_SHORTEST_GAP, _GAP_INTERVALS * self._times.interval)
        self._gap = self._times.longest(gap if options.max_gap_ms is None else options.max_gap_ms / 1e3)
        self._range = options.wrap or stream.circular or (0.0, 2 * math.pi)
        if self.kind == "step" and self._at == "bin_mean":
            raise ConfigError(
                f"{stream.path} holds its value between steps: bin_mean makes no sense; say at=bin_center, or "
                "kind=continuous if its values are measurements"
            )
        self.problems = (*self._times.problems, *self._states(stream, options), *nothing_held(stream))
        if self._least is not None:
            self.problems += odd_confidence(stream, self._scaled, self._least)
        if changes:
            what = (
                "takes few whole values, each unlike the one before, at times that no clock gives: changes of a state"
            )
            self.problems += (Problem(stream.path, what, "held until the next one; kind=continuous interpolates"),)

    def read(self, starts: Ints) -> npt.NDArray[np.float32]:
        """Return values, shape (windows, bins, columns); not-a-number where there is none."""
        length = self._grid.window_ticks
        slack = 0.0 if math.isinf(self._gap) else self._gap
        first, last = self._times.around(
            int(starts.min()) / TICKS_PER_SECOND - slack, (int(starts.max()) + length) / TICKS_PER_SECOND + slack
        )
        if (last - first) * self._scaled.width > _VALUES_AT_ONCE and len(starts) > 1:
            half = len(starts) // 2
            return np.concatenate([self.read(starts[:half]), self.read(starts[half:])])
        times, values = self._times.part(first, last), self._times.values(self._scaled, first, last)
        edges = self._grid.edges(starts)
        unsure = None
        if self._least is not None:
            values, unsure = values[:, :-1], ~(values[:, -1:] >= self._least)
        found = self._evaluate(times, values if unsure is None else np.where(unsure, np.nan, values), edges)
        if unsure is not None and self._at != "bin_mean":
            found[np.isnan(self._taken(times, np.where(unsure, np.nan, 0.0), edges, None))[:, 0]] = np.nan
        if self.kind == "circular":
            found = _wrap(found, *self._range)
        return found.reshape(len(starts), self._grid.bins, -1).astype(np.float32, copy=False)

    def _evaluate(self, times: Floats, values: Floats, edges: Ints) -> Floats:
        width = self._grid.bin_ticks
        if len(times) == 0:
            return np.full((len(edges), values.shape[1]), np.nan)
        if self.kind != "instantaneous" and self._at == "bin_mean":
            circle = self._range if self.kind == "circular" else None
            return _means(to_ticks(times), values, edges, edges + width, circle)
        period = self._range[1] - self._range[0] if self.kind == "circular" else None
        if self.kind in ("instantaneous", "step") or np.isfinite(values).all():
            return self._taken(times, values, edges, period)
        columns = []
        for column in values.T:
            known = np.isfinite(column)
            columns.append(self._taken(times[known], column[known, None], edges, period))
        return np.concatenate(columns, axis=1)

    def _taken(self, times: Floats, values: Floats, edges: Ints, period: float | None) -> Floats:
        """Return one value at each bin, as neighbours give it; not-a-number where one of them is."""
        width = self._grid.bin_ticks
        if self.kind == "instantaneous":
            return _last_inside(to_ticks(times), values, edges, edges + width)
        at = (edges + (width if self._at == "bin_end" else width / 2)) / TICKS_PER_SECOND
        if self.kind == "step":
            return _held(times, values, at, self._gap, self._times.last)
        return _interpolated(times, values, at, self._gap, period)

    def _states(self, stream: Series, options: BehaviorOptions) -> tuple[Problem, ...]:
        """Report floats that take few whole values and are interpolated all the same."""
        if self.kind != "continuous" or options.kind is not None or np.dtype(stream.dtype).kind != "f":
            return ()
        values = self._scaled.read(0, min(stream.shape[0], _LOOKED_AT))
        known = values[np.isfinite(values)]
        if len(known) < _FEWEST_VALUES or (known != np.rint(known)).any() or len(np.unique(known)) > _MOST_STATES:
            return ()
        what = f"takes only {len(np.unique(known))} different values, all of them whole numbers"
        return (Problem(stream.path, what, "interpolated like a measurement; kind=step holds states"),)


def confidence_channel(stream: Series, options: BehaviorOptions) -> list[int]:
    """Return the channel that says how sure values are, where a least confidence is asked for."""
    if options.min_confidence is None:
        return []
    if not stream.confidence:
        raise ConfigError(f"{stream.path} does not say how sure its values are: leave min_confidence out")
    return [channel_names(stream).index(stream.confidence)]


def odd_confidence(stream: Series, scaled: Scaled, least: float) -> tuple[Problem, ...]:
    """Report confidence, the last of the channels that are read, that goes far beyond 1."""
    sure = scaled.read(0, min(stream.shape[0], _LOOKED_AT))[:, -1]
    most = float(np.max(sure, initial=0.0, where=np.isfinite(sure)))
    if most <= _MOST_SURE:
        return ()
    what = f"confidence goes up to {most:g}, not from 0 to 1: per cent?"
    return (Problem(stream.path, what, f"min_confidence={least:g} is compared with it as it is"),)


def logs_changes(stream: Series) -> bool:
    """Return whether floats with time stamps say when a state changed, rather than what was measured at a time.

    They take few whole values, of which each differs from the one before, and fewer than nine of ten steps between
    their times are within a fifth of the median.
    """
    if not isinstance(stream, IrregularStream) or np.dtype(stream.dtype).kind != "f" or len(channel_names(stream)) > 1:
        return False
    looked = min(stream.shape[0], _LOOKED_AT)
    values, steps = np.ravel(stream.read(0, looked)), np.diff(stream.timestamps()[:looked])
    if len(values) < _FEWEST_CHANGES or not (np.isfinite(values).all() and (steps > 0).all()):
        return False
    states = np.unique(values)
    if len(states) > min(_MOST_STATES, len(values) // 2) or (states != np.rint(states)).any():
        return False
    usual = np.abs(steps - np.median(steps)) <= np.median(steps) / 5
    return bool((np.diff(values) != 0).all() and usual.mean() < 0.9)


def kind_of(stream: Series, options: BehaviorOptions) -> str:
    """Return how values are taken: as asked for, else as the series says."""
    if options.kind is not None:
        return options.kind
    if stream.circular is not None and stream.continuity == "continuous":
        return "circular"
    return stream.continuity


def _interpolated(times: Floats, values: Floats, at: Floats, gap: float, period: float | None) -> Floats:
    """Interpolate linearly between neighbours at most ``gap`` apart; on a circle the shorter way round."""
    if len(times) == 0:
        return np.full((len(at), values.shape[1]), np.nan)
    left = np.searchsorted(times, at, side="right") - 1
    known = left >= 0
    left = np.maximum(left, 0)
    exact = times[left] == at
    right = np.where(exact, left, np.minimum(left + 1, len(times) - 1))
    steps = times[right] - times[left]
    known &= exact | ((right > left) & (steps <= gap))
    weight = np.divide(at - times[left], steps, out=np.zeros_like(at), where=steps > 0)[:, None]
    change = values[right] - values[left]
    if period is not None:
        change = (change + period / 2) % period - period / 2
    out = values[left] + weight * change
    out[~known] = np.nan
    return out


def _held(times: Floats, values: Floats, at: Floats, gap: float, last: float) -> Floats:
    """Hold each value until the next one, at most ``gap``; the last one only as far as a given gap says."""
    left = np.searchsorted(times, at, side="right") - 1
    known = left >= 0
    left = np.maximum(left, 0)
    known &= (at - times[left] <= gap) & ((at <= last) | math.isfinite(gap))
    out = values[left]
    out[~known] = np.nan
    return out


def _last_inside(ticks: Ints, values: Floats, edges: Ints, ends: Ints) -> Floats:
    """Return the last value inside each bin."""
    at = np.searchsorted(ticks, ends, side="left") - 1
    known = (at >= 0) & (ticks[np.maximum(at, 0)] >= edges)
    out = values[np.maximum(at, 0)]
    out[~known] = np.nan
    return out


def _means(ticks: Ints, values: Floats, edges: Ints, ends: Ints, circle: tuple[float, float] | None) -> Floats:
    """Return the mean of the values inside each bin, leaving out not-a-number."""
    first = np.searchsorted(ticks, edges, side="left")
    last = np.searchsorted(ticks, ends, side="left")
    known = np.isfinite(values)
    count = _sums(known.astype(np.float64), first, last)
    if circle is None:
        total = _sums(np.where(known, values, 0.0), first, last)
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    low, high = circle
    angle = np.where(known, values - low, 0.0) * (2 * math.pi / (high - low))
    east, north = _sums(np.where(known, np.cos(angle), 0.0), first, last), _sums(np.sin(angle), first, last)
    mean = low + np.arctan2(north, east) * ((high - low) / (2 * math.pi))
    return np.where(count > 0, mean, np.nan)


def _sums(values: Floats, first: Ints, last: Ints) -> Floats:
    """Return the sums of rows ``first`` to ``last`` of each bin; each on its own, so that blocks change nothing."""
    padded = np.concatenate([values, np.zeros((1, values.shape[1]))])
    ends = np.stack([first, last], axis=1).ravel()
    sums: Floats = np.add.reduceat(padded, ends, axis=0)[::2]
    sums[first == last] = 0.0
    return sums


def _wrap(values: Floats, low: float, high: float) -> Floats:
    """Bring values into ``[low, high)`` and keep them there when they are rounded to float32."""
    turns = np.floor((values - low) / (high - low))
    wrapped = (values - turns * (high - low)).astype(np.float32)
    smallest, largest = np.float32(low), np.float32(high)
    if smallest < low:
        smallest = np.nextafter(smallest, np.float32(np.inf))
    if largest >= high:
        largest = np.nextafter(largest, np.float32(-np.inf))
    out: Floats = np.clip(wrapped, smallest, largest)
    return out


class Behavior(WindowedModality):
    """Columns ``behavior`` (time, features) float32, ``behavior_valid`` of the same shape, ``behavior_features``.

    Values that the file does not have are not-a-number and masked: nothing is invented.

    Parameters
    ----------
    sources : sequence of (stream, BehaviorOptions)
        What to take, in this order.
    grid : TimeGrid
        Bins and windows.
    named : bool
        Whether the user asked for them: then one that cannot be used is an error, else it is left out and reported, as
        long as there are others.
    """

    name = "behavior"

    def __init__(
        self, sources: Sequence[tuple[AnyStream, BehaviorOptions]], grid: TimeGrid, *, named: bool = True
    ) -> None:
        self._grid = grid
        self._parts: list[SampledSeries | _CountedEvents] = []
        rows: list[dict[str, Any]] = []
        problems: list[Problem] = []
        unusable: SourceError | None = None
        for stream, options in sources:
            if isinstance(stream, IntervalStream):
                raise ConfigError(f"{stream.path} holds intervals, not behaviour: see trial_table and epochs")
            try:
                part, picked = _part(stream, options, grid)
            except SourceError as error:
                if named:
                    raise
                unusable = error
                problems.append(Problem(stream.path, str(error), "left out, as nobody asked for it by name", "error"))
                continue
            self._parts.append(part)
            problems += part.problems
            rows += feature_rows(stream, picked, part, grid)
        if unusable is not None and not self._parts:
            raise unusable
        self.problems = tuple(problems)
        self.tables = {"features": rows}
        shape = (grid.bins, len(rows))
        self.columns = (
            ColumnSpec("behavior", "<f4", shape),
            ColumnSpec("behavior_valid", "|b1", shape),
            ColumnSpec("behavior_features", "<i4", (len(rows),), None, "features"),
        )
        covers = [part.covers for part in self._parts]
        self.covers = joint_covers(covers)
        self.facts = {"paths": [stream.path for stream, _ in sources]}

    def read(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:
        """Return values, mask and the features' rows."""
        values = self._values(starts)
        for i, ticks in cut_short(starts, stops, self._grid.window_ticks):
            values[i, ticks // self._grid.bin_ticks :] = np.nan
        return {
            "behavior": values,
            "behavior_valid": np.isfinite(values),
            "behavior_features": row_numbers(values.shape[2], len(starts)),
        }

    def read_scattered(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:
        """Do the same in time order, and without reading what lies between windows that are far apart."""
        order = np.argsort(starts, kind="stable")
        far = np.diff(starts[order]) > _FAR_APART * self._grid.window_ticks
        parts = np.split(order, np.flatnonzero(far) + 1)
        found = [self.read(starts[part], stops[part]) for part in parts]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return {name: np.concatenate([each[name] for each in found])[back] for name in found[0]}

    def valid_fraction(self, starts: Ints) -> Floats:
        """Return the share of known values of each window; reads the series."""
        if not self.tables["features"]:
            return np.ones(len(starts))
        step = max(1, (1 << 22) // max(1, self._grid.bins * len(self.tables["features"])))
        parts = [np.isfinite(self._values(starts[i : i + step])).mean(axis=(1, 2)) for i in range(0, len(starts), step)]
        return np.concatenate([*parts, np.zeros(0)])

    def _values(self, starts: Ints) -> npt.NDArray[np.float32]:
        nothing = np.zeros((len(starts), self._grid.bins, 0), dtype=np.float32)
        return np.concatenate([nothing, *(part.read(starts) for part in self._parts)], axis=2)


class _CountedEvents:
    """Events of a stream as counts per bin, one feature per id; unknown where no time of the stream is a number."""

    kind = "events"
    unit = "count"
    covers: Ints | None = None

    def __init__(self, stream: EventStream, columns: list[int], grid: TimeGrid) -> None:
        trains = load_trains(stream, grid.session_id, grid.timeline)
        self.problems = trains.problems
        self._trains, self._grid, self._columns = trains, grid, columns
        self._width = len(stream.owners)
        self._unknown = trains.facts["total"] == trains.facts["not_a_number"]
        if trains.facts["total"] == 0:
            what = "holds no event at all: nothing was recorded, or nothing happened"
            self.problems += (Problem(stream.path, what, "its values are masked"),)

    def read(self, starts: Ints) -> npt.NDArray[np.float32]:
        """Return counts, shape (windows, bins, columns)."""
        shape = (self._grid.bins, self._width)
        if self._unknown:
            return np.full((len(starts), self._grid.bins, len(self._columns)), np.nan, dtype=np.float32)
        counts = count_windows(self._trains.ticks, self._trains.owner, starts, self._grid.bin_ticks, shape, "uint32")
        return counts[:, :, self._columns].astype(np.float32)


def joint_covers(covers: Sequence[Ints | None]) -> Ints | None:
    """Return the joint spans of several features; None where one of them has something everywhere."""
    known = [spans for spans in covers if spans is not None]
    return normalise(np.concatenate([*known, EMPTY])) if len(known) == len(covers) else None


def behavior_sources(
    streams: Sequence[AnyStream], chosen: Sequence[BehaviorOptions] | None
) -> list[tuple[AnyStream, BehaviorOptions]]:
    """Return the series to take: those named, else all numeric behaviour series in the file's order."""
    if chosen is not None:
        usable = [stream for stream in streams if not isinstance(stream, IntervalStream)]
        return [(by_path(usable, options.path, "behavior path"), options) for options in chosen]
    found = [stream for stream in streams if stream.modality == "behavior" and not isinstance(stream, IntervalStream)]
    numeric = [stream for stream in found if isinstance(stream, EventStream) or np.dtype(stream.dtype).kind in "biuf"]
    return [(stream, BehaviorOptions(path=stream.path)) for stream in numeric]


def _part(
    stream: EventStream | Series, options: BehaviorOptions, grid: TimeGrid
) -> tuple[SampledSeries | _CountedEvents, list[int]]:
    if isinstance(stream, EventStream):
        if options.kind not in {None, "events"}:
            raise ConfigError(f"{stream.path} holds events: kind={options.kind} does not apply; leave it out")
        picked = pick(stream.owners, options.columns, stream.path)
        return _CountedEvents(stream, picked, grid), picked
    if options.kind == "events":
        raise ConfigError(f"{listing([stream])} holds values, not events: choose another kind")
    picked = pick(channel_names(stream), options.columns, stream.path)
    return SampledSeries(stream, picked, options, grid), picked


class _Feature(Protocol):
    @property
    def unit(self) -> str: ...
    @property
    def kind(self) -> str: ...


def feature_rows(
    stream: EventStream | Series, picked: Sequence[int], part: _Feature, grid: TimeGrid
) -> list[dict[str, Any]]:
    """Return the facts of the chosen columns, with how their values were converted."""
    names = stream.owners if isinstance(stream, EventStream) else channel_names(stream)
    rows: list[dict[str, Any]] = []
    for i in picked:
        said = {key: to_json(value) for key, value in stream.table[i].items()} if stream.table else {}
        ids = {"id": f"{grid.session_id}/{stream.path}/{names[i]}", "session_id": grid.session_id}
        unit = "" if names[i] == getattr(stream, "confidence", None) else part.unit
        rows.append({**said, **ids, "path": stream.path, "column": names[i], "unit": unit, "kind": part.kind})
    return rows


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
        if self._least is not None:
            self.problems += odd_confidence(stream, self._scaled, self._least)
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
