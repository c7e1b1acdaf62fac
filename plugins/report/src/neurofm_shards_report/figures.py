"""Figures about a whole data set: timelines, windows per split, rates, spectra, distributions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from neurofm_shards_report.facts import NO_SPLIT, DatasetFacts
from neurofm_shards_report.measures import Distribution, Spectrum
from neurofm_shards_report.style import FAINT, INK, colour, styled

Floats = npt.NDArray[np.float64]
#: Most sessions, subjects or regions that get a row of their own in a figure.
MAX_ROWS = 40
#: Most regions that get a colour of their own.
MAX_REGIONS = 6
#: Width of figures in inches.
WIDTH = 7.4


def split_colours(facts: DatasetFacts) -> dict[str, str]:
    """Return a colour for each split."""
    named = [name for name in facts.splits_of.names if name != NO_SPLIT]
    return {NO_SPLIT: "#7a7f85"} | {name: colour(i) for i, name in enumerate(named)}


def timeline(facts: DatasetFacts) -> Figure | None:
    """Draw when each session was recorded, and where its windows lie, coloured by split."""
    if facts.start is None or facts.stop is None:
        return None
    shown = spread_over(len(facts.sessions), MAX_ROWS)
    colours = split_colours(facts)
    with styled():
        figure = Figure(figsize=(WIDTH, 0.9 + 0.2 * len(shown)))
        axes = figure.subplots()
        for place, number in enumerate(shown):
            session = facts.sessions[number].summary
            if session.extent_s is not None:
                low, high = session.extent_s
                axes.broken_barh([(0, high - low)], (place - 0.4, 0.8), color=FAINT, alpha=0.35, linewidth=0)
            own = np.flatnonzero(facts.sessions_of.codes == number)
            origin = session.extent_s[0] if session.extent_s is not None else float(facts.start[own].min())
            for code, name in enumerate(facts.splits_of.names):
                rows = own[facts.splits_of.codes[own] == code]
                stretches = joined(facts.start[rows] - origin, facts.stop[rows] - origin)
                axes.broken_barh(stretches, (place - 0.28, 0.56), color=colours[name], linewidth=0)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_yticks(range(len(shown)))
        axes.set_yticklabels([shorten_id(facts.sessions[number].summary.name) for number in shown], fontsize=7)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("time since the start of the recording (s)")
        handles = [Patch(color=colours[name], label=name) for name in facts.splits_of.names]
        handles.append(Patch(color=FAINT, alpha=0.35, label="of the recording, in no window"))
        figure.legend(handles=handles, loc="outside upper left", ncols=5, fontsize=7)
    return figure


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


def shorten_id(text: str) -> str:
    """Return the beginning and the end of a long id."""
    return text if len(text) <= 28 else f"{text[:14]}…{text[-13:]}"


def stacked(rows: Mapping[str, Mapping[str, int]], colours: Mapping[str, str], label: str) -> Figure:
    """Draw counts by split as stacked bars, one row each."""
    names = list(rows)
    shown = [names[i] for i in spread_over(len(names), MAX_ROWS)]
    with styled():
        figure = Figure(figsize=(WIDTH, 0.8 + 0.2 * len(shown)))
        axes = figure.subplots()
        left = np.zeros(len(shown))
        for split, shade in colours.items():
            counts = np.array([rows[name].get(split, 0) for name in shown])
            if counts.any():
                axes.barh(range(len(shown)), counts, left=left, color=shade, height=0.7, label=split)
                left += counts
        axes.set_yticks(range(len(shown)))
        axes.set_yticklabels([shorten_id(name) or "(none)" for name in shown], fontsize=7)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(label)
        figure.legend(loc="outside upper left", ncols=5, fontsize=7)
    return figure


def firing_rates(units: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw the firing rates of all units by region, on a logarithmic axis."""
    by_region: dict[str, list[float]] = defaultdict(list)
    for unit in units:
        if isinstance(unit.get("firing_rate_hz"), (int, float)):
            by_region[str(unit.get("location") or "")].append(float(unit["firing_rate_hz"]))
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
        labels = [f"{shorten(name, 24, placeholder='…') or 'no region'} ({len(by_region[name])})" for name in regions]
        axes.hist(rates, edges.tolist(), stacked=True, color=[colour(i) for i in range(len(regions))], label=labels)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("firing rate over the recording (Hz)")
        axes.set_ylabel("units")
        silent = sum(rate == 0 for rates in by_region.values() for rate in rates)
        axes.set_title(f"{sum(map(len, by_region.values()))} units{f', {silent} without a spike' if silent else ''}")
        figure.legend(loc="outside right upper", fontsize=7)
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
        axes.set_xlabel("frequency (Hz)")
        axes.set_ylabel(found.unit)
        axes.set_title(f"{found.column}: mean over {found.samples} windows")
        axes.legend(fontsize=7)
    return figure


def distributions(found: Sequence[Distribution]) -> Figure:
    """Draw the distributions of features side by side."""
    columns = 3
    rows = -(-len(found) // columns)
    with styled():
        figure = Figure(figsize=(WIDTH, 1.7 * rows))
        places = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        for place, one in zip(places, found, strict=False):
            if one.number:
                place.stairs(one.counts, one.edges, fill=True, color=colour(0))
            place.set_title(shorten_id(one.name), fontsize=8)
            place.set_xlabel(
                f"{one.unit or 'stored values'}, {one.outside} outside" if one.number else "nothing valid", fontsize=7
            )
            place.set_yticks([])
            place.tick_params(labelsize=7)
        for place in places[len(found) :]:
            place.remove()
    return figure
