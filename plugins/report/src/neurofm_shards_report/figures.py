"""Figures about a whole data set: timelines, windows per split, rates, spectra, distributions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from textwrap import shorten
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from neurofm_shards._wording import counted
from neurofm_shards_report.facts import NO_SPLIT, DatasetFacts
from neurofm_shards_report.measures import Distribution, Spectrum, Validity
from neurofm_shards_report.pictures import region_name
from neurofm_shards_report.style import FAINT, INK, SMALL, colour, styled

Floats = npt.NDArray[np.float64]
#: Most sessions, subjects or regions that get a row of their own in a figure.
MAX_ROWS = 40
#: Most regions that get a colour of their own.
MAX_REGIONS = 6
#: Most reasons for leaving time out that are told apart in a figure; the others are drawn alike.
MAX_REASONS = 4
#: Letters of a label of which three stand side by side in a legend.
_MOST_IN_THIRD = 22
#: Colours of time that was left out, apart from those of splits, and that of the other reasons.
REASONS, REST = ("#8c564b", "#9a9a3c", "#5f6f8c", "#84577a"), "#b5a89a"
OTHER_REASONS = "other reasons"
#: Width of figures in inches.
WIDTH = 5.4


def split_colours(facts: DatasetFacts) -> dict[str, str]:
    """Return a colour for each split."""
    named = [name for name in facts.splits_of.names if name != NO_SPLIT]
    return {NO_SPLIT: "#7a7f85"} | {name: colour(i) for i, name in enumerate(named)}


def timeline(facts: DatasetFacts, validity: Sequence[Validity] = ()) -> Figure | None:
    """Draw when each session was recorded, where its windows lie, by split, what was left out, and what is valid."""
    if facts.start is None or facts.stop is None:
        return None
    shown = spread_over(len(facts.sessions), MAX_ROWS)
    colours, reasons = split_colours(facts), _reason_colours(facts, shown)
    line = 0.45 / max(3, len(validity))
    with styled():
        figure = Figure(figsize=(WIDTH, 0.9 + (0.2 + 0.06 * len(validity)) * len(shown)))
        axes = figure.subplots()
        for place, number in enumerate(shown):
            origin = _draw_session(axes, facts, number, place - 0.42, colours, reasons)
            for i, one in enumerate(validity):
                top = place + 0.1 + i * line
                for start, stop, share in one.stretches(number):
                    axes.broken_barh(
                        [(start - origin, stop - start)], (top, line * 0.7), color=_of_validity(colours, i),
                        alpha=max(0.1, share), linewidth=0,
                    )  # fmt: skip
        label_rows(axes, [facts.sessions[number].summary.name for number in shown])
        axes.set_xlabel("time since the start of the recording (s)")
        of_none = NO_SPLIT if facts.has_splits else "in windows"
        handles = [
            Patch(color=colours[name], label=of_none if name == NO_SPLIT else name) for name in facts.splits_of.names
        ]
        if any(session.summary.extent_s for session in facts.sessions):
            handles.append(Patch(color=FAINT, alpha=0.35, label="in no window"))
        handles += [Patch(color=own, label=reason) for reason, own in reasons.items()]
        handles += [Patch(color=_of_validity(colours, i), label=f"{one.name} valid") for i, one in enumerate(validity)]
        legend_above(figure, handles)
    return figure


def _reason_colours(facts: DatasetFacts, shown: Sequence[int]) -> dict[str, str]:
    """Return a colour for each reason for leaving time out, that of most time first."""
    seconds: dict[str, float] = defaultdict(float)
    for number in shown:
        for reason, spans in facts.sessions[number].summary.left_out_s.items():
            seconds[reason] += sum(stop - start for start, stop in spans)
    reasons = sorted(seconds, key=lambda reason: -seconds[reason])
    named = dict(zip(reasons[:MAX_REASONS], REASONS, strict=False))
    return named | ({OTHER_REASONS: REST} if len(reasons) > MAX_REASONS else {})


def _of_validity(colours: Mapping[str, str], number: int) -> str:
    return colour(len(colours) + number)


def _draw_session(
    axes: Axes, facts: DatasetFacts, number: int, top: float, colours: Mapping[str, str], reasons: Mapping[str, str]
) -> float:
    """Draw one session's recording, its windows and what was left out; return its first second."""
    extent = facts.sessions[number].summary.extent_s
    own = np.flatnonzero(facts.sessions_of.codes == number)
    start, stop = cast("tuple[Floats, Floats]", (facts.start, facts.stop))
    origin = extent[0] if extent is not None else float(start[own].min())
    if extent is not None:
        axes.broken_barh([(0, extent[1] - extent[0])], (top, 0.5), color=FAINT, alpha=0.35, linewidth=0)
    for reason, spans in facts.sessions[number].summary.left_out_s.items():
        stretches = [(first - origin, last - first) for first, last in spans]
        axes.broken_barh(stretches, (top, 0.5), color=reasons.get(reason, REST), linewidth=0)
    for code, name in enumerate(facts.splits_of.names):
        rows = own[facts.splits_of.codes[own] == code]
        axes.broken_barh(
            joined(start[rows] - origin, stop[rows] - origin), (top + 0.07, 0.36), color=colours[name], linewidth=0
        )
    return origin


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write names beside rows that are one apart, the first at the top."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)))
    axes.set_yticklabels(short_names(names))
    axes.tick_params(axis="y", length=0)


def legend_above(figure: Figure, handles: Sequence[Patch]) -> None:
    """Draw a legend over a figure, in rows of three, or of two where labels are long."""
    columns = 3 if all(len(str(handle.get_label())) <= _MOST_IN_THIRD for handle in handles) else 2
    figure.legend(handles=list(handles), loc="outside upper left", ncols=columns)
    figure.set_figheight(figure.get_figheight() + 0.18 * (-(-len(handles) // columns) - 1))


def joined(start: Floats, stop: Floats) -> list[tuple[float, float]]:
    """Return the stretches that windows cover, as (start, length)."""
    if not len(start):
        return []
    order = np.argsort(start, kind="stable")
    start, reached = start[order], np.maximum.accumulate(stop[order])
    first = np.flatnonzero(np.concatenate([[True], start[1:] > reached[:-1] + 1e-6]))
    last = np.concatenate([first[1:] - 1, [len(start) - 1]])
    return [(float(start[a]), float(reached[b] - start[a])) for a, b in zip(first.tolist(), last.tolist(), strict=True)]


def spread_over(count: int, most: int) -> list[int]:
    """Return all numbers below ``count``, or ``most`` of them, evenly spaced."""
    return np.unique(np.linspace(0, max(0, count - 1), min(count, most)).round().astype(int)).tolist()  # type: ignore[no-any-return]


def short_names(names: Sequence[str], most: int = 24) -> list[str]:
    """Return names as labels: without the ending that all share, and long ones without their middle.

    Names that would look alike are numbered.
    """
    ends = zip(*(name[::-1] for name in names), strict=False)
    same = sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, ends))
    ending = names[0][len(names[0]) - same :] if len(set(names)) > 1 else ""
    word = re.search(r"[\W_]", ending)
    ending = ending[word.start() :] if word and max(map(len, names)) > most else ""
    short = [shortened(name.removesuffix(ending) + "…" * bool(ending), most) or "(none)" for name in names]
    if len(set(short)) == len(set(names)):
        return short
    return [f"{i} {shortened(name, most - 5)}" for i, name in enumerate(short)]


def shortened(text: str, most: int) -> str:
    """Return a text, without its middle where it is longer than ``most``."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[-half:]}"


def stacked(rows: Mapping[str, Mapping[str, int]], colours: Mapping[str, str], label: str) -> Figure:
    """Draw counts as stacked bars, one row each; what ``colours`` does not name was left out, and is hatched."""
    names = list(rows)
    shown = [names[i] for i in spread_over(len(names), MAX_ROWS)]
    kinds = [*colours, *dict.fromkeys(kind for name in shown for kind in rows[name] if kind not in colours)]
    with styled():
        figure = Figure(figsize=(WIDTH, 0.8 + 0.2 * len(shown)))
        axes = figure.subplots()
        left = np.zeros(len(shown))
        handles: list[Patch] = []
        for kind in kinds:
            counts = np.array([rows[name].get(kind, 0) for name in shown])
            if not counts.any():
                continue
            look: dict[str, Any] = {"color": colours[kind]} if kind in colours else _left_out(len(handles))
            axes.barh(range(len(shown)), counts, left=left, height=0.7, **look)
            handles.append(Patch(label=kind, **look))
            left += counts
        label_rows(axes, shown)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_xlabel(label)
        legend_above(figure, handles)
    return figure


def _left_out(number: int) -> dict[str, Any]:
    """Return how a bar of windows that were left out looks."""
    return {
        "facecolor": "none",
        "edgecolor": INK,
        "linewidth": 0.4,
        "hatch": ("////", "....", "xxxx", "----")[number % 4],
    }


def firing_rates(units: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw the firing rates of all units by region, on a logarithmic axis."""
    by_region: dict[str, list[float]] = defaultdict(list)
    for unit in units:
        if isinstance(unit.get("firing_rate_hz"), (int, float)):
            by_region[region_name(str(unit.get("location") or ""))].append(float(unit["firing_rate_hz"]))
    if not by_region:
        return None
    regions = sorted(by_region, key=lambda name: -len(by_region[name]))
    if len(regions) > MAX_REGIONS:
        others = [rate for name in regions[MAX_REGIONS:] for rate in by_region.pop(name)]
        regions = [*regions[:MAX_REGIONS], f"{len(regions) - MAX_REGIONS} other regions"]
        by_region[regions[-1]] = others
    positive = [rate for rates in by_region.values() for rate in rates if rate > 0]
    edges = np.geomspace(min(positive, default=0.1) * 0.99, max(positive, default=1.0) * 1.01, 25)
    with styled():
        figure = Figure(figsize=(WIDTH, 2.2))
        axes = figure.subplots()
        rates = [by_region[name] for name in regions]
        labels = [f"{shorten(name, 24, placeholder='…') or 'no region'} ({len(by_region[name]):,})" for name in regions]
        axes.hist(rates, edges.tolist(), stacked=True, color=[colour(i) for i in range(len(regions))], label=labels)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("firing rate over the recording (Hz)")
        axes.set_ylabel("units")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        silent = sum(rate == 0 for rates in by_region.values() for rate in rates)
        number = sum(map(len, by_region.values()))
        axes.set_title(f"{counted(number, 'unit')}{f', {silent:,} without a spike' if silent else ''}")
        handles, texts = axes.get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside upper left", ncols=3)
    return figure


def mean_counts(counts: Floats) -> Figure:
    """Draw the mean count in a bin of each unit."""
    with styled():
        figure = Figure(figsize=(WIDTH, 2.0))
        axes = figure.subplots()
        axes.hist(counts, 30, color=colour(0))
        axes.set_xlabel("mean count in a bin")
        axes.set_ylabel("units")
    return figure


def spectrum(found: Spectrum) -> Figure:
    """Draw the power spectrum of a field potential."""
    with styled():
        figure = Figure(figsize=(WIDTH, 2.2))
        axes = figure.subplots()
        axes.fill_between(
            found.frequency, found.low, found.high, color=FAINT, alpha=0.4, linewidth=0, label="5–95 % of channels"
        )
        axes.plot(found.frequency, found.median, color=INK, linewidth=1, label="median channel")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=7))
        axes.set_xlabel("frequency (Hz)")
        axes.set_ylabel(f"power ({found.unit})")
        axes.set_title(f"{found.column}: mean over {counted(found.samples, 'window')}")
        axes.legend()
    return figure


def distributions(found: Sequence[Distribution]) -> Figure:
    """Draw the distributions of features side by side."""
    columns = 2
    rows = -(-len(found) // columns)
    with styled():
        figure = Figure(figsize=(WIDTH, 1.5 * rows))
        places = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        for place, one in zip(places, found, strict=False):
            if one.number:
                place.stairs(one.counts, one.edges, fill=True, color=colour(0))
            place.set_title(shortened(one.name, 32), fontsize=SMALL)
            unit = one.unit or "stored values"
            place.set_xlabel(f"{unit}; {one.outside:,} beyond" if one.number else "nothing valid", fontsize=SMALL)
            place.set_yticks([])
            place.xaxis.set_major_locator(MaxNLocator(nbins=5))
        for place in places[len(found) :]:
            place.remove()
    return figure
