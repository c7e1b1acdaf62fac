"""The page about a recording before it is converted: what ``inspect`` says, drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from neurofm_shards.blocks import samples_of
from neurofm_shards.convert.inputs import find_inputs
from neurofm_shards.errors import ConfigError, NeurofmShardsError
from neurofm_shards.plugins.interfaces import Inspection, Samples
from neurofm_shards.recordings import EventStream, IntervalStream, IrregularStream, Recording, RegularStream
from neurofm_shards.recordings.inspection import inspect_input
from neurofm_shards.recordings.stream_rows import grouped, stream_rows
from neurofm_shards_report import figures
from neurofm_shards_report.page import Alarm, Facts, Figures, Gallery, Page, Part, Section, Text, cell, table
from neurofm_shards_report.pictures import SampleView, panels_of, plot_view
from neurofm_shards_report.style import INK, SPIKES, colour, styled

#: Seconds of a recording that its first picture shows, and points per trace.
SHOWN_S, POINTS = 10.0, 4000
#: Streams of no more events are shown whole.
MAX_EVENTS = 2000
#: Samples drawn of an input that holds samples.
SAMPLES_DRAWN = 6
_SEVERITY = ("error", "warning", "info")


def recording_page(path: str, format_name: str) -> Page:
    """Return the page about one input."""
    found = find_inputs([path], format_name, {})
    if len(found) != 1:
        raise ConfigError(
            f"{path} holds {len(found)} inputs: name one of them, for example {found[0].name if found else path}"
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


def _session(inspection: Inspection) -> Facts:
    rows = []
    for branch in ("session", "time"):
        said = inspection.tree.get(branch)
        if isinstance(said, Mapping):
            rows += [
                (str(name).replace("_", " "), cell(value))
                for name, value in said.items()
                if not isinstance(value, (dict, list))
            ]
    return Facts([("input", inspection.title), *rows])


def _streams(inspection: Inspection) -> Part:
    rows = stream_rows(inspection)
    if not rows:
        return Text("No stream of data was found.")
    cells = [(row.modality, row.name, row.size, row.rate, row.unit, row.notes) for row in grouped(rows)]
    return table("modality|stream|size|rate|unit|notes", cells, title=f"{len(rows):,} streams")


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
        canvas.picture(figure, caption) for stream in recording.streams[:24] for figure, caption in _stream(stream)
    ]
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
            pictures.append(
                canvas.picture(plot_view(view, width=5.2, title=""), f"Sample {row:,} of {plan.num_samples:,}.")
            )
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
        axes.set_yticks(range(len(shown)))
        axes.set_yticklabels([figures.shorten_id(path) for path, *_ in shown], fontsize=7)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel("time (s)")
    return figure


def _stream(stream: object) -> list[tuple[Figure, str]]:
    try:
        if isinstance(stream, EventStream):
            return [(_raster(stream), f"{stream.path}: events of each id over time.")] if len(stream.read()[0]) else []
        if isinstance(stream, (RegularStream, IrregularStream)) and stream.shape[0] > 1 and len(stream.shape) <= 2:
            return [(_trace(stream), f"{stream.path}: the beginning, in {stream.unit or 'stored values'}.")]
    except NeurofmShardsError:
        return []  # what cannot be read is among the problems
    return []


def _raster(stream: EventStream) -> Figure:
    times, owner = stream.read()
    known = np.isfinite(times)
    times, owner = times[known], owner[known]
    first = float(times.min()) if len(times) else 0.0
    near = times <= (first + SHOWN_S if len(times) > MAX_EVENTS else np.inf)
    with styled():
        figure = Figure(figsize=(figures.WIDTH, 0.8 + float(np.clip(0.02 * len(stream.owners), 0.5, 2.5))))
        axes = figure.subplots()
        axes.plot(
            times[near],
            owner[near],
            linestyle="none",
            marker="|",
            markersize=3,
            color=SPIKES,
            rasterized=int(near.sum()) > 500,
        )
        axes.set_ylim(len(stream.owners) - 0.5, -0.5)
        axes.set_yticks([])
        axes.set_ylabel(f"{len(stream.owners)} ids")
        axes.set_xlabel("time (s)")
        said = f"{int(near.sum()):,} of {len(times):,} events, those of the first {SHOWN_S:g} s"
        axes.set_title(f"{stream.path}: {said if len(times) > MAX_EVENTS else f'all {len(times):,} events'}")
    return figure


def _trace(stream: RegularStream | IrregularStream) -> Figure:
    stop = min(stream.shape[0], POINTS)
    values = np.asarray(stream.read(0, stop), np.float64).reshape(stop, -1) * np.asarray(stream.scale) + np.asarray(
        stream.offset
    )
    time = (
        stream.t0 + np.arange(stop) / stream.rate if isinstance(stream, RegularStream) else stream.timestamps()[:stop]
    )
    shown = figures.spread_over(values.shape[1], 8)
    traces, one = values[:, shown], len(shown) == 1
    finite = np.isfinite(traces).any(axis=0)
    middle = np.zeros(len(shown))
    if not one:
        middle[finite] = np.nanmedian(traces[:, finite], axis=0)
    spread = float(np.nanquantile(np.abs(traces[:, finite] - middle[finite]), 0.98)) * 2.2 if finite.any() else 1.0
    spread = spread or 1.0
    with styled():
        figure = Figure(figsize=(figures.WIDTH, 0.8 + 0.22 * len(shown)))
        axes = figure.subplots()
        for number in range(len(shown)):
            axes.plot(time, traces[:, number] - middle[number] - number * spread, color=INK, linewidth=0.5)
        if one:
            axes.set_ylabel(stream.unit or "")
        else:
            axes.set_yticks([-number * spread for number in range(len(shown))])
            axes.set_yticklabels([str(i) for i in shown], fontsize=6)
            axes.set_ylabel("channel")
        axes.set_xlabel("time (s)")
        axes.set_title(
            f"{stream.path}: {' × '.join(map(str, stream.shape))}, {len(shown)} drawn, first {stop:,} values"
        )
    return figure
