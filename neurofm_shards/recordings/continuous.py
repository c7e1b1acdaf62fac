"""LFP and imaging in windows: large blocks of a fixed grid are read once and windows are cut in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError, SourceError
from neurofm_shards.expressions import compile_expression
from neurofm_shards.recordings.modality import WindowedModality, cut_short, row_numbers
from neurofm_shards.recordings.options import SeriesOptions
from neurofm_shards.recordings.series import Scaled, Series, Track, channel_names, clock, nothing_held, tracks
from neurofm_shards.recordings.ticks import EMPTY, TICKS_PER_SECOND, expand, normalise, to_ticks
from neurofm_shards.recordings.timeline import TimeGrid
from neurofm_shards.recordings.trains import pick, related_tables, table_columns
from neurofm_shards.types import ColumnData, ColumnSpec, Problem
from neurofm_shards.values import sorted_unique, to_json

_BYTES_AT_ONCE = 8 << 20


class SampleCutter:
    """Cuts windows out of runs of samples; the last block read is kept for the next call.

    Parameters
    ----------
    runs : sequence of Track
        Where samples come from.
    width : int
        Channels.
    rows : int
        Samples read at once; changes nothing but speed and memory.
    """

    def __init__(self, runs: Sequence[Track], width: int, rows: int) -> None:
        self.width = width
        self._runs = runs
        self._rows = rows
        numbers = [-(-run.count // rows) for run in runs]
        self._first_block = np.cumsum([0, *numbers])
        self._kept: tuple[int, npt.NDArray[Any], npt.NDArray[np.bool_]] | None = None

    def cut(
        self, windows: int, samples: int, window: Ints, place: Ints, run: Ints, row: Ints, count: Ints
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return windows and their masks: ``count`` samples from ``row`` of ``run`` on, put at ``[window, place:]``.

        Returns
        -------
        values : numpy.ndarray of float32, shape (windows, samples, width)
            Not-a-number where nothing was put.
        mask : numpy.ndarray of bool, shape (windows, samples)
            Where something was put, and some channel is a number.
        """
        out = np.empty((windows, samples, self.width), dtype=np.float32)
        mask = np.zeros((windows, samples), dtype=bool)
        out[np.bincount(window, weights=count, minlength=windows) < samples] = np.nan
        if len(row):
            first = self._first_block[run] + row // self._rows
            last = self._first_block[run] + (row + count - 1) // self._rows
            for number in sorted_unique(expand(first, last - first + 1)):
                here = np.flatnonzero((first <= number) & (number <= last))
                self._copy(out, mask, int(number), window[here], place[here], row[here], count[here])
        return out, mask

    def _copy(
        self,
        out: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
        number: int,
        window: Ints,
        place: Ints,
        row: Ints,
        count: Ints,
    ) -> None:
        """Put what one block holds of these pieces."""
        run, begin = self._where(number)
        block, known = self._load(number)
        at = row - begin
        whole = (count == out.shape[1]) & (at >= 0) & (at + count <= len(block))
        _put(out, window[whole], _windows(block, at[whole], out.shape[1]), run)
        mask[window[whole]] = _windows(known[:, None], at[whole], out.shape[1])[:, :, 0]
        for i in np.flatnonzero(~whole):
            low, high = max(int(at[i]), 0), min(int(at[i] + count[i]), len(block))
            to = int(place[i]) + low - int(at[i])
            run.finish(block[low:high], out[window[i], to : to + high - low])
            mask[window[i], to : to + high - low] = known[low:high]

    def _where(self, number: int) -> tuple[Track, int]:
        index = int(np.searchsorted(self._first_block, number, side="right")) - 1
        return self._runs[index], (number - int(self._first_block[index])) * self._rows

    def _load(self, number: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return a block as its run gives it, and in which rows some channel is a number."""
        if self._kept is not None and self._kept[0] == number:
            return self._kept[1], self._kept[2]
        self._kept = None
        run, begin = self._where(number)
        block = run.load(begin, min(begin + self._rows, run.count))
        known = known_rows(block)
        self._kept = number, block, known
        return block, known


def known_rows(block: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Say of each row whether some channel is a number; shape (rows,)."""
    if block.dtype.kind == "f" and not np.isfinite(block.sum(dtype=np.float64)):
        found: npt.NDArray[np.bool_] = np.isfinite(block).any(axis=1)
        return found
    return np.full(len(block), block.shape[1] > 0)


def _windows(block: npt.NDArray[Any], at: Ints, samples: int) -> npt.NDArray[Any]:
    """Return windows of a block that start at these rows: a view where they are evenly spaced, else a copy."""
    step = int(at[1] - at[0]) if len(at) > 1 else 0
    if len(at) and (np.diff(at) == step).all() and step >= 0:
        shape = (len(at), samples, block.shape[1])
        strides = (step * block.strides[0], *block.strides)
        return np.lib.stride_tricks.as_strided(block[int(at[0]) :], shape, strides, writeable=False)
    copied: npt.NDArray[Any] = block[at[:, None] + np.arange(samples)]
    return copied


def _put(out: npt.NDArray[np.float32], window: Ints, values: npt.NDArray[Any], run: Track) -> None:
    """Finish windows into ``out``, in one call where they are adjacent there."""
    if len(window) == 0:
        return
    if (np.diff(window) == 1).all():
        run.finish(values, out[int(window[0]) : int(window[-1]) + 1])
        return
    step = max(1, _BYTES_AT_ONCE // max(1, out[0].nbytes))
    for i in range(0, len(window), step):
        part = np.empty((len(values[i : i + step]), *out.shape[1:]), dtype=np.float32)
        run.finish(values[i : i + step], part)
        out[window[i : i + step]] = part


BLOCK_BYTES = 64 << 20
#: A sample this share of an interval before a window's start still counts as at its start (float64 clocks).
_AT_START = 0.01


class WindowedSeries(WindowedModality):
    """Columns ``lfp`` or ``ophys`` (time, channels) float32, their masks and their channels' rows.

    A window holds the samples from the first one at or after its start. Where the series has none, values are
    not-a-number and the mask is False.

    Parameters
    ----------
    stream : Series
        Where values come from.
    grid : TimeGrid
        Windows.
    options : SeriesOptions
        Rate, channels, units, gaps.
    name : str
        Modality and column.
    drop_gaps : bool
        Whether no window may cross a gap.
    block_bytes : int
        Size of the blocks that are read at once; changes nothing but speed and memory.
    """

    def __init__(
        self,
        stream: Series,
        grid: TimeGrid,
        options: SeriesOptions,
        *,
        name: str,
        drop_gaps: bool,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        names = channel_names(stream)
        picked = _filtered(stream, names, pick(names, options.channels, stream.path), options.filter)
        chosen = None if options.channels is None and options.filter is None else picked
        scaled = Scaled(stream, chosen, options.units)
        gap = None if options.max_gap_ms is None else options.max_gap_ms / 1e3
        when = clock(stream, gap)
        if options.rate is None and when.times is not None and len(when.times) and when.interval <= 0:
            raise SourceError(
                f"{stream.path}: no rate follows from its {counted(len(when.times), 'time stamp')} (there is one, "
                f"or most of them are the same): say {name}.rate, or leave {name} out"
            )
        self._tracks = tracks(scaled, when, options.rate)
        nominal = options.rate or (self._tracks[0].rate if self._tracks else 1.0)
        self._rate = nominal
        self._samples = _samples(nominal, grid, stream.path, options.rate)
        self._grid = grid
        rows = _block_rows(block_bytes, len(names), nominal * when.interval)  # all stored channels are read
        self._blocks = SampleCutter(self._tracks, scaled.width, rows)
        self.name = name
        self.problems = (*when.problems, *_calibration(stream, options), *_irregular(stream, when.times, options.rate))
        self.problems += nothing_held(stream)
        self.facts = {"path": stream.path, "rate_hz": nominal, "samples": self._samples, "unit": scaled.unit}
        table = {"ophys": "rois"}.get(name, "channels")
        self.channel_rows = _channel_rows(stream, grid, names, picked, scaled.unit)
        self.related = related_tables(stream, grid.session_id)
        self.tables = {table: self.channel_rows, **self.related}
        self.columns = (
            ColumnSpec(name, "<f4", (self._samples, scaled.width), scaled.unit or None),
            ColumnSpec(f"{name}_valid", "|b1", (self._samples,)),
            ColumnSpec(f"{name}_channels", "<i4", (scaled.width,), None, table),
        )
        self.covers = _extent(self._tracks)
        self.removals = {f"gap in {name}": _gaps(self._tracks)} if drop_gaps else {}

    def read(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:
        """Return values, mask and channels of windows."""
        return self._finished(starts, stops, *self._blocks.cut(len(starts), self._samples, *self._pieces(starts)))

    def read_scattered(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:
        """Do the same window by window, without reading what lies between them."""
        pieces = self._pieces(starts)
        values = np.empty((len(starts), self._samples, self._blocks.width), dtype=np.float32)
        mask = np.zeros(values.shape[:2], dtype=bool)
        values[np.bincount(pieces[0], weights=pieces[4], minlength=len(starts)) < self._samples] = np.nan
        for window, place, run, row, count in zip(*(part.tolist() for part in pieces), strict=True):
            track = self._tracks[run]
            block = track.load(row, row + count)
            track.finish(block, values[window, place : place + count])
            mask[window, place : place + count] = known_rows(block)
        return self._finished(starts, stops, values, mask)

    def _finished(
        self, starts: Ints, stops: Ints, values: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]
    ) -> dict[str, ColumnData]:
        for i, ticks in cut_short(starts, stops, self._grid.window_ticks):
            held = int(ticks / TICKS_PER_SECOND * self._rate + _AT_START)
            values[i, held:], mask[i, held:] = np.nan, False
        return {
            self.name: values,
            f"{self.name}_valid": mask,
            f"{self.name}_channels": row_numbers(self._blocks.width, len(starts)),
        }

    def valid_fraction(self, starts: Ints) -> Floats:
        """Return the share of samples of each window that the series has."""
        window, _, _, _, counts = self._pieces(starts)
        return np.bincount(window, weights=counts, minlength=len(starts)) / self._samples

    @property
    def samples(self) -> int:
        """Samples in a window."""
        return self._samples

    def _pieces(self, starts: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        """Return which samples go where: window, place in it, run, first sample of it, number of samples."""
        if not self._tracks:
            nothing = np.zeros(0, dtype=np.int64)
            return nothing, nothing, nothing, nothing, nothing
        t0 = np.array([track.t0 for track in self._tracks])
        rate = np.array([track.rate for track in self._tracks])
        count = np.array([track.count for track in self._tracks], dtype=np.int64)
        seconds = starts / TICKS_PER_SECOND
        length = self._samples / rate.min()
        first = np.maximum(np.searchsorted(t0 + count / rate, seconds, side="left"), 0)
        last = np.searchsorted(t0, seconds + length, side="right")
        lengths = np.maximum(last - first, 0)
        track, window = expand(first, lengths), np.repeat(np.arange(len(starts)), lengths)
        at = np.ceil((seconds[window] - t0[track]) * rate[track] - _AT_START).astype(np.int64)
        begin, end = np.maximum(at, 0), np.minimum(at + self._samples, count[track])
        some = begin < end
        return window[some], (begin - at)[some], track[some], begin[some], (end - begin)[some]


class JoinedSeries(WindowedModality):
    """Several series of one rate as one modality, their channels side by side in the order chosen.

    A sample is valid where all of them have one.

    Parameters
    ----------
    parts : sequence of WindowedSeries
        Of one name, with equally many samples in a window.
    """

    def __init__(self, parts: Sequence[WindowedSeries]) -> None:
        first = parts[0]
        self.name = name = first.name
        self._parts = parts
        if len({part.samples for part in parts}) > 1:
            rates = ", ".join(f"{part.facts['path']} {part.facts['rate_hz']:g} Hz" for part in parts)
            raise ConfigError(f"the series of {name} differ in rate ({rates}): say {name}.rate for all of them")
        (table,) = first.tables.keys() - first.related.keys()
        self._widths = [len(part.channel_rows) for part in parts]
        units = {str(part.facts["unit"]) for part in parts}
        self.columns = (
            ColumnSpec(name, "<f4", (first.samples, sum(self._widths)), units.pop() if len(units) == 1 else None),
            ColumnSpec(f"{name}_valid", "|b1", (first.samples,)),
            ColumnSpec(f"{name}_channels", "<i4", (sum(self._widths),), None, table),
        )
        related = _united([part.related for part in parts])
        self.tables = {table: [row for part in parts for row in part.channel_rows], **related}
        self.problems = tuple(problem for part in parts for problem in part.problems)
        self.facts = {**first.facts, "paths": [part.facts["path"] for part in parts]}
        self.removals = {f"gap in {name}": normalise(np.concatenate([EMPTY, *map(_removed, parts)]))}
        covers = [part.covers for part in parts if part.covers is not None]
        self.covers = normalise(np.concatenate([EMPTY, *covers]))

    def read(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:
        """Return values, mask and channels of windows."""
        return self._side_by_side([part.read(starts, stops) for part in self._parts])

    def read_scattered(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:
        """Do the same window by window, without reading what lies between them."""
        return self._side_by_side([part.read_scattered(starts, stops) for part in self._parts])

    def _side_by_side(self, found: Sequence[Mapping[str, ColumnData]]) -> dict[str, ColumnData]:
        values = np.concatenate([np.asarray(columns[self.name]) for columns in found], axis=2)
        masks = [np.asarray(columns[f"{self.name}_valid"]) for columns in found]
        return {
            self.name: values,
            f"{self.name}_valid": np.logical_and.reduce(masks),
            f"{self.name}_channels": row_numbers(sum(self._widths), len(values)),
        }

    def valid_fraction(self, starts: Ints) -> Floats:
        """Return the least share of samples that any of the series has."""
        shares: Floats = np.min([part.valid_fraction(starts) for part in self._parts], axis=0)
        return shares


def _united(tables: Sequence[Mapping[str, Sequence[Mapping[str, Any]]]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the rows of several sets of tables, one behind the other, each once."""
    rows: dict[str, dict[Any, Mapping[str, Any]]] = {}
    for part in tables:
        for name, listed in part.items():
            rows.setdefault(name, {}).update({row["id"]: row for row in listed})
    return {name: list(found.values()) for name, found in rows.items()}


def _removed(part: WindowedSeries) -> Ints:
    return normalise(np.concatenate([EMPTY, *part.removals.values()]))


def _filtered(stream: Series, names: Sequence[str], picked: list[int], expression: str | None) -> list[int]:
    """Return those of the picked channels that an expression over their table lets through."""
    if expression is None:
        return picked
    rows = [{**_single(stream.table[i] if stream.table else {}), "channel": names[i]} for i in picked]
    chosen = compile_expression(expression)(table_columns(rows))
    if not chosen.any():
        raise ConfigError(f"{stream.path}: none of {counted(len(picked), 'channel')} is let through by {expression!r}")
    return [i for i, good in zip(picked, chosen, strict=True) if good]


def _single(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of single values: of several the first, and the others as ``NAME_1`` and so on."""
    # `iscell` of suite2p is a flag and a probability
    single: dict[str, Any] = {}
    for name, value in row.items():
        values = to_json(value)
        if isinstance(values, list) and values and not isinstance(values[0], list):
            single |= {f"{name}_{i}" if i else name: each for i, each in enumerate(values)}
        else:
            single[name] = value
    return single


def _samples(rate: float, grid: TimeGrid, path: str, asked: float | None) -> int:
    exact = rate * grid.window_ticks / TICKS_PER_SECOND
    samples = int(np.floor(exact + _AT_START))
    if asked is not None and abs(exact - round(exact)) > _AT_START:
        raise ConfigError(
            f"rate={asked:g} Hz gives {exact:g} samples in {grid.window_ticks / 1e6:g} ms: choose a rate that "
            "gives a whole number"
        )
    if samples < 1:
        raise ConfigError(f"{path}: a window of {grid.window_ticks / 1e6:g} ms holds no sample at {rate:g} Hz")
    return samples


def _block_rows(block_bytes: int, width: int, outputs_per_input: float) -> int:
    """Return how many output rows are read at once, so that their inputs fit into the block as float64."""
    inputs_per_output = max(1.0, 1 / outputs_per_input) if outputs_per_input > 0 else 1.0
    return max(1, int(block_bytes / max(1.0, 8 * width * inputs_per_output)))


def _extent(runs: Sequence[Track]) -> Ints:
    """Return the span from the first to the last sample."""
    if not runs:
        return EMPTY
    return to_ticks(np.array([[runs[0].t0, runs[-1].t0 + runs[-1].count / runs[-1].rate]]))


def _gaps(runs: Sequence[Track]) -> Ints:
    ends = [run.t0 + run.count / run.rate for run in runs[:-1]]
    begins = [run.t0 for run in runs[1:]]
    if not ends:
        return EMPTY
    return normalise(np.stack([to_ticks(np.array(ends)), to_ticks(np.array(begins))], axis=1))


def _calibration(stream: Series, options: SeriesOptions) -> list[Problem]:
    if stream.calibrated or options.units == "raw":
        return []
    what = f"{np.dtype(stream.dtype)} data without a scale"
    return [Problem(stream.path, what, "values are stored numbers although units are asked for: uncalibrated")]


def _irregular(stream: Series, times: Floats | None, rate: float | None) -> list[Problem]:
    if times is None:
        return []
    what = "time stamps are further than half a sample from a regular clock"
    return [Problem(stream.path, what, f"interpolated linearly{' at the rate asked for' if rate else ''}")]


def _channel_rows(
    stream: Series, grid: TimeGrid, names: Sequence[str], picked: Sequence[int], unit: str
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for i in picked:
        said = {key: to_json(value) for key, value in stream.table[i].items()} if stream.table else {}
        ids = {"id": f"{grid.session_id}/{stream.path}/{names[i]}", "session_id": grid.session_id}
        rows.append({**said, **ids, "table": stream.path, "channel": names[i], "stored_as": unit})
    return rows
