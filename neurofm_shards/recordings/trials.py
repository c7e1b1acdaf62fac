"""Trial tables as they are found (without stops, relative to the trial's start, overlapping), and trial labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Bools, Floats, Ints
from neurofm_shards._wording import counted
from neurofm_shards.blocks import SHARED_TABLE
from neurofm_shards.errors import ConfigError, SourceError
from neurofm_shards.expressions import compile_expression
from neurofm_shards.recordings.options import WindowOptions
from neurofm_shards.recordings.ticks import is_time, to_seconds, to_ticks
from neurofm_shards.recordings.timeline import Timeline
from neurofm_shards.recordings.trains import by_path, column, listing, only
from neurofm_shards.streams import IntervalStream
from neurofm_shards.types import ColumnSpec, Problem
from neurofm_shards.values import to_json

#: Names of spans of time, which are small by nature and no points in time.
_DURATIONS = ("duration", "reaction", "latency", "delay", "interval", "response_time", "timeout", "period", "exposure")
_FEWEST = 3


def recognised_columns(stream: IntervalStream) -> list[str]:
    """Return the time columns that the plugin, or their values, say are relative to the interval's start.

    A column is recognised when its name speaks of time, most of its values do not lie within their own interval, and
    most of them do once the interval's start is added.
    """
    found = list(stream.relative_columns)
    for name, values in stream.columns.items():
        if name in found or "time" not in name.lower() or any(word in name.lower() for word in _DURATIONS):
            continue
        array = column(values)
        if array.dtype.kind in "iuf" and _relative(stream, array.astype(np.float64)):
            found.append(name)
    return found


def session_columns(stream: IntervalStream) -> list[str]:
    """Return the time columns whose values lie within their own interval: in session time beyond doubt."""
    found = []
    for name, values in stream.columns.items():
        array = column(values)
        if "time" in name.lower() and name not in stream.relative_columns and array.dtype.kind in "iuf":
            share = _inside(stream, array.astype(np.float64))
            if share is not None and share[0] >= 0.5:
                found.append(name)
    return found


def _relative(stream: IntervalStream, values: Floats) -> bool:
    share = _inside(stream, values)
    return share is not None and share[0] < 0.5 < share[1]


def _inside(stream: IntervalStream, values: Floats) -> tuple[float, float] | None:
    """Return which share of values lies near its interval, as it is and with the interval's start added."""
    known = np.isfinite(values) & np.isfinite(stream.start)
    if known.sum() < _FEWEST:
        return None
    start, value = stream.start[known], values[known]
    length = _lengths(stream)[known]
    as_session = (value >= start - length) & (value <= start + 2 * length)
    as_relative = (value >= -length) & (value <= 2 * length)
    return float(as_session.mean()), float(as_relative.mean())


def _lengths(stream: IntervalStream) -> Floats:
    """Return the length of each interval; the median one (or step between starts) where it is not known."""
    lengths = stream.stop - stream.start
    known = np.isfinite(lengths)
    steps = np.diff(np.sort(stream.start[np.isfinite(stream.start)]))
    typical = lengths[known] if known.any() else steps
    filled: Floats = np.where(known, lengths, float(np.median(typical)) if len(typical) else 1.0)
    return filled


@dataclass(frozen=True)
class Trials:
    """The usable rows of a trial table.

    Attributes
    ----------
    rows : numpy.ndarray of int64, shape (n,)
        Row of each in the file's table.
    start, stop : numpy.ndarray of int64, shape (n,)
        Ticks; ascending by start.
    align : numpy.ndarray of int64, shape (n,), or None
        The aligned time of each; only for windows that are cut around it.
    columns : mapping of str to numpy.ndarray, shape (n,)
        What the table says of each.
    drops : mapping of str to int
        Rows left out, by reason.
    problems : tuple of Problem
        What was odd.
    """

    rows: Ints
    start: Ints
    stop: Ints
    align: Ints | None
    columns: Mapping[str, npt.NDArray[Any]]
    drops: Mapping[str, int]
    problems: tuple[Problem, ...]

    def around(self, starts: Ints, stops: Ints) -> Ints:
        """Return for each window the position of the last-started trial that holds it as a whole, or -1."""
        found = np.full(len(starts), -1, dtype=np.int64)
        if len(self.rows) == 0:
            return found
        reach = np.maximum.accumulate(self.stop)
        at = np.searchsorted(self.start, starts, side="right") - 1
        open_ = np.flatnonzero((at >= 0) & (reach[np.maximum(at, 0)] >= stops))
        while len(open_):
            inside = self.stop[at[open_]] >= stops[open_]
            found[open_[inside]] = at[open_[inside]]
            open_ = open_[~inside]
            at[open_] -= 1
            open_ = open_[(at[open_] >= 0) & (reach[np.maximum(at[open_], 0)] >= stops[open_])]
        return found


def load_trials(streams: Sequence[IntervalStream], options: WindowOptions, timeline: Timeline) -> Trials | None:
    """Find the trial table and make sense of it; None where there is none, or none that can be trusted.

    Raises
    ------
    SourceError
        Trials are needed (aligned windows, labels) and there are none, none with times, several, or some that cannot
        be trusted.
    ConfigError
        A named column is not there.
    """
    needed = options.sampling != "fixed" or bool(options.label_columns) or options.trial_filter is not None
    needed = needed or (options.split is not None and options.split.by == "trial")
    stream = _table(streams, options, needed=needed)
    if stream is None:
        return None
    _check_names(stream, options)
    declared = {*options.relative_columns, *options.absolute_columns}
    undeclared = [name for name in recognised_columns(stream) if name not in declared]
    used = {options.align_field, *options.labels("metadata"), *options.labels("code")} & set(undeclared)
    # where other columns are in session time, small numbers are more likely durations: only their use is refused
    if used or (undeclared and not session_columns(stream)):
        what = f"{', '.join(undeclared)} seem to count from the start of each trial, not of the session"
        remedy = (
            f"say relative_columns={','.join(undeclared)} (or absolute_columns, if they are session times after all)"
        )
        if needed:
            raise SourceError(f"{stream.path}: {what}: trials cannot be aligned or labelled until you {remedy}")
        problem = Problem(stream.path, what, f"samples carry no trial (trial = -1) until you {remedy}")
        return Trials(_NONE, _NONE, _NONE, None, {}, {}, (problem,))
    return _usable(stream, options, timeline, needed=needed)


_NONE: Ints = np.zeros(0, dtype=np.int64)


def _table(streams: Sequence[IntervalStream], options: WindowOptions, *, needed: bool) -> IntervalStream | None:
    if options.trial_table is not None:
        return by_path(streams, options.trial_table, "trial_table")
    found = [stream for stream in streams if stream.modality == "trials"]
    if found:
        return only(found, "trial_table", "trial tables")
    if needed:
        raise SourceError(
            "there is no trial table, and aligned windows, labels, trial filters and splits by trial need one; "
            f"interval tables present: {listing(streams)}. Choose one with trial_table."
        )
    return None


def _check_names(stream: IntervalStream, options: WindowOptions) -> None:
    present = ["start_time", "stop_time", *stream.columns]
    wanted = [*(name for name in options.labels("metadata") if name != "*"), *options.labels("code")]
    if options.sampling != "fixed":
        wanted.append(options.align_field)
    absent = [name for name in [*wanted, *options.relative_columns, *options.absolute_columns] if name not in present]
    if absent:
        raise ConfigError(f"{stream.path} has no column {', '.join(map(repr, absent))}; present: {', '.join(present)}")


def _usable(stream: IntervalStream, options: WindowOptions, timeline: Timeline, *, needed: bool) -> Trials:
    columns = {name: column(values) for name, values in stream.columns.items()}
    columns |= {"start_time": stream.start, "stop_time": stream.stop}
    dropped: dict[str, Bools] = {}
    keep = is_time(stream.start)
    dropped["trial without a start time"] = ~keep
    backwards = keep & (stream.stop < stream.start)
    dropped["trial that stops before it starts"] = backwards
    keep &= ~backwards
    timed = keep
    if options.trial_filter is not None:
        wanted = np.asarray(compile_expression(options.trial_filter)(columns), dtype=bool)
        dropped["trial_filter"] = keep & ~wanted
        keep = keep & wanted
    align = _aligned(stream, columns, options)
    if align is not None:
        dropped[f"trial without {options.align_field}"] = keep & ~is_time(align)
        keep = keep & is_time(align)
    stop = _stops(stream, align, options, timeline)
    dropped["trial without a stop time"] = keep & ~is_time(stop)
    keep = keep & is_time(stop)
    drops = {reason: int(which.sum()) for reason, which in dropped.items() if which.any()}
    if needed and len(stream) and not (timed & is_time(stop)).any():
        why = ", ".join(f"{reason}: {count}" for reason, count in drops.items())
        raise SourceError(
            f"{stream.path}: none of its {counted(len(stream), 'row')} has times that can be used ({why})"
        )
    rows = np.flatnonzero(keep)
    rows = rows[np.argsort(stream.start[rows], kind="stable")]
    problems = [
        Problem(
            stream.path,
            f"{counted(count, 'row')}: {reason} (the first: row {int(dropped[reason].argmax())})",
            "left out",
        )
        for reason, count in drops.items()
    ]
    return Trials(
        rows=rows,
        start=to_ticks(stream.start[rows]),
        stop=to_ticks(stop[rows]),
        align=None if align is None else to_ticks(align[rows]),
        columns={name: values[rows] for name, values in columns.items()},
        drops=drops if options.sampling != "fixed" else {},
        problems=tuple(problems),
    )


def _aligned(stream: IntervalStream, columns: Mapping[str, npt.NDArray[Any]], options: WindowOptions) -> Floats | None:
    if options.sampling == "fixed":
        return None
    values = columns[options.align_field]
    if values.dtype.kind not in "iuf":
        raise ConfigError(f"{stream.path}: align_field={options.align_field!r} holds no times")
    times = values.astype(np.float64)
    relative = options.align_field in options.relative_columns
    shifted: Floats = stream.start + times if relative else times
    return shifted


def _stops(stream: IntervalStream, align: Floats | None, options: WindowOptions, timeline: Timeline) -> Floats:
    """Return stop times, with those the file does not have filled in as asked."""
    stop: Floats = stream.stop.astype(np.float64)
    absent = ~is_time(stop)
    if not absent.any() or options.nan_stop == "drop":
        return stop
    if options.nan_stop == "align_range":
        stop[absent] = (stream.start if align is None else align)[absent] + options.align_stop_s
        return stop
    known = np.sort(stream.start[is_time(stream.start)])
    after = np.searchsorted(known, stream.start, side="right")
    ends = np.concatenate([known, [to_seconds(timeline.stop)]])
    stop[absent] = ends[np.minimum(after, len(known))][absent]
    return stop


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


@dataclass(frozen=True)
class Coded:
    """Values of which there are few: window ``i`` says ``values[codes[i]]`` (-1 is the last one)."""

    values: Sequence[Any]
    codes: Ints

    def tolist(self) -> list[Any]:
        """Return the labels of each window."""
        return [self.values[code] for code in self.codes.tolist()]


#: One entry of the metadata of many windows: numbers, or values that repeat.
MetadataValues: TypeAlias = "npt.NDArray[Any] | Coded"


class Labels:
    """Makes the ``trial`` (row in the file's table, -1 for none), ``align_s`` and label entries of samples.

    Every sample has the same keys. Without a trial, or where the table says nothing, a text is ``""`` and everything
    else None.

    Parameters
    ----------
    trials : Trials or None
        The usable trials.
    names : sequence of str
        Columns to copy; ``"*"`` for all that hold one number, text or boolean per row.
    coded : sequence of str
        Columns whose values become numbers: rows of a table of the different ones, -1 where there is none.

    Attributes
    ----------
    columns : tuple of ColumnSpec
        A column ``NAME_code`` for each that is coded.
    tables : mapping of str to sequence of dict
        Their tables.
    """

    def __init__(self, trials: Trials | None, names: Sequence[str], coded: Sequence[str] = ()) -> None:
        self._trials = trials
        self._codes, self.tables = _coded(trials, coded)
        self.columns = tuple(
            ColumnSpec(f"{name}_code", "<i4", (), None, f"{SHARED_TABLE}{name}") for name in self._codes
        )
        self._columns: dict[str, list[Any]] = {}
        self._none: dict[str, Any] = {}
        for name in _chosen(trials, names):
            values = [] if trials is None else [to_json(value) for value in trials.columns[name]]
            self._none[name] = "" if any(isinstance(value, str) for value in values) else None
            self._columns[name] = [self._none[name] if value is None else value for value in values]

    def of(self, starts: Ints, stops: Ints, origin: Ints) -> dict[str, MetadataValues]:
        """Return the entries of windows by name; ``origin`` is the trial each was cut from, or -1."""
        trials = self._trials
        if trials is None:
            at = np.full(len(starts), -1, dtype=np.int64)
            return {"trial": at, **{name: Coded([none], at) for name, none in self._none.items()}}
        at = self._trial_of(trials, starts, stops, origin)
        said: dict[str, MetadataValues] = {"trial": np.append(trials.rows, -1)[at]}
        said |= {name: Coded([*values, self._none[name]], at) for name, values in self._columns.items()}
        if trials.align is not None:
            said["align_s"] = to_seconds(trials.align[at])
        return said

    def codes(self, starts: Ints, stops: Ints, origin: Ints) -> dict[str, npt.NDArray[np.int32]]:
        """Return the coded columns of windows."""
        if self._trials is None or not self._codes:
            return {}
        at = self._trial_of(self._trials, starts, stops, origin)
        return {f"{name}_code": codes[at] for name, codes in self._codes.items()}

    @staticmethod
    def _trial_of(trials: Trials, starts: Ints, stops: Ints, origin: Ints) -> Ints:
        return np.where(origin >= 0, origin, trials.around(starts, stops))


def _coded(
    trials: Trials | None, names: Sequence[str]
) -> tuple[dict[str, npt.NDArray[np.int32]], dict[str, list[dict[str, Any]]]]:
    """Return the codes of each trial, followed by -1 for none, and the tables of what they mean, both by field name."""
    codes: dict[str, npt.NDArray[np.int32]] = {}
    tables: dict[str, list[dict[str, Any]]] = {}
    columns = {} if trials is None else {name: trials.columns[name] for name in names}
    for name, stored in columns.items():
        values = [_label(value) for value in stored]
        if any(isinstance(value, (list, dict)) for value in values):
            raise ConfigError(f"label_columns: {name!r} holds several values per trial, which no code stands for")
        field = re.sub(r"[^a-z0-9-]+", "_", name.lower()).strip("_-")
        if not field or field in codes:
            raise ConfigError(f"label_columns: {name!r} would be a second column {field}_code: leave one of them out")
        known = sorted({(type(value).__name__, value) for value in values if value is not None})
        places = {value: place for place, value in enumerate(known)}
        codes[field] = np.array([*(places.get((type(v).__name__, v), -1) for v in values), -1], dtype=np.int32)
        tables[f"{SHARED_TABLE}{field}"] = [{"id": str(value), "value": value} for _, value in known]
    return codes, tables


def _label(value: Any) -> Any:
    """Return a label as a JSON value, None where it says nothing; whole numbers are integers, whatever their type."""
    plain = to_json(value)
    if isinstance(plain, float) and plain.is_integer():
        return int(plain)
    return None if isinstance(plain, str) and not plain else plain


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
    return values.dtype != object or all(value is None or isinstance(value, (str, int, float)) for value in values)
