"""What an input holds, as a tree: also for inputs that conversion refuses, and without reading their data.

Of the tree's streams, rows of a table are made, those that are alike in one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm_shards._wording import counted, without_name
from neurofm_shards.errors import NeurofmShardsError, SourceError
from neurofm_shards.plugins.interfaces import Inspection, Samples
from neurofm_shards.recordings.series import Series, channel_names, clock
from neurofm_shards.recordings.stamps import in_seconds, with_blocks_spread
from neurofm_shards.recordings.ticks import to_seconds
from neurofm_shards.recordings.timeline import timeline
from neurofm_shards.recordings.trains import load_trains
from neurofm_shards.recordings.trials import recognised_columns
from neurofm_shards.streams import (
    AnyStream,
    EventStream,
    IntervalStream,
    Recording,
    RegularStream,
    check_modalities,
    read_once,
)
from neurofm_shards.types import Problem
from neurofm_shards.values import to_json

if TYPE_CHECKING:
    from neurofm_shards.plugins.interfaces import Source

_SHOWN = 12
#: Branches of an inspection's tree that hold no streams.
_NO_STREAMS = ("session", "time", "facts", "left out")


def inspect_input(source: Source, paths: tuple[str, ...]) -> Inspection:
    """Describe what is inside an input: as its source does, or as ``open`` gives it.

    Parameters
    ----------
    source : Source
        Whose ``inspect``, and ``open`` where that returns None, is called.
    paths : tuple of str
        The input.

    Returns
    -------
    Inspection
        An input that cannot be opened is an empty tree with the error as its problem.
    """
    title = ", ".join(path.rsplit("/", 1)[-1] for path in paths)
    found = source.inspect(paths) or _opened(source, paths, title)
    problems = [replace(problem, what=without_name(problem.what, title)) for problem in found.problems]
    return Inspection(found.title, found.tree, problems)


def _opened(source: Source, paths: tuple[str, ...], title: str) -> Inspection:
    try:
        opened = source.open(paths)
    except NeurofmShardsError as error:
        return Inspection(title, {}, [Problem(title, str(error), "it cannot be converted", "error")])
    with opened:
        return inspect_samples(opened, title) if isinstance(opened, Samples) else inspect_recording(opened, title)


def inspect_samples(samples: Samples, title: str) -> Inspection:
    """Describe what samples are made of."""
    plan = samples.plan()
    columns = {
        spec.name: {"dtype": spec.dtype or "JSON", "shape": list(spec.shape or ()), **_some("unit", spec.unit)}
        for spec in plan.columns
    }
    tree = {"samples": plan.num_samples, "columns": columns, **_some("facts", dict(plan.metadata))}
    return Inspection(title, {**tree, **_some("left out", dict(plan.drops))}, plan.problems)


def inspect_recording(recording: Recording, title: str) -> Inspection:
    """Describe the streams of a recording: units with numbers and rates, series with clocks, gaps and scale, tables."""
    problems = list(recording.problems)
    tree: dict[str, Any] = {
        "session": {
            "session_id": recording.session_id,
            "subject_id": recording.subject_id,
            **{name: to_json(value) for name, value in recording.facts.items()},
        }
    }
    tree.update(_extent(recording, problems))
    problems += _time_problems(recording.streams)
    spread, _ = with_blocks_spread(recording.streams)
    for stream in spread:
        try:
            leaf = _describe(stream, problems)
        except SourceError as error:
            problems.append(Problem(stream.path, str(error), "it cannot be converted", "error"))
            leaf = {"cannot be used": str(error)}
        tree.setdefault(stream.modality, {})[stream.path] = {**_some("type", stream.kind_name), **leaf}
    return Inspection(title, tree, tuple(dict.fromkeys(problems)))


def _extent(recording: Recording, problems: list[Problem]) -> dict[str, Any]:
    if not recording.streams and any(problem.severity == "error" for problem in problems):
        return {}  # its source has told why
    try:
        check_modalities(recording.streams)
        when = timeline(recording.streams, recording.source_file)
    except SourceError as error:
        problems.append(Problem(recording.source_file, str(error), "it cannot be converted", "error"))
        return {}
    problems += when.problems
    start, stop = float(to_seconds(when.start)), float(to_seconds(when.stop))
    found: dict[str, Any] = {"start_s": start, "stop_s": stop, "seconds": stop - start, "said by": when.said_by}
    if len(when.pauses):
        recorded = float(to_seconds(int((when.recorded[:, 1] - when.recorded[:, 0]).sum())))
        found |= {"recorded_s": recorded, "pauses": len(when.pauses)}
    return {"time": found}


def _time_problems(streams: Sequence[AnyStream]) -> list[Problem]:
    """Describe time stamps that conversion spreads, takes at their word, or refuses."""
    known = [read_once(stream) for stream in streams]
    made, problems = in_seconds(known, "error")
    changed = [after for before, after in zip(known, made, strict=True) if after is not before]
    return [*problems, *(problem for stream in changed for problem in _refusal(stream))]


def _refusal(stream: AnyStream) -> list[Problem]:
    try:
        _ = stream.read() if isinstance(stream, EventStream) else getattr(stream, "timestamps", tuple)()
    except SourceError as error:
        return [_unusable(stream, error)]
    return []


def _unusable(stream: AnyStream, error: SourceError) -> Problem:
    what = str(error).removeprefix(f"{stream.path}: ")
    return Problem(stream.path, what, "it cannot be converted as it is", "error")


def _describe(stream: AnyStream, problems: list[Problem]) -> dict[str, Any]:
    if isinstance(stream, EventStream):
        return _events(stream, problems)
    if isinstance(stream, IntervalStream):
        return _intervals(stream, problems)
    return _series(stream, problems)


def event_problems(stream: EventStream) -> list[Problem]:
    """Describe what is odd about the times of events, and what conversion does about it (raises SourceError)."""
    times, _ = stream.read()
    if not np.isfinite(times).any():
        what = f"none of {len(times)} times is a number"
        return [Problem(stream.path, what, "nothing is known: its values are masked")] if len(times) else []
    when = timeline([stream], stream.path)
    odd = list(when.problems)
    try:
        strict = "error" if stream.modality == "spikes" else "allow"
        return [*odd, *load_trains(stream, "", when, suspicious=strict).problems]
    except SourceError as error:
        return [*odd, _unusable(stream, error)]


def _events(stream: EventStream, problems: list[Problem]) -> dict[str, Any]:
    times, _ = stream.read()
    known = times[np.isfinite(times)]
    leaf: dict[str, Any] = {"ids": _first(stream.owners), "number": len(stream.owners), "events": len(times)}
    problems += [problem for problem in event_problems(stream) if problem not in problems]
    if len(known) == 0:
        return leaf
    # the stream's own extent: inspection reports what is there, not what conversion would keep
    first, last = float(known.min()), float(known.max())
    trains = load_trains(stream, "", timeline([stream], stream.path))
    rates = sorted(row["firing_rate_hz"] for row in trains.table)
    columns = list(dict.fromkeys(name for row in stream.table for name in row))
    leaf |= {"first_s": first, "last_s": last, **_some("columns", columns)}
    leaf["rates_hz"] = {"least": rates[0], "median": float(np.median(rates)), "most": rates[-1]}
    return leaf


def _series(stream: Series, problems: list[Problem]) -> dict[str, Any]:
    leaf: dict[str, Any] = {"shape": list(stream.shape), "dtype": stream.dtype, **_some("unit", stream.unit)}
    scale = np.unique(np.asarray(stream.scale, dtype=np.float64))
    leaf["scale"] = float(scale[0]) if len(scale) == 1 else f"{len(scale)} different ones, one per channel"
    if np.any(stream.offset):
        leaf["offset"] = to_json(np.asarray(stream.offset))
    if stream.channels or len(stream.shape) > 1:
        leaf["channels"] = _first(channel_names(stream))
    leaf["values"] = "circular" if stream.circular else stream.continuity
    if not stream.calibrated:
        problems.append(Problem(stream.path, "integers without a scale", "values stay stored numbers: uncalibrated"))
    leaf.update(_clock(stream, problems))
    return leaf


def _clock(stream: Series, problems: list[Problem]) -> dict[str, Any]:
    if isinstance(stream, RegularStream):
        seconds = stream.shape[0] / stream.rate
        return {"rate_hz": stream.rate, "first_s": stream.t0, "seconds": seconds}
    when = clock(stream)
    problems += when.problems
    if when.times is None:
        breaks = [after.t0 - before.end for before, after in pairwise(when.segments)]
        rate = 1 / when.interval if when.interval else 0.0
        leaf = {"time stamps": "regular", "rate_hz": rate, "gaps": len(breaks), "first_s": when.segments[0].t0}
        return {**leaf, **_some("longest_gap_s", max(breaks, default=0.0)), "last_s": when.segments[-1].end}
    if len(when.times) == 0:
        problems.append(Problem(stream.path, "no time stamp is a number", "all its values are masked"))
        return {"time stamps": "none is a number"}
    steps = np.diff(when.times)
    gaps = int((steps > max(0.1, 3 * when.interval)).sum())
    longest = float(steps.max()) if len(steps) else 0.0
    stamps = {"time stamps": "irregular", "median_rate_hz": 1 / when.interval if when.interval else 0.0}
    return {
        **stamps,
        "gaps": gaps,
        "longest_gap_s": longest,
        "first_s": float(when.times[0]),
        "last_s": float(when.times[-1]),
    }


def _intervals(stream: IntervalStream, problems: list[Problem]) -> dict[str, Any]:
    leaf: dict[str, Any] = {"rows": len(stream), "columns": list(stream.columns)}
    stops = int((~np.isfinite(stream.stop)).sum())
    if stops:
        problems.append(
            Problem(stream.path, f"{stops} of {len(stream)} rows have no stop time", "see nan_stop", "info")
        )
        leaf["without a stop time"] = stops
    if stream.modality == "trials" and (relative := recognised_columns(stream)):
        what = f"{', '.join(relative)} seem to count from the start of each trial"
        consequence = f"no alignment or labels until relative_columns={','.join(relative)} says so; else trial = -1"
        problems.append(Problem(stream.path, what, consequence))
        leaf["relative to the trial's start"] = relative
    return leaf


def _first(names: Sequence[str]) -> list[str]:
    more = [f"... {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return [*names[:_SHOWN], *more]


def _some(name: str, value: Any) -> dict[str, Any]:
    return {name: value} if value else {}


@dataclass(frozen=True)
class StreamRow:
    """One stream, or several that differ in nothing but their names.

    Attributes
    ----------
    names : tuple of str
        Paths inside the input.
    modality : str
        What it is taken for (``"spikes"``, ``"columns"`` of samples, ``"not converted"``).
    size : str
        Shape, number of ids and events, or number of rows.
    rate : str
        Sampling rate, or least and most firing rate.
    unit : str
        Physical unit; empty where it is unknown.
    first_s, last_s : float or None
        First and last second.
    notes : str
        Gaps, kind of values, why it cannot be used.
    """

    names: tuple[str, ...]
    modality: str
    size: str = ""
    rate: str = ""
    unit: str = ""
    first_s: float | None = None
    last_s: float | None = None
    notes: str = ""

    @property
    def name(self) -> str:
        """One name, or the number of streams and the first and last of them."""
        if len(self.names) == 1:
            return self.names[0]
        return f"{len(self.names)} alike: {self.names[0]} ... {self.names[-1].rpartition('/')[2]}"


def stream_rows(inspection: Inspection) -> list[StreamRow]:
    """Return the streams of an inspection, one row each."""
    return [_row(modality, path, leaf) for modality, path, leaf in _leaves(inspection)]


def grouped(rows: list[StreamRow], least: int = 3) -> list[StreamRow]:
    """Join ``least`` and more rows that differ in nothing but their names and times."""
    alike: dict[tuple[str, ...], list[StreamRow]] = {}
    for row in rows:
        alike.setdefault((row.modality, row.size, row.rate, row.unit, row.notes), []).append(row)
    found = []
    for group in alike.values():
        found += [_joined(group)] if len(group) >= least else group
    return found


def _joined(group: list[StreamRow]) -> StreamRow:
    first, *_ = group
    starts = [row.first_s for row in group if row.first_s is not None]
    stops = [row.last_s for row in group if row.last_s is not None]
    return StreamRow(
        tuple(name for row in group for name in row.names), first.modality, first.size, first.rate, first.unit,
        min(starts, default=None), max(stops, default=None), first.notes,
    )  # fmt: skip


def _leaves(inspection: Inspection) -> Iterator[tuple[str, str, Any]]:
    for modality, streams in inspection.tree.items():
        if modality not in _NO_STREAMS and isinstance(streams, Mapping):
            for path, leaf in streams.items():
                yield modality, str(path), leaf


def _row(modality: str, path: str, leaf: Any) -> StreamRow:
    if not isinstance(leaf, Mapping):
        return StreamRow((path,), modality, notes=str(leaf))
    first, last = _times(leaf)
    return StreamRow(
        (path,), modality, _size(leaf), _rate(leaf), str(leaf.get("unit") or ""), first, last, _notes(leaf)
    )


def _size(leaf: Mapping[str, Any]) -> str:
    if "number" in leaf:
        return f"{leaf['number']:,} x {counted(leaf.get('events', 0), 'event')}"
    if "rows" in leaf:
        return f"{leaf['rows']:,} row{'s' * (leaf['rows'] != 1)}"
    return " x ".join(f"{n:,}" if isinstance(n, int) else "?" for n in leaf.get("shape", ()))


def _rate(leaf: Mapping[str, Any]) -> str:
    if isinstance(leaf.get("rate_hz"), (int, float)):
        return f"{leaf['rate_hz']:.6g} Hz"
    if isinstance(leaf.get("median_rate_hz"), (int, float)):
        return f"~{leaf['median_rate_hz']:.4g} Hz"
    rates = leaf.get("rates_hz")
    if not isinstance(rates, Mapping):
        return ""
    least, most = f"{rates['least']:.3g}", f"{rates['most']:.3g}"
    return f"{least} Hz" if least == most else f"{least} to {most} Hz"


def _times(leaf: Mapping[str, Any]) -> tuple[float | None, float | None]:
    first, last = leaf.get("first_s"), leaf.get("last_s")
    if first is not None and last is None and leaf.get("seconds") is not None:
        last = first + leaf["seconds"]
    return first, last


def _notes(leaf: Mapping[str, Any]) -> str:
    said = [counted(leaf["gaps"], "gap")] if leaf.get("gaps") else []
    said += [str(leaf["values"])] if leaf.get("values") not in (None, "continuous") else []
    said += [f"{leaf['without a stop time']:,} without a stop time"] if leaf.get("without a stop time") else []
    said += [f"cannot be used: {leaf['cannot be used']}"] if leaf.get("cannot be used") else []
    return ", ".join(said)
