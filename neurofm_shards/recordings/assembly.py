"""Which modalities a recording gives with these options, in which stretches of time; empty columns for absent ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import AmbiguousStreamsError, NothingToConvertError, SourceError
from neurofm_shards.recordings.behavior import Behavior, OwnSamples, behavior_sources, own_columns, own_names
from neurofm_shards.recordings.continuous import JoinedSeries, WindowedSeries
from neurofm_shards.recordings.modality import WindowedModality, nothing
from neurofm_shards.recordings.options import BehaviorOptions, SeriesOptions, WindowOptions
from neurofm_shards.recordings.series import Series
from neurofm_shards.recordings.spikes import BinnedEvents, SpikeEvents
from neurofm_shards.recordings.ticks import EMPTY, TICKS_PER_SECOND, normalise, subtract
from neurofm_shards.recordings.timeline import TimeGrid, Timeline, ended, within
from neurofm_shards.recordings.trains import by_path, choose, join, listing, load_trains, only, related_tables
from neurofm_shards.streams import AnyStream, EventStream, IntervalStream, IrregularStream, RegularStream
from neurofm_shards.types import ColumnData, ColumnSpec, Problem
from neurofm_shards.values import to_json


class MissingModality(WindowedModality):
    """The columns that a modality would have, with no units, channels or features; masks are False throughout."""

    def __init__(self, name: str, columns: Sequence[ColumnSpec]) -> None:
        self.name = name
        self.columns = tuple(columns)

    def read(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:  # noqa: ARG002  (nothing to cut short)
        """Return empty columns."""
        return {spec.name: nothing(spec, len(starts)) for spec in self.columns}

    def valid_fraction(self, starts: Ints) -> Floats:
        """Return 1: what a session lacks as a whole drops none of its windows."""
        return np.ones(len(starts))


def _columns(name: str, options: WindowOptions, grid: TimeGrid) -> tuple[ColumnSpec, ...]:
    if name == "spikes":
        counts = ColumnSpec("spikes", np.dtype(options.counts_type).str, (grid.bins, 0), "count")
        times = ColumnSpec("spike_times", "<f4", (None,), "s")
        units = ColumnSpec("spike_units", "<i4", (None,), None, "units")
        chosen = {"counts": (counts,), "events": (times, units), "both": (counts, times, units)}[options.spikes]
        return (*chosen, ColumnSpec("unit_ids", "<i4", (0,), None, "units"))
    if name == "events":
        counts = ColumnSpec("events", np.dtype(options.counts_type).str, (grid.bins, 0), "count")
        return (counts, ColumnSpec("event_codes", "<i4", (0,), None, "codes"))
    if name == "behavior":
        own = [spec for one in own_names(options.behavior).values() for spec in own_columns(one, 0)]
        if options.behavior and len(own_names(options.behavior)) == len(options.behavior):
            return tuple(own)
        values = ColumnSpec("behavior", "<f4", (grid.bins, 0))
        mask = ColumnSpec("behavior_valid", "|b1", (grid.bins, 0))
        return (values, mask, ColumnSpec("behavior_features", "<i4", (0,), None, "features"), *own)
    series = options.chosen(name)[0]
    samples = grid.bins if series.rate is None else round(series.rate * grid.window_ticks / TICKS_PER_SECOND)
    table = "channels" if name == "lfp" else "rois"
    return (
        ColumnSpec(name, "<f4", (samples, 0)),
        ColumnSpec(f"{name}_valid", "|b1", (samples,)),
        ColumnSpec(f"{name}_channels", "<i4", (0,), None, table),
    )


DEFAULT = ("spikes", "lfp", "behavior", "ophys")
EPOCHS = "outside the chosen epochs"
INVALID = "invalid times"
_SHOWN = 8
_HOW = "behavior=[{'path': PATH}], lfp.path=PATH or ophys.path=PATH"


@dataclass(frozen=True)
class Assembly:
    """The modalities of a recording, the named ones it lacks, and what was left out."""

    parts: tuple[WindowedModality, ...]
    lacking: tuple[str, ...]
    problems: tuple[Problem, ...] = ()


def assemble(
    streams: Sequence[AnyStream], options: WindowOptions, grid: TimeGrid, source_file: str, others: Sequence[str] = ()
) -> Assembly:
    """Make the modalities that are asked for, or those that are present; empty ones of ``others`` that it lacks.

    Raises
    ------
    NothingToConvertError
        None was named and none is present.
    SourceError
        A named one is missing (and ``missing`` is ``error``), or a choice between several streams is needed.
    """
    makers: Mapping[str, Callable[[], list[WindowedModality]]] = {
        "spikes": lambda: _spikes(streams, options, grid),
        "lfp": lambda: _series(streams, "lfp", options.chosen("lfp"), options, grid),
        "behavior": lambda: _behavior(streams, options, grid),
        "ophys": lambda: _series(streams, "ophys", options.chosen("ophys"), options, grid),
        "events": lambda: _events(streams, grid, options),
    }
    made, unclear = _made(makers, options, others)
    lacking = [name for name, parts in made.items() if not parts] if options.modalities is not None else []
    present = listing(streams)
    if lacking and options.missing == "error":
        modalities = sorted({stream.modality for stream in streams} & makers.keys())
        raise SourceError(
            f"{source_file} has no {', '.join(lacking)}{_raw_hint(streams, lacking)}; it has "
            f"{', '.join(modalities) or 'no modality'}, present: {present}. "
            "Leave it out of modalities, or say missing=skip or missing=mask."
        )
    if not any(made.values()) and not lacking:
        raise NothingToConvertError(
            f"{source_file}: nothing to convert: looked for spikes, LFP, behaviour, imaging and events; "
            f"present: {present}{_by_name(streams)}"
        )
    absent = lacking if options.modalities is not None else [name for name in others if not made[name]]
    made |= {name: [MissingModality(name, _columns(name, options, grid))] for name in absent}
    parts = list(chain.from_iterable(made.values()))
    left = _left_out(streams, parts, source_file) if options.modalities is None and options.behavior is None else []
    return Assembly(tuple(parts), tuple(lacking), (*unclear, *left))


#: Modalities that are left out where it is unclear which stream is meant; spikes are never left out so.
_MAY_BE_UNCLEAR = ("lfp", "ophys")


def _made(
    makers: Mapping[str, Callable[[], list[WindowedModality]]], options: WindowOptions, others: Sequence[str]
) -> tuple[dict[str, list[WindowedModality]], list[Problem]]:
    """Make modalities; where none is named, one that needs a choice is left out if something else is there."""
    named = options.modalities is not None
    made: dict[str, list[WindowedModality]] = {}
    unclear: dict[str, AmbiguousStreamsError] = {}
    for name in options.modalities or others or DEFAULT:
        try:
            made[name] = makers[name]()
        except AmbiguousStreamsError as error:  # noqa: PERF203  (five names)
            if named or name not in _MAY_BE_UNCLEAR or options.chosen(name) != WindowOptions().chosen(name):
                raise
            made[name], unclear[name] = [], error
    if unclear and not any(made.values()):
        raise next(iter(unclear.values()))
    if not (named or any(made.values())):
        made |= {"events": makers["events"]()}
    how = "left out; {0}.path=PATH takes one, {0}=[{{'path': PATH}}, ...] several side by side"
    return made, [Problem(name, str(error), how.format(name)) for name, error in unclear.items()]


def chosen_epochs(streams: Sequence[AnyStream], tags: Sequence[str], timeline: Timeline) -> Ints:
    """Return the time outside of the epochs that carry one of the tags; nothing when no tag is asked for.

    Raises
    ------
    SourceError
        There are no epochs, or none carries a tag that is asked for; the message lists the tags.
    """
    if not tags:
        return EMPTY
    found: list[Ints] = []
    seen: set[str] = set()
    for stream in streams:
        if not isinstance(stream, IntervalStream) or stream.modality != "epochs":
            continue
        labels = _labels(stream)
        seen.update(*labels)
        rows = [i for i, own in enumerate(labels) if own & set(tags)]
        stops = ended(stream, timeline.stop / TICKS_PER_SECOND).stop
        found.append(within(timeline, stream.start[rows], stops[rows]))
    if absent := sorted(set(tags) - seen):
        raise SourceError(f"no epoch carries the tag {', '.join(absent)}; present: {', '.join(sorted(seen)) or 'none'}")
    whole = np.array([[timeline.start, timeline.stop]], dtype=np.int64)
    return subtract(whole, normalise(np.concatenate(found)))


def invalid_times(streams: Sequence[AnyStream], timeline: Timeline) -> Ints:
    """Return the time that a recording itself calls invalid; without a stop, it is so from its start on."""
    found = [EMPTY]
    for stream in streams:
        if isinstance(stream, IntervalStream) and stream.modality == "invalid":
            stop = np.where(np.isnan(stream.stop), np.inf, stream.stop)
            found.append(within(timeline, stream.start, stop))
    return normalise(np.concatenate(found))


def _labels(stream: IntervalStream) -> list[set[str]]:
    """Return the texts of each row: those of the column ``tags`` where there is one, else of every text column."""
    names = ["tags"] if "tags" in stream.columns else list(stream.columns)
    rows: list[set[str]] = [set() for _ in range(len(stream))]
    for name in names:
        for row, value in zip(rows, stream.columns[name], strict=True):
            texts = to_json(value)
            row.update(text for text in (texts if isinstance(texts, list) else [texts]) if isinstance(text, str))
    return rows


def _spikes(streams: Sequence[AnyStream], options: WindowOptions, grid: TimeGrid) -> list[WindowedModality]:
    tables = [s for s in streams if isinstance(s, EventStream) and s.modality == "spikes"]
    if not tables:
        return []
    path = options.unit_table_path
    stream = by_path(tables, path, "unit_table_path") if path else only(tables, "unit_table_path", "unit tables")
    trains = load_trains(stream, grid.session_id, grid.timeline, suspicious=options.suspicious_spike_times)
    trains = choose(trains, options.unit_filter, options.min_firing_rate_hz)
    parts: list[WindowedModality] = []
    if options.spikes != "events":
        parts.append(BinnedEvents(trains, grid, dtype=options.counts_type, ids=("unit_ids", "units")))
    if options.spikes != "counts":
        parts.append(SpikeEvents(trains, grid, alone=options.spikes == "events"))
    parts[0].tables = {**parts[0].tables, **related_tables(stream, grid.session_id)}
    return parts


def _events(streams: Sequence[AnyStream], grid: TimeGrid, options: WindowOptions) -> list[WindowedModality]:
    found = [s for s in streams if isinstance(s, EventStream) and s.modality == "events"]
    if not found:
        return []
    trains = [load_trains(stream, grid.session_id, grid.timeline) for stream in found]
    joined = join(trains)
    return [BinnedEvents(joined, grid, name="events", dtype=options.counts_type, ids=("event_codes", "codes"))]


def _behavior(streams: Sequence[AnyStream], options: WindowOptions, grid: TimeGrid) -> list[WindowedModality]:
    chosen: Sequence[BehaviorOptions] | None = options.behavior
    named = chosen is not None or options.modalities is not None
    if chosen is not None and options.missing != "error":
        paths = [stream.path for stream in streams]
        chosen = [c for c in chosen if any(("/" + path).endswith("/" + c.path.strip("/")) for path in paths)]
    sources = behavior_sources(streams, chosen)
    binned = [source for source in sources if source[1].at != "samples"]
    own = [source for source in sources if source[1].at == "samples"]
    parts: list[WindowedModality] = []
    if binned:
        parts.append(Behavior(binned, grid, named=named))
    if own:
        parts.append(OwnSamples(own, own_names(options.behavior), grid))
    present = {spec.name for part in parts for spec in part.columns}
    lacking = [spec for spec in _columns("behavior", options, grid) if spec.name not in present]
    return [*parts, MissingModality("behavior", lacking)] if parts and lacking else parts


def _series(
    streams: Sequence[AnyStream], name: str, chosen: Sequence[SeriesOptions], options: WindowOptions, grid: TimeGrid
) -> list[WindowedModality]:
    """Make one modality of a series, or of several side by side; a path reaches any series, whatever it is."""
    series: list[Series] = [stream for stream in streams if isinstance(stream, (RegularStream, IrregularStream))]
    usual = [stream for stream in series if stream.modality == name]
    if not (series if any(choice.path for choice in chosen) else usual):
        return []
    option = f"{name}.path"
    parts = []
    meant = [stream for stream in usual if stream.preferred]
    for choice in chosen:
        others = usual if choice.path or len(meant) != 1 else meant
        stream = by_path(series, choice.path, option) if choice.path else only(others, option, f"{name} series")
        part = WindowedSeries(stream, grid, choice, name=name, drop_gaps=options.gaps == "drop")
        part.problems = (*part.problems, *_not_meant(stream, usual if others is meant else [], option))
        parts.append(part)
    return [parts[0] if len(parts) == 1 else JoinedSeries(parts)]


def _not_meant(taken: Series, usual: Sequence[Series], option: str) -> list[Problem]:
    others = ", ".join(stream.path for stream in usual if stream.path != taken.path)
    what = f"taken of {len(usual)} {taken.modality} series, without {others}"
    return [Problem(taken.path, what, f"{option}=PATH takes another")] if others else []


def _left_out(streams: Sequence[AnyStream], parts: Sequence[WindowedModality], source_file: str) -> list[Problem]:
    """Return which series nobody asked for and nothing takes, and how to take them."""
    taken = {path for part in parts for path in (part.facts.get("paths") or [part.facts.get("path")])}
    left = [
        stream
        for stream in streams
        if isinstance(stream, (RegularStream, IrregularStream)) and stream.path not in taken and stream.shape[0]
    ]
    if not left:
        return []
    shown = listing(left[:_SHOWN]) + (f", ... {len(left) - _SHOWN} more" if len(left) > _SHOWN else "")
    how = f"left out; to take one name it: {_HOW}"
    return [Problem(source_file, f"{len(left)} series are not taken: {shown}", how, "info")]


def _by_name(streams: Sequence[AnyStream]) -> str:
    """Say how to take series that are there but are taken only when they are asked for."""
    if not any(isinstance(stream, (RegularStream, IrregularStream)) for stream in streams):
        return ""
    sweeps = any(stream.modality == "sweeps" for stream in streams)
    one_each = "; or sampling=sweep, for one window per patch-clamp sweep" if sweeps else ""
    return f". These series (wide-band, patch clamp, others) are taken when named: {_HOW}{one_each}"


def _raw_hint(streams: Sequence[AnyStream], lacking: Sequence[str]) -> str:
    raw = [stream.path for stream in streams if stream.modality == "raw"]
    if "lfp" not in lacking or not raw:
        return ""
    return f" (wide-band {', '.join(raw)} is never taken for LFP unless lfp.path names it)"
