"""Behaviour in windows: the features of one or more series side by side, not-a-number and masked where unknown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import ConfigError, SourceError
from neurofm_shards.recordings.modality import Frame, WindowedModality, cut_short, plain, row_numbers
from neurofm_shards.recordings.options import BehaviorOptions
from neurofm_shards.recordings.sampling import SampledSeries
from neurofm_shards.recordings.selection import by_path, listing, pick
from neurofm_shards.recordings.series import Series, channel_names
from neurofm_shards.recordings.streams import AnyStream, EventStream, IntervalStream
from neurofm_shards.recordings.ticks import count_windows
from neurofm_shards.recordings.trains import load_trains
from neurofm_shards.types import ColumnData, ColumnSpec, Problem


class Behavior(WindowedModality):
    """Columns ``behavior`` (time, features) float32, ``behavior_valid`` of the same shape, ``behavior_features``.

    Values that the file does not have are not-a-number and masked: nothing is invented.

    Parameters
    ----------
    sources : sequence of (stream, BehaviorOptions)
        What to take, in this order.
    frame : Frame
        Bins and windows.
    named : bool
        Whether the user asked for them: then one that cannot be used is an error, else it is left out and reported, as
        long as there are others.
    """

    name = "behavior"

    def __init__(
        self, sources: Sequence[tuple[AnyStream, BehaviorOptions]], frame: Frame, *, named: bool = True
    ) -> None:
        self._frame = frame
        self._parts: list[SampledSeries | _CountedEvents] = []
        rows: list[dict[str, Any]] = []
        problems: list[Problem] = []
        unusable: SourceError | None = None
        for stream, options in sources:
            if isinstance(stream, IntervalStream):
                raise ConfigError(f"{stream.path} holds intervals, not behaviour: see trial_table and epochs")
            try:
                part, names, picked = _part(stream, options, frame)
            except SourceError as error:
                if named:
                    raise
                unusable = error
                problems.append(Problem(stream.path, str(error), "left out, as nobody asked for it by name", "error"))
                continue
            self._parts.append(part)
            problems += part.problems
            rows += _rows(stream, names, picked, part, frame)
        if unusable is not None and not self._parts:
            raise unusable
        self.problems = tuple(problems)
        self.tables = {"features": rows}
        shape = (frame.bins, len(rows))
        self.columns = (
            ColumnSpec("behavior", "<f4", shape),
            ColumnSpec("behavior_valid", "|b1", shape),
            ColumnSpec("behavior_features", "<i4", (len(rows),), None, "features"),
        )
        self.facts = {"paths": [stream.path for stream, _ in sources]}

    def read(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:
        """Return values, mask and the features' rows."""
        values = self._values(starts)
        for i, ticks in cut_short(starts, stops, self._frame.window_ticks):
            values[i, ticks // self._frame.bin_ticks :] = np.nan
        return {
            "behavior": values,
            "behavior_valid": np.isfinite(values),
            "behavior_features": row_numbers(values.shape[2], len(starts)),
        }

    def valid_fraction(self, starts: Ints) -> Floats:
        """Return the share of known values of each window; reads the series."""
        if not self.tables["features"]:
            return np.ones(len(starts))
        step = max(1, (1 << 22) // max(1, self._frame.bins * len(self.tables["features"])))
        parts = [np.isfinite(self._values(starts[i : i + step])).mean(axis=(1, 2)) for i in range(0, len(starts), step)]
        return np.concatenate([*parts, np.zeros(0)])

    def _values(self, starts: Ints) -> npt.NDArray[np.float32]:
        nothing = np.zeros((len(starts), self._frame.bins, 0), dtype=np.float32)
        return np.concatenate([nothing, *(part.read(starts) for part in self._parts)], axis=2)


class _CountedEvents:
    """Events of a stream as counts per bin, one feature per id; unknown where no time of the stream is a number."""

    kind = "events"
    unit = "count"

    def __init__(self, stream: EventStream, columns: list[int], frame: Frame) -> None:
        trains = load_trains(stream, frame.session_id, frame.timeline)
        self.problems = trains.problems
        self._trains, self._frame, self._columns = trains, frame, columns
        self._width = len(stream.owners)
        self._unknown = 0 < trains.facts["total"] == trains.facts["not_a_number"]

    def read(self, starts: Ints) -> npt.NDArray[np.float32]:
        """Return counts, shape (windows, bins, columns)."""
        shape = (self._frame.bins, self._width)
        if self._unknown:
            return np.full((len(starts), self._frame.bins, len(self._columns)), np.nan, dtype=np.float32)
        counts = count_windows(self._trains.ticks, self._trains.owner, starts, self._frame.bin_ticks, shape, "uint32")
        return counts[:, :, self._columns].astype(np.float32)


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
    stream: EventStream | Series, options: BehaviorOptions, frame: Frame
) -> tuple[SampledSeries | _CountedEvents, tuple[str, ...], list[int]]:
    if isinstance(stream, EventStream):
        if options.kind not in {None, "events"}:
            raise ConfigError(f"{stream.path} holds events: kind={options.kind} does not apply; leave it out")
        picked = pick(stream.owners, options.columns, stream.path)
        return _CountedEvents(stream, picked, frame), stream.owners, picked
    if options.kind == "events":
        raise ConfigError(f"{listing([stream])} holds values, not events: choose another kind")
    names = channel_names(stream)
    picked = pick(names, options.columns, stream.path)
    return SampledSeries(stream, picked, options, frame), names, picked


def _rows(
    stream: EventStream | Series,
    names: Sequence[str],
    picked: Sequence[int],
    part: SampledSeries | _CountedEvents,
    frame: Frame,
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for i in picked:
        said = {key: plain(value) for key, value in stream.table[i].items()} if stream.table else {}
        ids = {"id": f"{frame.session_id}/{stream.path}/{names[i]}", "session_id": frame.session_id}
        rows.append({**said, **ids, "path": stream.path, "column": names[i], "unit": part.unit, "kind": part.kind})
    return rows
