"""Turns tables into streams: units into spikes; trials, epochs and invalid times into intervals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from neurofm_shards._typing import Bools, Floats, Ints
from neurofm_shards._wording import counted
from neurofm_shards.errors import SourceError
from neurofm_shards.streams import EventStream, IntervalStream
from neurofm_shards.types import Problem
from neurofm_shards_nwb.content import Column, Table, never_written, small_columns

#: Columns that are data rather than properties of a unit.
_DATA_COLUMNS = ("spike_times", "obs_intervals", "waveforms", "waveform_mean", "waveform_sd", "spike_amplitudes")


def describe_units(path: str, table: Table) -> tuple[EventStream | None, list[Problem]]:
    """Describe a units table as a stream of spikes.

    Parameters
    ----------
    path : str
        The file, for messages.
    table : Table
        A table of type Units.

    Returns
    -------
    (EventStream or None, list of Problem)
        None when the table has no spike times.
    """
    spikes = table.columns.get("spike_times")
    if spikes is None or not len(table):
        what = counted(len(table), "unit") if spikes is None else "no units"
        return None, [Problem(table.path, f"{what}, without spike times", "not taken as spikes", "info")]
    owners, problems, refusal = _owners(table)
    problems += _unowned(spikes)
    properties, skipped, electrodes, odd = _properties(table, owners)
    problems += odd
    if skipped:
        problems.append(Problem(table.path, f"columns {', '.join(skipped)}", "left in the file: too large", "info"))
    observed = table.columns.get("obs_intervals")
    problems += [odd for column in (spikes, observed) if column is not None for odd in column.stamps.conversions]
    problems += [] if observed is None else _endless(observed)
    stream = EventStream(
        path=table.path,
        modality="spikes",
        kind_name=table.types[0],
        description=table.description,
        read=_reader(spikes, f"{path}: {refusal}" if refusal else ""),
        owners=owners,
        table=properties,
        tables={"electrodes": electrodes} if electrodes else {},
        observed=None if observed is None else _observed(observed),
    )
    return stream, problems


def _owners(table: Table) -> tuple[tuple[str, ...], list[Problem], str]:
    """Return unique ids; where the file repeats one, also the message with which reading is refused."""
    try:
        ids = table.row_ids
    except SourceError as error:
        refusal = f"{str(error).partition(': ')[2]}: which unit is which is unknown"
        unique = tuple(f"#{row}" for row in range(len(table)))
        return unique, [Problem(f"{table.path}/id", refusal, "its spikes are refused", "error")], refusal
    repeated = sorted(name for name, count in Counter(ids).items() if count > 1)
    if not repeated:
        return tuple(ids), [], ""
    refusal = (
        f"{table.path}/id has unit ids more than once ({', '.join(repeated[:5])}): which unit is meant cannot "
        "be known; give them ids of their own in the file"
    )
    unique = tuple(f"{name}#{row}" if name in repeated else name for row, name in enumerate(ids))
    return unique, [Problem(f"{table.path}/id", refusal, "its spikes are refused", "error")], refusal


def _unowned(spikes: Column) -> list[Problem]:
    """Report spike times behind the last unit's end; an index that cannot be trusted is refused when it is read."""
    if not spikes.indexes:
        return []
    try:
        ends = spikes.ends()
    except SourceError:
        return []
    left = len(spikes.data) - int(ends[-1]) if len(ends) else 0
    what = f"{left} of {len(spikes.data)} spike times belong to no unit: the index ends before them"
    return [Problem(spikes.data.where.rpartition(": ")[2], what, "left out")] if left else []


def _reader(spikes: Column, refusal: str) -> Callable[[], tuple[Floats, Ints]]:
    def read() -> tuple[Floats, Ints]:
        if refusal:
            raise SourceError(refusal)
        if len(spikes.data.shape) != 1 or spikes.data.dtype.kind not in "fiu":
            raise SourceError(
                f"{spikes.data.where} is of shape {spikes.data.shape} and type {spikes.data.dtype.name}, not one "
                "number for each spike: mend the file, or leave spikes out of modalities"
            )
        ends = spikes.ends() if spikes.indexes else np.arange(1, len(spikes.data) + 1, dtype=np.int64)
        total = int(ends[-1]) if len(ends) else 0
        times = spikes.data.read(0, total).astype(np.float64, copy=False)
        factor = spikes.stamps.time_factor
        times = times if factor == 1.0 else times * factor
        return times, np.repeat(np.arange(len(ends), dtype=np.int64), np.diff(ends, prepend=0))

    return read


def _observed(column: Column) -> Callable[[], Sequence[Floats | None]]:
    def observed() -> list[Floats | None]:
        values = column.stamps.seconds().reshape(-1, 2)
        values[:, 1] = np.where(np.isnan(values[:, 1]), np.inf, values[:, 1])
        ends = column.ends() if column.indexes else np.arange(1, len(values) + 1, dtype=np.int64)
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        return [values[a:b] if b > a else None for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]

    return observed


def _endless(column: Column) -> list[Problem]:
    """Report observed time without a stop; what cannot be read is refused when it is."""
    if column.data.shape[1:] != (2,):
        return []
    try:
        missing = np.isnan(column.stamps.seconds().reshape(-1, 2)[:, 1])
    except SourceError:
        return []
    what = _of_rows(missing, "have no stop time")
    place = column.data.where.rpartition(": ")[2]
    return [Problem(place, what, "observed until the recording's end")] if missing.any() else []


def _properties(
    table: Table, owners: Sequence[str]
) -> tuple[list[dict[str, Any]], list[str], list[dict[str, Any]], list[Problem]]:
    """Return the row of each unit, the columns that are too large for it, its electrodes, and what is missing."""
    names = [name for name in small_columns(table) if name not in _DATA_COLUMNS]
    skipped = [name for name in table.columns if name not in (*names, *_DATA_COLUMNS)]
    columns, problems = table.readable(names)
    rows = [{"id": unit, **record} for unit, record in zip(owners, table.records(columns), strict=True)]
    if "electrodes" not in columns:
        return rows, skipped, [], problems
    electrodes, odd = _resolve_electrodes(rows, table.columns["electrodes"])
    return rows, skipped, electrodes, problems + odd


def _resolve_electrodes(rows: list[dict[str, Any]], column: Column) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Replace row numbers of the electrodes table by ids, and add what it says of them; return its rows that are used.

    What is said of one electrode is a value, of several a list: ``electrode_x``, ``electrode_group_name``, ...
    """
    electrodes = column.rows_of
    if electrodes is None:
        return [], []
    ids = electrodes.row_ids
    columns, problems = electrodes.readable(small_columns(electrodes))
    places = columns.get("location", [""] * len(ids))
    used: dict[int, None] = {}
    for row in rows:
        listed = row["electrodes"] if isinstance(row["electrodes"], list) else [row["electrodes"]]
        known = [number for number in listed if number is not None and 0 <= number < len(ids)]
        used.update(dict.fromkeys(known))
        row["electrodes"] = [ids[number] for number in known]
        row.setdefault("location", ", ".join(dict.fromkeys(str(places[number]) for number in known)))
        for name, values in columns.items():
            said = [values[number] for number in known]
            row.setdefault(f"electrode_{name}", said[0] if len(said) == 1 else said)
    rows_used = [{"id": ids[row], **{name: values[row] for name, values in columns.items()}} for row in sorted(used)]
    return rows_used, problems


_MODALITIES = {"trials": "trials", "epochs": "epochs", "invalid_times": "invalid"}
_TIME_COLUMN = re.compile(r"(^|_)times?$|(^|_)(onset|offset)$", re.IGNORECASE)
#: Times that are lengths of something rather than points on the clock.
_DURATION = re.compile(
    r"duration|reaction|latency|valve|interval|iti|wait|hold|movement|exposure|total|dwell|lag", re.IGNORECASE
)


def describe_intervals(table: Table) -> tuple[IntervalStream | None, list[Problem]]:
    """Describe a TimeIntervals table as a stream.

    Returns
    -------
    (IntervalStream or None, list of Problem)
        None when the table lacks a start or stop column.
    """
    if not {"start_time", "stop_time"} <= set(table.columns):
        return None, [Problem(table.path, "no start_time and stop_time columns", "not taken as intervals")]
    if trouble := _trouble(table):
        return None, [Problem(table.path, trouble, "not taken as intervals", "error")]
    problems: list[Problem] = []
    try:
        start, stop = (_times(table, name, problems) for name in ("start_time", "stop_time"))
    except SourceError as error:
        return None, [Problem(table.path, str(error).partition(": ")[2], "not taken as intervals", "error")]
    names = [name for name in table.columns if name not in ("start_time", "stop_time")]
    fitting = [name for name in names if len(table.columns[name]) == len(table)]
    found, missing = table.readable(fitting)
    problems += missing
    for name in names:
        if name not in fitting:
            what = f"{len(table.columns[name])} values for {counted(len(table), 'row')}"
            problems.append(Problem(f"{table.path}/{name}", what, "the column is left out"))
    columns: dict[str, Any] = {"id": _known_ids(table, problems), **found}
    relative = tuple(name for name, values in columns.items() if _is_relative(name, values, start))
    stream = IntervalStream(
        path=table.path,
        modality=_MODALITIES.get(table.path.rpartition("/")[2], "intervals"),
        kind_name=table.types[0],
        description=table.description,
        start=start,
        stop=stop,
        columns=columns,
        relative_columns=relative,
    )
    return stream, problems + _odd(table, start, stop, relative)


def _trouble(table: Table) -> str:
    """Return why the times of a table are none; empty when they are."""
    for name in ("start_time", "stop_time"):
        data = table.columns[name].data
        if data.dtype.kind not in "fiu" or data.shape != (len(table),):
            return f"{name} is of shape {data.shape} and type {data.dtype.name}, not one number for each of its rows"
    return ""


def _times(table: Table, name: str, problems: list[Problem]) -> Floats:
    """Return one column of times; not-a-number where it was never written."""
    stored = table.columns[name].data
    values, missing = stored.with_gaps()
    if missing.any():
        problems.append(Problem(f"{table.path}/{name}", never_written(stored), "unknown there"))
    return np.where(missing, np.nan, values.astype(np.float64))


def _known_ids(table: Table, problems: list[Problem]) -> list[str | None]:
    """Return the ids of rows; None where they were never written."""
    if table.ids is None or not table.ids.hole:
        return [*table.row_ids]
    values, missing = table.ids.with_gaps()
    problems.append(Problem(f"{table.path}/id", never_written(table.ids), "unknown there"))
    return [None if gone else str(value) for value, gone in zip(values.tolist(), missing.tolist(), strict=True)]


def _is_relative(name: str, values: list[Any], start: Floats) -> bool:
    """Return whether a time column counts from the start of each interval rather than from the session's.

    Such values lie before their interval's start, are not negative, differ between rows, and do not grow with the
    session: they span less than half of what the starts span.
    """
    if not _TIME_COLUMN.search(name) or _DURATION.search(name) or not all(isinstance(v, (int, float)) for v in values):
        return False
    times = np.asarray(values, dtype=np.float64)
    usable = np.isfinite(times) & np.isfinite(start) & (times >= 0)
    times, begins = times[usable], start[usable]
    if len(times) < 3 or len(np.unique(times)) < 3:
        return False
    return bool(np.mean(times < begins) > 0.9 and np.ptp(times) < np.ptp(begins) / 2)


def _odd(table: Table, start: Floats, stop: Floats, relative: tuple[str, ...]) -> list[Problem]:
    problems = []
    if (without := np.isnan(stop)).any():
        what = _of_rows(without, "have no stop time")
        ends = {
            "invalid_times": "the recording's end",
            "epochs": "the next start, or the recording's end",
        }
        end = ends.get(table.path.rpartition("/")[2], "the next start, or is dropped")
        problems.append(Problem(f"{table.path}/stop_time", what, f"each lasts until {end}"))
    if (without := np.isnan(start)).any():
        what = _of_rows(without, "have no start time")
        problems.append(Problem(f"{table.path}/start_time", what, "these rows are dropped"))
    if (backwards := stop < start).any():
        what = _of_rows(backwards, "stop before they start")
        problems.append(Problem(f"{table.path}/stop_time", what, "these rows are dropped"))
    if relative:
        what = f"{', '.join(relative)} count from each row's start, not from the session's"
        consequence = "trial-aligned windows and trial labels are refused until these columns are declared relative"
        problems.append(Problem(table.path, what, consequence))
    return problems


def _of_rows(which: Bools, what: str) -> str:
    first = "" if which.all() else f" (the first: row {int(which.argmax())})"
    return f"{int(which.sum())} of {len(which)} rows {what}{first}"
