"""Spike trains: sorted, without not-a-number, with ids, filtered by unit; finding streams by modality and path."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import AmbiguousStreamsError, ConfigError, SourceError
from neurofm_shards.expressions import compile_expression
from neurofm_shards.recordings.ticks import EMPTY, TICKS_PER_SECOND, contains, is_time, normalise, to_ticks
from neurofm_shards.recordings.timeline import Timeline, within
from neurofm_shards.streams import (
    AnyStream,
    EventCounts,
    EventStream,
    IntervalStream,
    RegularStream,
    SortedEvents,
)
from neurofm_shards.types import Problem
from neurofm_shards.values import exact_numbers, to_json

#: A step back by more than this share of a unit's range looks like a new start at zero.
_RESTART = 0.5
_RESTART_SHARE = 0.01
_FEWEST_RESTARTS = 3
_MIN_EVENTS = 10
#: Bits of an int64 beside its sign.
_SORTABLE_BITS = 63


@dataclass(frozen=True)
class Trains:
    """Events of many owners, cleaned.

    Attributes
    ----------
    ticks : numpy.ndarray of int64, shape (n,)
        Times, ascending; ties in file order; only those inside the recording's extent.
    owner : numpy.ndarray of int, shape (n,)
        Number of the owner of each.
    table : tuple of dict
        JSON properties of each owner: ``id`` (``session/table/unit``), ``session_id``, ``table``, ``unit``, what the
        file says, ``num_spikes`` and ``firing_rate_hz``.
    observed : tuple of (numpy.ndarray of int64, shape (k, 2))
        When each owner was observed, in ticks.
    rows : numpy.ndarray of int32, shape (owners,), or None
        Row of ``table`` of each owner, -1 for those that were not chosen; None where all were.
    facts : mapping
        Numbers of spikes: total, not-a-number, unsorted, outside, kept.
    problems : tuple of Problem
        What was done to them.
    """

    ticks: Ints
    owner: npt.NDArray[Any]
    table: tuple[Mapping[str, Any], ...]
    observed: tuple[Ints, ...]
    facts: Mapping[str, int]
    problems: tuple[Problem, ...]
    rows: npt.NDArray[np.int32] | None = None


def load_trains(stream: EventStream, session_id: str, timeline: Timeline, *, suspicious: str = "allow") -> Trains:
    """Read events, sort them, drop what is no time, and count what was done.

    Parameters
    ----------
    stream : EventStream
        Where they come from.
    session_id : str
        First part of the ids.
    timeline : Timeline
        Events outside of it are left out and counted.
    suspicious : {"error", "allow"}
        What to do about times that look like sample numbers or restart in every trial.

    Raises
    ------
    SourceError
        Ids repeat, owners are out of range, or times are suspicious and that is not allowed.
    """
    _check_ids(stream)
    events = stream.in_order() if stream.in_order is not None else sorted_events(stream)
    problems = _suspicions(stream.path, events.suspicions, suspicious)
    observed = observed_spans(stream, timeline)
    inside = events.known
    if inside is None or not np.array_equal(inside.recorded, timeline.recorded):
        inside = counted(events, timeline, len(stream.owners), observed if stream.observed is not None else None)
    kept = inside.last - inside.first
    facts = {
        "total": events.total,
        "not_a_number": events.not_a_number,
        "unsorted_steps": events.unsorted,
        "outside": events.total - events.not_a_number - kept,
    }
    problems += _reports(stream.path, facts)
    return Trains(
        ticks=events.ticks[inside.first : inside.last],
        owner=events.owner[inside.first : inside.last],
        table=_table(stream, session_id, inside.counts, inside.seen, observed),
        observed=observed,
        facts={**facts, "kept": kept},
        problems=tuple(problems),
    )


def sorted_events(stream: EventStream) -> SortedEvents:
    """Read events, look through them as they were found, and sort those that have a time (raises SourceError)."""
    times, owner = _checked(stream)
    total = len(times)
    known = np.isfinite(times)
    missing = total - int(known.sum())
    if missing:
        times, owner = times[known], owner[known]
    unsorted = _unsorted(times, owner)
    suspicions = _suspicious(times, owner, unsorted)
    near = is_time(times)
    if not near.all():
        times, owner = times[near], owner[near]
    ticks, owners = to_ticks(times), owner.astype(np.int32)
    if (ticks[1:] < ticks[:-1]).any():
        ticks, owners = in_order(ticks, owners)
    return SortedEvents(ticks, owners, total, missing, unsorted, suspicions)


def counted(events: SortedEvents, timeline: Timeline, width: int, observed: Sequence[Ints] | None) -> EventCounts:
    """Count the events of each of ``width`` owners inside a recording, and while they were observed."""
    first, last = np.searchsorted(events.ticks, [timeline.start, timeline.stop], side="left").tolist()
    ticks, owner = events.ticks[first:last], events.owner[first:last]
    counts = np.bincount(owner, minlength=width)
    seen = counts if observed is None else _counted_inside(ticks, owner, observed)
    return EventCounts(timeline.recorded, first, last, counts, seen)


def choose(trains: Trains, unit_filter: str | None, min_rate: float) -> Trains:
    """Keep the units that a filter expression and a minimum rate let through (raises ConfigError)."""
    keep = np.ones(len(trains.table), dtype=bool)
    if unit_filter is not None:
        keep &= compile_expression(unit_filter)(table_columns(trains.table))
    if min_rate > 0:
        keep &= np.array([row["firing_rate_hz"] >= min_rate for row in trains.table], dtype=bool)
    if keep.all():
        return trains
    problems = trains.problems
    if not keep.any():
        where = trains.table[0]["table"] if trains.table else ""
        problems += (Problem(where, f"none of {len(keep):,} units is left by the filters", "samples hold no units"),)
    table = tuple(row for row, good in zip(trains.table, keep, strict=True) if good)
    return replace(
        trains,
        table=table,
        rows=np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32),
        observed=tuple(spans for spans, good in zip(trains.observed, keep, strict=True) if good),
        facts={**trains.facts, "kept": sum(row["num_spikes"] for row in table), "units_dropped": int((~keep).sum())},
        problems=problems,
    )


def join(trains: Sequence[Trains]) -> Trains:
    """Return the events of several streams as one, owners one after the other."""
    if len(trains) == 1:
        return trains[0]
    shifts = np.cumsum([0, *(len(part.table) for part in trains[:-1])])
    ticks = np.concatenate([part.ticks for part in trains])
    owner = np.concatenate([part.owner + shift for part, shift in zip(trains, shifts, strict=True)])
    order = np.argsort(ticks, kind="stable")
    return Trains(
        ticks=ticks[order],
        owner=owner[order].astype(np.int32),
        table=tuple(row for part in trains for row in part.table),
        observed=tuple(spans for part in trains for spans in part.observed),
        facts={key: sum(part.facts[key] for part in trains) for key in trains[0].facts},
        problems=tuple(problem for part in trains for problem in part.problems),
    )


def table_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return a side table column by column: numbers with not-a-number for None, else objects."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: column([row.get(name) for row in rows]) for name in names}


def column(values: Sequence[Any]) -> npt.NDArray[Any]:
    """Return one column as the plainest array that holds it exactly; None and not-a-number are not-a-number in numbers.

    Numbers that no type of NumPy holds exactly, as integers beyond 2**53 beside None or fractions, stay objects.
    """
    items = [to_json(value) for value in values]
    kinds = set(map(type, items))
    if kinds == {bool}:
        return np.array(items, dtype=bool)
    if kinds and kinds <= {int, float, type(None)} and kinds != {type(None)}:
        numbers = exact_numbers([math.nan if item is None else item for item in items])
        if numbers.dtype != object:
            return numbers
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def _check_ids(stream: EventStream) -> None:
    repeated = [name for name, count in Counter(stream.owners).items() if count > 1]
    if repeated:
        raise SourceError(
            f"{stream.path}: ids appear more than once: {', '.join(repeated[:10])}. Ids tell units apart in every "
            "table of the data set; correct them in the file."
        )


def _checked(stream: EventStream) -> tuple[Floats, Ints]:
    times, owner = stream.read()
    times, owner = np.asarray(times, dtype=np.float64), np.asarray(owner)
    if times.shape != owner.shape or times.ndim != 1:
        raise SourceError(f"{stream.path}: times of shape {times.shape} and ids of shape {owner.shape} do not match")
    if len(owner) and not (int(owner.min()) >= 0 and int(owner.max()) < len(stream.owners)):
        raise SourceError(f"{stream.path}: an event belongs to id number {int(owner.max())} of {len(stream.owners)}")
    return times, owner


def _unsorted(times: Floats, owner: Ints) -> int:
    return int(((times[1:] < times[:-1]) & (owner[1:] == owner[:-1])).sum())


def _suspicious(times: Floats, owner: Ints, unsorted: int) -> tuple[str, ...]:
    found = []
    head = times[:1000]
    if len(np.unique(head)) >= _MIN_EVENTS and (head == np.rint(head)).all() and (times == np.rint(times)).all():
        found.append("all times are whole numbers: they look like sample numbers, not seconds")
    if unsorted >= _FEWEST_RESTARTS and _restarts(times, owner):
        found.append("times go back to the start again and again: they look as if they restarted in every trial")
    return tuple(found)


def _suspicions(path: str, found: Sequence[str], suspicious: str) -> list[Problem]:
    if found and suspicious == "error":
        raise SourceError(
            f"{path}: {'; '.join(found)}. Correct the file, or say suspicious_spike_times=allow to take them as "
            "seconds of the session."
        )
    return [Problem(path, what, "taken as seconds of the session, as allowed") for what in found]


def _restarts(times: Floats, owner: Ints) -> bool:
    if len(times) < _MIN_EVENTS:
        return False
    same = owner[1:] == owner[:-1]
    back = (times[:-1] - times[1:])[same]
    jumps = int((back > _RESTART * (times.max() - times.min())).sum())
    return jumps >= _FEWEST_RESTARTS and jumps >= _RESTART_SHARE * len(back)


def in_order(ticks: Ints, owners: npt.NDArray[np.int32]) -> tuple[Ints, npt.NDArray[np.int32]]:
    """Sort by time, ties in file order.

    Where events are listed owner by owner, file order is the order of owners, and both fit into one integer, which
    sorts several times faster than an index does; equal ones are the same event twice, so no sort has to be stable.
    """
    bits = int(owners.max()).bit_length()
    first = int(ticks.min())
    if (owners[1:] < owners[:-1]).any() or (int(ticks.max()) - first).bit_length() + bits > _SORTABLE_BITS:
        order = np.argsort(ticks, kind="stable")
        return ticks[order], owners[order]
    packed = ticks - first
    packed <<= bits
    packed |= owners
    packed.sort()
    owners = (packed & ((1 << bits) - 1)).astype(np.int32)
    packed >>= bits
    packed += first
    return packed, owners


def _reports(path: str, facts: Mapping[str, int]) -> list[Problem]:
    wording = (
        ("not_a_number", "times are not a number", "dropped"),
        ("unsorted_steps", "times come before the one listed ahead of them", "sorted"),
        ("outside", "times lie outside of the recording's extent", "excluded, not moved to its ends"),
    )
    return [
        Problem(path, f"{facts[key]} of {facts['total']} {what}", consequence)
        for key, what, consequence in wording
        if facts[key]
    ]


def observed_spans(stream: EventStream, timeline: Timeline) -> tuple[Ints, ...]:
    """Return when each owner was observed, in ticks; by default, whenever something was recorded."""
    recorded = timeline.recorded
    if stream.observed is None:
        return (recorded,) * len(stream.owners)
    said = [
        None if spans is None else np.asarray(spans, dtype=np.float64).reshape(-1, 2) for spans in stream.observed()
    ]
    return tuple(recorded if spans is None else normalise(within(timeline, *spans.T)) for spans in said)


def _counted_inside(ticks: Ints, owners: npt.NDArray[Any], observed: Sequence[Ints]) -> Ints:
    """Count the events of each owner while it was observed."""
    order = np.argsort(owners, kind="stable")
    edges = np.searchsorted(owners[order], np.arange(len(observed) + 1))
    parts = [ticks[order[a:b]] for a, b in pairwise(edges)]
    return np.array([int(contains(spans, part).sum()) for spans, part in zip(observed, parts, strict=True)], dtype=int)


def _table(
    stream: EventStream, session_id: str, counts: Ints, seen: Ints, observed: Sequence[Ints]
) -> tuple[Mapping[str, Any], ...]:
    rows = []
    for i, unit in enumerate(stream.owners):
        said = {name: to_json(value) for name, value in stream.table[i].items()} if stream.table else {}
        ids = {"id": f"{session_id}/{stream.path}/{unit}", "session_id": session_id, "table": stream.path, "unit": unit}
        spans = observed[i] if len(observed) else EMPTY
        seconds = int((spans[:, 1] - spans[:, 0]).sum()) / TICKS_PER_SECOND
        rate = int(seen[i]) / seconds if seconds else 0.0
        rows.append({**said, **ids, "num_spikes": int(counts[i]), "firing_rate_hz": rate})
    return tuple(rows)


def related_tables(stream: AnyStream, session_id: str) -> dict[str, list[dict[str, Any]]]:
    """Return the tables that belong to a stream's units or channels, with ids that are unique in a data set."""
    return {
        name: [
            {**{key: to_json(value) for key, value in row.items()}, "id": f"{session_id}/{name}/{row['id']}"}
            | {"session_id": session_id}
            for row in rows
        ]
        for name, rows in stream.tables.items()
    }


S = TypeVar("S", bound=AnyStream)


def describe(stream: AnyStream) -> str:
    """Return a stream's path with its distinguishing facts: shape and rate, or numbers of units or rows."""
    if isinstance(stream, EventStream):
        return f"{stream.path} ({len(stream.owners)} ids)"
    if isinstance(stream, IntervalStream):
        return f"{stream.path} ({len(stream)} intervals)"
    rate = f"{stream.rate:g} Hz" if isinstance(stream, RegularStream) else "time stamps"
    return f"{stream.path} (shape {stream.shape}, {rate}, {stream.modality})"


def listing(streams: Iterable[AnyStream]) -> str:
    """Return the descriptions of streams, comma-separated, or ``none``."""
    return ", ".join(describe(stream) for stream in streams) or "none"


def by_path(streams: Sequence[S], path: str, option: str) -> S:
    """Return the stream of this path, or the only one whose path ends in it (raises SourceError)."""
    found = [stream for stream in streams if stream.path == path]
    found = found or [stream for stream in streams if ("/" + stream.path).endswith("/" + path.strip("/"))]
    if len(found) == 1:
        return found[0]
    what = "matches nothing" if not found else f"matches {len(found)} series"
    raise SourceError(f"{option}={path!r} {what}; present: {listing(found or streams)}. Give one of these paths.")


def only(streams: Sequence[S], option: str, what: str) -> S:
    """Return the one stream there is; several are an error that says which option chooses.

    Raises
    ------
    AmbiguousStreamsError
        There is more than one.
    """
    if len(streams) == 1:
        return streams[0]
    raise AmbiguousStreamsError(f"{len(streams)} {what}: {listing(streams)}. Choose one with {option}.")


def pick(names: Sequence[str], wanted: Sequence[str] | None, where: str) -> list[int]:
    """Return the positions of the wanted names, in the order wanted; all of them for None (raises ConfigError)."""
    if wanted is None:
        return list(range(len(names)))
    place = {name: i for i, name in enumerate(names)}
    if absent := [name for name in wanted if name not in place]:
        raise ConfigError(f"{where} has no {', '.join(map(repr, absent))}; present: {', '.join(names) or 'none'}")
    return [place[name] for name in wanted]
