"""The page about a recording before it is converted: what ``inspect`` says, drawn."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from neurofm_shards._wording import counted
from neurofm_shards.blocks import samples_of
from neurofm_shards.convert.inputs import find_inputs
from neurofm_shards.errors import ConfigError, NeurofmShardsError
from neurofm_shards.plugins.interfaces import Inspection, Samples
from neurofm_shards.recordings import EventStream, IntervalStream, IrregularStream, Recording, RegularStream
from neurofm_shards.recordings.inspection import grouped, inspect_input, stream_rows
from neurofm_shards_report import figures
from neurofm_shards_report.numbers import sample_table, value_rows
from neurofm_shards_report.page import (
    Alarm,
    Facts,
    Figures,
    Gallery,
    Page,
    Part,
    Section,
    Table,
    Text,
    cell,
    table,
)
from neurofm_shards_report.pictures import panels_of, plot_view, thinned
from neurofm_shards_report.signals import SAMPLE_WIDTH
from neurofm_shards_report.style import INK, SPIKES, colour, styled
from neurofm_shards_report.views import SampleView

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
#: Seconds of a recording that its first picture shows, and points per trace.
SHOWN_S, POINTS = 10.0, 4000
#: Streams of no more events are shown whole.
MAX_EVENTS = 2000
#: Samples drawn of an input that holds samples, and streams of a recording.
SAMPLES_DRAWN, MAX_STREAMS = 6, 24
_SEVERITY = ("error", "warning", "info")


def recording_page(path: str, format_name: str) -> Page:
    """Return the page about one input."""
    found = find_inputs([path], format_name, {})
    if len(found) != 1:
        raise ConfigError(
            f"{path} holds {counted(len(found), 'input')}: name one of them, for example "
            f"{found[0].name if found else path}"
        )
    inspection = inspect_input(found[0].source, found[0].paths)
    canvas = Figures()
    sections = [Section("what", "What is inside", [_session(inspection), _streams(inspection)])]
    try:
        with found[0].source.open(found[0].paths) as opened:
            sections += _drawn(opened, canvas) if isinstance(opened, Recording) else _first_samples(opened, canvas)
    except NeurofmShardsError as error:
        sections.append(Section("refused", "It cannot be converted", [Text(str(error))]))
    sections.append(Section("problems", "Problems", [_problems(inspection)]))
    alarms = _alarms(inspection)
    return Page(f"Recording {os.path.basename(path)}", inspection.title, sections, alarms)  # noqa: PTH119  (a string)


def _alarms(inspection: Inspection) -> list[Alarm]:
    counted = {severity: sum(p.severity == severity for p in inspection.problems) for severity in _SEVERITY}
    said = [
        Alarm(severity, f"{count} {severity}{'s' * (count != 1)}; see Problems.")
        for severity, count in counted.items()
        if count and severity != "info"
    ]
    return said or [Alarm("good", "Nothing in it stands in the way of a conversion.")]


def _label(name: str) -> str:
    """Return the name of a fact as a reader sees it, with its unit in brackets."""
    words = {"seconds": "length (s)", "said by": "extent taken from", "nwb_version": "NWB version"}
    return words.get(name) or re.sub(r" s$", " (s)", name.replace("_", " "))


def _session(inspection: Inspection) -> Facts:
    rows = []
    for branch in ("session", "time"):
        said = inspection.tree.get(branch)
        if isinstance(said, Mapping):
            rows += [
                (_label(str(name)), cell(value)) for name, value in said.items() if not isinstance(value, (dict, list))
            ]
    return Facts(rows)


def _streams(inspection: Inspection) -> Part:
    rows = stream_rows(inspection)
    if not rows:
        return Text("No stream of data was found.")
    cells = [(row.modality, row.name, row.size, row.rate, row.unit, row.notes) for row in grouped(rows)]
    return table("modality|stream|size|rate|unit|notes", cells, title=counted(len(rows), "stream"))


def _problems(inspection: Inspection) -> Part:
    if not inspection.problems:
        return Text("No problem was found.")
    rows = sorted(
        {(p.severity, p.what, p.consequence, p.where) for p in inspection.problems},
        key=lambda r: (_SEVERITY.index(r[0]), r[1:]),
    )
    return table("severity|what|consequence|where", rows)


def _drawn(recording: Recording, canvas: Figures) -> list[Section]:
    parts: list[Part] = []
    sections = []
    spans = _spans(recording)
    if spans:
        behind = table(
            "stream|first (s)|last (s)",
            [(n, a, b) for n, _, a, b in spans],
            title="As a table",
            folded=True,
            numbers=(1, 2),
        )
        parts.append(canvas.picture(_timeline(spans), "When each stream was recorded.", behind))
        sections.append(Section("time", "Time", parts))
    pictures: list[Part] = [
        canvas.picture(*drawn)
        for stream in recording.streams[:MAX_STREAMS]
        if not canvas.are_many
        for drawn in _stream(stream)
    ]
    if len(recording.streams) > MAX_STREAMS or canvas.are_many:
        pictures.append(
            Text(f"The first {counted(len(pictures), 'picture')} of {counted(len(recording.streams), 'stream')}.")
        )
    if pictures:
        sections.append(Section("streams", "Streams", pictures))
    return sections


def _first_samples(samples: Samples, canvas: Figures) -> list[Section]:
    """Draw samples, evenly chosen, of an input that is cut already."""
    plan = samples.plan()
    units = {spec.name: spec.unit for spec in plan.columns if spec.unit}
    pictures = []
    for row in figures.spread_over(plan.num_samples, SAMPLES_DRAWN):
        sample, metadata = next(samples_of(samples.read(row, row + 1)))
        view = SampleView(sample, metadata, plan.tables, units)
        if panels_of(view):
            drawn = plot_view(view, width=SAMPLE_WIDTH, title="")
            pictures.append(canvas.picture(drawn, f"Sample {row:,} of {plan.num_samples:,}.", sample_table(view)))
    return [Section("samples", "Samples", [Gallery(pictures)])] if pictures else []


def _spans(recording: Recording) -> list[tuple[str, str, float, float]]:
    found = []
    for stream in recording.streams:
        times = _times(stream)
        if times is not None and len(times):
            found.append((stream.path, stream.modality, float(times.min()), float(times.max())))
    return found


def _times(stream: object) -> Any:
    try:
        if isinstance(stream, EventStream):
            times = stream.read()[0]
        elif isinstance(stream, IntervalStream):
            times = np.concatenate([stream.start, stream.stop])
        elif isinstance(stream, RegularStream):
            return np.array([stream.t0, stream.t0 + stream.shape[0] / stream.rate])
        elif isinstance(stream, IrregularStream):
            times = stream.timestamps()
        else:
            return None
    except NeurofmShardsError:
        return None  # what cannot be read is among the problems
    return times[np.isfinite(times)]


def _timeline(spans: Sequence[tuple[str, str, float, float]]) -> Figure:
    shown = [spans[i] for i in figures.spread_over(len(spans), figures.MAX_ROWS)]
    modalities = list(dict.fromkeys(modality for _, modality, _, _ in shown))
    with styled():
        figure = Figure(figsize=(figures.WIDTH, 0.7 + 0.2 * len(shown)))
        axes = figure.subplots()
        for row, (_, modality, first, last) in enumerate(shown):
            axes.barh(row, max(last - first, 1e-9), left=first, height=0.6, color=colour(modalities.index(modality)))
        figures.label_rows(axes, _called([path for path, *_ in shown]))
        axes.set_xlabel("time (s)")
        figures.legend_above(figure, [Patch(color=colour(i), label=name) for i, name in enumerate(modalities)])
    return figure


def _called(paths: Sequence[str]) -> list[str]:
    """Return the last parts of paths where they differ, else the paths."""
    last = [path.rsplit("/", 1)[-1] for path in paths]
    return last if len(set(last)) == len(last) else list(paths)


def _stream(stream: object) -> list[tuple[Figure, str, Table]]:
    try:
        if isinstance(stream, EventStream):
            return [_raster(stream)] if np.isfinite(stream.read()[0]).any() else []
        if isinstance(stream, (RegularStream, IrregularStream)) and stream.shape[0] > 1 and len(stream.shape) <= 2:
            return [_trace(stream)]
    except NeurofmShardsError:
        return []  # what cannot be read is among the problems
    return []


def _raster(stream: EventStream) -> tuple[Figure, str, Table]:
    times, owner = stream.read()
    known = np.isfinite(times)
    times, owner = times[known], owner[known]
    first = float(times.min()) if len(times) else 0.0
    near = times <= (first + SHOWN_S if len(times) > MAX_EVENTS else np.inf)
    who = "unit" if stream.modality == "spikes" else "id"
    with styled():
        figure = Figure(figsize=(figures.WIDTH, 0.8 + float(np.clip(0.03 * len(stream.owners), 0.5, 2.5))))
        axes = figure.subplots()
        axes.plot(
            times[near], owner[near], linestyle="none", marker="|", markersize=3, color=SPIKES,
            rasterized=int(near.sum()) > 500,
        )  # fmt: skip
        axes.set_ylim(len(stream.owners) - 0.5, -0.5)
        axes.set_yticks([])
        axes.set_ylabel(counted(len(stream.owners), who))
        axes.set_xlabel("time (s)")
        axes.set_title(figures.shortened(stream.path, 60))
    events = counted(len(times), "event")
    shown = f"{int(near.sum()):,} of {events}, those of the first {SHOWN_S:g} s"
    caption = f"{stream.path}: {shown if len(times) > MAX_EVENTS else f'all {events}'}."
    return figure, caption, _event_table(stream, times, owner)


def _event_table(stream: EventStream, times: Floats, owner: Ints) -> Table:
    """Return how many events each id has, and when the first and the last are."""
    count = len(stream.owners)
    number = np.bincount(owner, minlength=count)
    first, last = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(first, owner, times)
    np.maximum.at(last, owner, times)
    rows = [
        (str(name), int(n), float(a) if n else None, float(b) if n else None)
        for name, n, a, b in zip(stream.owners, number, first, last, strict=True)
    ]
    return table("id|events|first (s)|last (s)", rows, title="As a table", folded=True, numbers=(1, 2, 3))


def _trace(stream: RegularStream | IrregularStream) -> tuple[Figure, str, Table]:
    stop = min(stream.shape[0], POINTS)
    values = np.asarray(stream.read(0, stop), np.float64).reshape(stop, -1) * np.asarray(stream.scale) + np.asarray(
        stream.offset
    )
    time = (
        stream.t0 + np.arange(stop) / stream.rate if isinstance(stream, RegularStream) else stream.timestamps()[:stop]
    )
    shown = figures.spread_over(values.shape[1], 8)
    traces, one = values[:, shown], len(shown) == 1
    with styled():
        figure = Figure(figsize=(figures.WIDTH, 0.9 + 0.22 * len(shown)))
        axes = figure.subplots()
        places = _draw_traces(axes, time, traces)
        if one:
            axes.set_ylabel(stream.unit or "")
            axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
        else:
            axes.set_yticks(places)
            axes.set_yticklabels([str(i) for i in shown])
            axes.set_ylabel("channel")
        axes.set_xlabel("time (s)")
        axes.set_title(figures.shortened(stream.path, 60))
    length = f"all {stop:,}" if stop == stream.shape[0] else f"the first {stop:,} of {stream.shape[0]:,}"
    some = "" if one else f" of {len(shown)} of {counted(values.shape[1], 'channel')}"
    names = [str(i) for i in shown]
    unit = stream.unit or "stored values"
    rows = list(value_rows(stream.path, names, unit, traces))
    behind = table(
        "stream|channel|unit|least|mean|greatest|valid", rows, title="As a table", folded=True, numbers=(3, 4, 5, 6)
    )
    return figure, f"{stream.path}: {length} values{some}, in {unit}.", behind


def _draw_traces(axes: Axes, time: Floats, traces: Floats) -> list[float]:
    """Draw traces below one another, one alone where its values are; return where each has its median."""
    finite = np.isfinite(traces).any(axis=0)
    middle = np.zeros(traces.shape[1])
    if traces.shape[1] > 1:
        middle[finite] = np.nanmedian(traces[:, finite], axis=0)
    spread = float(np.nanquantile(np.abs(traces[:, finite] - middle[finite]), 0.98)) * 2.2 if finite.any() else 1.0
    places = [-number * (spread or 1.0) for number in range(traces.shape[1])]
    for number, place in enumerate(places):
        axes.plot(*thinned(time, traces[:, number] - middle[number] + place), color=INK, linewidth=0.5)
    return places
