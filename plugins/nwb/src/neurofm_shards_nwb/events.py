"""Events and labelled intervals, which NWB files store as time series, tables or lists of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import AnyArray, Floats, Ints
from neurofm_shards._wording import counted
from neurofm_shards.streams import EventStream, IntervalStream
from neurofm_shards.types import Problem
from neurofm_shards_nwb.content import EventList, Series, StoredArray, Table, are_codes, small_columns, text

#: Time stamps looked at to tell events from samples.
_LOOK_AT = 10_000
#: More different values than this are measurements, not codes.
_MOST_CODES = 256
#: Longer series are sampled signals, and their values are not searched for codes.
_MOST_EVENTS = 5_000_000
_IN_A_STRETCH = 50
_FEWEST_STRETCHES = 6
_FEWEST_IN_A_STRETCH = 5
#: Stamps of a clock that samples a signal are not so many seconds apart, and hardly ever so many usual intervals.
_SLOW = 1.0
_PAUSE = 5
#: So many different whole numbers at times that are spread evenly are counts of an instrument.
_FEWEST_LEVELS = 32


def looks_like_events(series: Series, modality: str) -> bool:
    """Return whether a plain TimeSeries that counts as behaviour is a list of events rather than a signal.

    Everything in BehavioralEvents is; so is a series without three usable time stamps. Elsewhere stamps and values say.
    """
    if modality != "behavior" or series.timestamps is None or series.data is None or series.types[0] != "TimeSeries":
        return False
    if any(kind == "BehavioralEvents" for _, kind in series.containers):
        return True
    look = min(len(series.timestamps), _LOOK_AT)
    times = series.timestamps.read(0, look).astype(np.float64)
    times = times[np.isfinite(times)]
    return len(times) < 3 or _are_events(times, series.data.read(0, look), series.path)


def _are_events(times: Floats, values: AnyArray, path: str) -> bool:
    """Return whether values at these times are events.

    Pulses, all of them 1, are, those of a frame clock too, but for those that come in blocks at one time. A signal has
    a common interval (nine of ten intervals between different stamps lie within a fifth of the median), or measurements
    for values and time stamps that fill time evenly although they jitter or repeat. Of what is neither, constant values
    are events (licks, rewards) wherever they lie, but for those of a dead channel, whose stamps are a fast clock's;
    changing values are where they lie in acquisition and fewer than half of the intervals are within a factor of two of
    the median (a wheel that is sampled on movement, in a behaviour module, stays a signal). Values of which none is a
    number are no events.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).any():
        return False
    steps = np.diff(times)
    repeated = np.mean(steps == 0)
    if values.size == len(values) and np.all(values == 1) and repeated < 0.5:
        return True
    steps = steps[steps != 0] if steps.any() else steps
    median = float(np.median(steps))
    regular = np.mean(np.abs(steps - median) <= abs(median) / 5) >= 0.9
    if _is_constant(values):
        pauses = int(np.count_nonzero(steps > _PAUSE * median))
        return pauses > 1 + len(steps) // 50 or not (regular or (median < _SLOW and _fill_evenly(times)))
    if regular:
        return False
    scattered = np.mean((steps > median / 2) & (steps < median * 2)) < 0.5
    measured = _are_measurements(values) and _fill_evenly(times)
    return bool(scattered) and not measured and path.startswith("acquisition/")


def _is_constant(values: AnyArray) -> bool:
    """Return whether values never change, apart from those that are no number."""
    rows = values.reshape(len(values), math.prod(values.shape[1:]))
    known = rows[np.isfinite(rows).all(axis=1)]
    return bool(np.all(known == known[:1]))


def _are_measurements(values: AnyArray) -> bool:
    """Return whether values are no codes: fractions, or more different whole numbers than there are kinds of events."""
    known = values[np.isfinite(values)]
    return bool(np.any(known != np.rint(known))) or len(np.unique(known)) > _FEWEST_LEVELS


def _fill_evenly(times: Floats) -> bool:
    """Return whether equally many time stamps always take equally long, as a clock's do and as chance's do not.

    Of chance (Poisson) the variance is the mean squared, divided by how many they are. A gap or two change nothing.
    """
    different = np.unique(times)
    many = min(_IN_A_STRETCH, len(different) // _FEWEST_STRETCHES)
    if many < _FEWEST_IN_A_STRETCH:
        return False
    lengths = different[many:] - different[:-many]
    middle = float(np.median(lengths))
    spread = 1.4826 * float(np.median(np.abs(lengths - middle)))
    return many * spread**2 < 0.2 * middle**2


def event_stream(series: Series) -> EventStream | None:
    """Describe a series as events: annotations by text, codes by value, constant values by the series' name.

    Events of one kind (licks, rewards) and those in BehavioralEvents are behaviour; codes and annotations are events.

    Returns
    -------
    EventStream or None
        None when the values are measurements rather than codes.
    """
    assert series.data is not None  # noqa: S101  (the caller has looked)
    if series.data.shape not in {(len(series.data),), (len(series.data), 1)} or len(series.data) > _MOST_EVENTS:
        return None
    codes = _codes(series.data)
    if codes is None:
        return None
    owners, owner = codes
    is_behavior = any(kind == "BehavioralEvents" for _, kind in series.containers)
    if len(owners) <= 1 and series.data.dtype.kind in "fiub":
        owners, is_behavior = (series.path.rpartition("/")[2],), True
    return EventStream(
        path=series.path,
        modality="behavior" if is_behavior else "events",
        kind_name=series.types[0],
        description=series.description,
        read=lambda: (series.seconds(), owner),
        owners=owners,
    )


def _codes(data: StoredArray) -> tuple[tuple[str, ...], Ints] | None:
    """Return the different values as text and each event's number among them; None for measurements."""
    values = data.all().ravel()
    if values.dtype.kind in "fiub":
        whole = values.dtype.kind != "f" or bool(np.all(values == np.rint(values)))
        different, owner = np.unique(values, return_inverse=True)
        if len(different) > (_MOST_CODES if whole else 1):
            return None
        codes = different.astype(np.int64) if whole else different
        return tuple(str(code) for code in codes.tolist()), _as_int64(owner)
    different, owner = np.unique([text(value) for value in values], return_inverse=True)
    return tuple(str(value) for value in different), _as_int64(owner)


def _as_int64(owner: npt.NDArray[np.intp]) -> Ints:
    return owner.astype(np.int64).ravel()


def interval_series(series: Series) -> IntervalStream:
    """Turn an IntervalSeries (``k`` starts an interval of type k, ``-k`` ends it) into intervals."""
    assert series.data is not None  # noqa: S101  (the caller has looked)
    marks, times = series.data.all().astype(np.int64), series.seconds()
    starts: list[float] = []
    stops: list[float] = []
    kinds: list[int] = []
    open_rows: dict[int, int] = {}
    for mark, time in zip(marks.tolist(), times.tolist(), strict=True):
        if mark > 0:
            open_rows[mark] = len(starts)
            starts.append(time)
            stops.append(np.nan)
            kinds.append(mark)
        elif -mark in open_rows:
            stops[open_rows.pop(-mark)] = time
    return IntervalStream(
        path=series.path,
        modality="intervals",
        kind_name=series.types[0],
        description=series.description,
        start=np.array(starts, dtype=np.float64),
        stop=np.array(stops, dtype=np.float64),
        columns={"type": kinds},
    )


#: More different texts than this are remarks, not kinds of events.
_MOST_KINDS = 256


def describe_event_table(table: Table) -> tuple[EventStream | None, list[Problem]]:
    """Describe an EventsTable: its first column that is explained, else its first text of few values, names the events.

    What a table of the file says that they mean is told of each kind, which is called by its value: meanings are
    sentences, and may be corrected.

    Returns
    -------
    (EventStream or None, list of Problem)
        None when the table has no time stamps.
    """
    times = table.columns.get("timestamp")
    if times is None:
        return None, [Problem(table.path, "no timestamp column", "not taken as events")]
    stamped = times.stamps
    if trouble := stamped.trouble_with_stamps():
        return None, [Problem(table.path, trouble, "not taken", "error")]
    kinds, problems = _kinds(table)
    other = [name for name in table.columns if name not in ("timestamp", kinds.column)]
    problems += [Problem(table.path, f"columns {', '.join(other)}", "left in the file", "info")] if other else []

    stream = _event_stream(
        table.path, table.types[0], table.description, lambda: (stamped.seconds(), kinds.owner), kinds.names
    )
    return replace(stream, table=kinds.table), [*problems, *stamped.conversions]


@dataclass(frozen=True)
class _Kinds:
    """The kinds of events, each event's number among them, what is said of each, and the column that says so."""

    names: tuple[str, ...]
    owner: Ints
    table: tuple[dict[str, Any], ...] = ()
    column: str = ""


def _kinds(table: Table) -> tuple[_Kinds, list[Problem]]:
    """Return the kinds of a table's events, and what could not be read; one kind where no column names any."""
    names = [name for name in small_columns(table) if name not in ("timestamp", "duration")]
    explained = [name for name in names if table.columns[name].meanings or table.columns[name].elements is not None]
    others = sorted((name for name in names if name not in explained), key=lambda name: name != "annotation")
    found, problems = table.readable([*explained, *others])
    for name in (*explained, *others):
        values = found.get(name, [])
        named = all(isinstance(value, str) for value in values)
        codes = name in explained and None not in values and are_codes(values)
        if values and (named or codes) and len(different := sorted(set(values))) <= _MOST_KINDS:
            said = [table.columns[name].meaning(value) for value in different]
            plain = [str(value) if named or isinstance(value, bool) else f"{value:g}" for value in different]
            owner = np.searchsorted(np.asarray(different), np.asarray(values)).astype(np.int64)
            rows = [{"value": value, "meaning": meaning} for value, meaning in zip(different, said, strict=True)]
            return _Kinds(tuple(plain), owner, tuple(rows) if any(said) else (), name), problems
    return _Kinds((table.path.rpartition("/")[2],), np.zeros(len(table), dtype=np.int64)), problems


def _distinct(values: Sequence[str], said: Sequence[str]) -> tuple[str, ...]:
    """Return what values mean; the value itself where nothing is said, and beside a meaning that several have."""
    return tuple(
        f"{meaning}#{value}" if meaning and said.count(meaning) > 1 else meaning or value
        for meaning, value in zip(said, values, strict=True)
    )


def describe_annotated_events(table: Table) -> tuple[EventStream | None, list[Problem]]:
    """Describe an AnnotatedEventsTable (ndx-events 0.1 and 0.2): a row for each kind of event, with all its times."""
    times = table.columns.get("event_times")
    if times is None or not times.indexes:
        return None, [Problem(table.path, "no event_times for each row", "not taken as events")]
    stamped = times.stamps
    if trouble := stamped.trouble_with_stamps():
        return None, [Problem(table.path, trouble, "not taken", "error")]
    labels = table.columns["label"].values() if "label" in table.columns else table.row_ids
    owners = tuple(f"{label}#{row}" if labels.count(label) > 1 else str(label) for row, label in enumerate(labels))

    def read() -> tuple[Floats, Ints]:
        ends = times.ends()
        total = int(ends[-1]) if len(ends) else 0
        owner = np.repeat(np.arange(len(ends), dtype=np.int64), np.diff(ends, prepend=0))
        return stamped.seconds()[:total], owner

    return _event_stream(table.path, table.types[0], table.description, read, owners), list(stamped.conversions)


def describe_event_list(listed: EventList) -> tuple[EventStream | None, list[Problem]]:
    """Describe Events, LabeledEvents or TTLs of ndx-events 0.1 and 0.2; without labels the name is the one code."""
    stamps, name = listed.timestamps, listed.path.rpartition("/")[2]
    if stamps is None or (trouble := listed.trouble_with_stamps()):
        what = "events without time stamps" if stamps is None else trouble
        return None, [Problem(listed.path, what, "not taken", "error")]
    codes = (
        np.zeros(len(stamps), dtype=np.int64) if listed.codes is None else listed.codes.all().astype(np.int64).ravel()
    )
    if len(codes) != len(stamps):
        what = f"{len(codes)} codes for {counted(len(stamps), 'time stamp')}"
        return None, [Problem(listed.path, what, "which event is which is unknown: not taken", "error")]
    used, owner = np.unique(codes, return_inverse=True)
    said = [listed.labels[code] if 0 <= code < len(listed.labels) else "" for code in used.tolist()]
    owners = _distinct([str(code) for code in used.tolist()], said) if listed.codes is not None else (name,)
    stream = _event_stream(
        listed.path,
        listed.types[0],
        listed.description,
        lambda: (listed.seconds(), owner.astype(np.int64).ravel()),
        owners,
    )
    return stream, list(listed.conversions)


def _event_stream(
    path: str, kind: str, description: str, read: Callable[[], tuple[Floats, Ints]], owners: tuple[str, ...]
) -> EventStream:
    return EventStream(path=path, modality="events", kind_name=kind, description=description, read=read, owners=owners)
