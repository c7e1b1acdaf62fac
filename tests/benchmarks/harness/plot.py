"""One picture: what everybody reads and writes per second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from harness.bench import MAP, OURS
from harness.results import Results, Series
from matplotlib.ticker import NullFormatter

OURS_COLOUR, LIMIT_COLOUR, PEER_COLOUR = "#c8553d", "#9a9a9a", "#4a7fa5"


def plot(results: Results, path: Path) -> None:
    """Draw one panel per comparison of everybody, and one of the bars."""
    named = list(dict.fromkeys(one.case for one in results.series))
    cases = [case for case in named if _compared(results, case) > 2] or [
        case for case in named if _compared(results, case) > 1
    ]
    panels = max(1, len(cases))
    rows = -(-panels // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(13, 0.8 + 2.7 * rows), squeeze=False, layout="constrained")
    for axis, case in zip(axes.ravel(), cases, strict=False):
        _panel(axis, case, [one for one in results.series if one.case == case])
    for axis in axes.ravel()[len(cases) :]:
        axis.axis("off")
    figure.suptitle("Samples per second, medians with quartiles (logarithmic; further right is faster)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _compared(results: Results, case: str) -> int:
    """Return how many contenders' rates there are of a case."""
    return sum(one.case == case and one.unit == "samples/s" for one in results.series)


def _panel(axis: Any, case: str, series: list[Series]) -> None:
    series = sorted(series, key=lambda one: one.median)
    medians = [one.median for one in series]
    errors = [
        [one.median - one.spread[0] for one in series],
        [one.spread[1] - one.median for one in series],
    ]
    colours = [OURS_COLOUR if one.who == OURS else LIMIT_COLOUR if one.who == MAP else PEER_COLOUR for one in series]
    axis.barh([one.who.replace(", ", ",\n") for one in series], medians, xerr=errors, color=colours, height=0.65)
    axis.set_xscale("log")
    axis.xaxis.set_minor_formatter(NullFormatter())  # where less than a decade is shown, they would cover one another
    axis.set_xlim(min(medians) / 3, max(medians) * 4)
    axis.set_title(case, fontsize=10)
    for place, one in enumerate(series):
        axis.text(one.spread[1] * 1.1, place, f"  {one.median:,.0f}", va="center", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
