"""Pictures of one sample, as in a paper: rasters, counts, traces, behaviour; and of columns that others define."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import shorten, wrap
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError
from neurofm_shards.expressions import unknown_name
from neurofm_shards.values import as_array
from neurofm_shards_report.style import FAINT, INK, SMALL, SPIKES, TRIAL, bare, colour, from_nothing, png, styled
from neurofm_shards_report.views import SampleView

Array = npt.NDArray[Any]
#: Most traces, features and points in one panel; more are left out, and the panel says so.
MAX_TRACES, MAX_FEATURES, MAX_POINTS = 10, 6, 600
#: Most starts and stops of trials in a window that are named.
MAX_EDGES = 4


class SampleFigure(Figure):
    """A figure that a notebook shows when it is the last value of a cell, with or without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


#: Draws one column of a sample into axes.
Draw = Callable[[Axes, SampleView, str], None]


@dataclass(frozen=True)
class Panel:
    """One panel of a figure: which column, who draws it, and how high it is in inches."""

    column: str
    draw: Draw
    height: float


#: Columns that say something about other columns: masks, and row numbers of side tables.
_HELPER = re.compile(r"^valid$|_(valid|ids|units|channels|features|rois)$")
_REGISTERED: dict[str, tuple[Draw, float]] = {}


def register_picture(column: str, draw: Draw, height: float = 1.2) -> None:
    """Draw a column by a function of one's own.

    Parameters
    ----------
    column : str
        The column's name.
    draw : callable
        Called with ``(axes, view, column)``; ``view.values[column]`` is the sample's array.
    height : float
        Height of the panel in inches.

    Examples
    --------
    >>> def draw_pupil(axes, view, column):
    ...     axes.plot(view.values[column])
    >>> register_picture("pupil", draw_pupil)
    """
    if height <= 0:
        raise ConfigError(f"height={height:g} of the picture of {column!r}: give a height in inches above 0")
    _REGISTERED[column] = (draw, height)


def plot_sample(
    sample: Mapping[str, Any],
    *,
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    units: Mapping[str, str] | None = None,
    bin_ms: float | None = None,
    columns: Sequence[str] | None = None,
    axes: Sequence[Axes] | None = None,
    width: float = 7.0,
) -> Figure:
    """Draw a sample, one panel for each column that can be drawn.

    Parameters
    ----------
    sample : dict
        A sample as ``ShardDataset`` gives it: arrays or tensors, and ``metadata``.
    tables : mapping of str to list of dict, optional
        Side tables (``dataset.table("units")``), for names and regions of units.
    units : mapping of str to str, optional
        Physical units of columns.
    bin_ms : float, optional
        Width of a bin, for samples that say no times.
    columns : sequence of str, optional
        Columns to draw, in this order; all by default.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each panel; a new figure by default.
    width : float
        Width of a new figure in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ConfigError
        A column is not there or cannot be drawn, or there are not as many axes as panels.

    Examples
    --------
    >>> dataset = ShardDataset("./shards")  # doctest: +SKIP
    >>> plot_sample(dataset[0], tables={"units": dataset.table("units")}).savefig("sample.png")  # doctest: +SKIP
    """
    values = {name: _array(value) for name, value in sample.items() if name != "metadata"}
    view = SampleView(values, dict(sample.get("metadata") or {}), tables or {}, units or {}, bin_ms)
    return plot_view(view, columns=columns, axes=axes, width=width)


def plot_view(
    view: SampleView,
    *,
    columns: Sequence[str] | None = None,
    axes: Sequence[Axes] | None = None,
    width: float = 7.0,
    title: str | None = None,
) -> Figure:
    """Draw a sample with what is known of it; see :func:`plot_sample`."""
    panels = panels_of(view, columns)
    with styled():
        if axes is None:
            heights = [panel.height for panel in panels]
            figure: Figure = SampleFigure(figsize=(width, sum(heights) + 0.35 * len(heights) + 0.6))
            places = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0].tolist()
            figure.suptitle(describe(view) if title is None else title, x=0.01, ha="left", fontsize=SMALL)
        else:
            places = list(axes)
            if len(places) != len(panels):
                names = [panel.column for panel in panels]
                raise ConfigError(
                    f"{len(places)} axes for {len(panels)} panels ({', '.join(names)}): give one for each"
                )
            figure = places[0].figure
        for panel, place in zip(panels, places, strict=True):
            panel.draw(place, view, panel.column)
            _mark_time(place, view)
        _name_trials(places, view)
        _share_time(places)
    return figure


def describe(view: SampleView) -> str:
    """Return one line about a sample: session, time, split, and the trial's labels."""
    said = view.metadata
    parts = [str(said.get("session_id") or ""), str(said.get("sample_id") or "")]
    if said.get("split"):
        parts.append(f"split {said['split']}")
    if isinstance(said.get("trial"), int) and said["trial"] >= 0:
        parts.append(f"trial {said['trial']}")
    known = {"sample_id", "modalities", "shard_idx", "sample_idx_in_shard", "session_id", "subject_id", "source_file"}
    known |= {"window_start_s", "window_stop_s", "origin_s", "split", "trial", "align_s"}
    if isinstance(said.get("align_s"), float):
        parts.append(f"aligned to {said['align_s']:.6g} s (dashed)")
    labels = [f"{name} {value}" for name, value in said.items() if name not in known and value not in (None, "")]
    return "\n".join(wrap("  ·  ".join([*filter(None, parts), *labels[:4]]), 110)[:2])


def panels_of(view: SampleView, columns: Sequence[str] | None = None) -> list[Panel]:
    """Return the panels of a sample, in the order of its columns."""
    missing = [name for name in columns or () if name not in view.values]
    if missing:
        raise ConfigError(unknown_name("column", missing[0], view.values))
    found = [panel for name in columns or view.values if (panel := _panel(view, name, named=columns is not None))]
    if not found:
        raise ConfigError(f"nothing in the sample can be drawn: {', '.join(view.values) or 'it is empty'}")
    return found


def _panel(view: SampleView, name: str, *, named: bool) -> Panel | None:
    value = view.values[name]
    if name in _REGISTERED:
        return Panel(name, *_REGISTERED[name])
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufc" or (not named and _HELPER.search(name)):
        return None
    if name == "spike_times" and "spike_units" in view.values:
        return Panel(name, draw_raster, 1.2)
    mask = view.invalid(name) if value.ndim else None
    if mask is not None and mask.size and mask.all():
        return Panel(name, draw_masked, 0.3)
    if value.ndim == 2:
        return _panel_over_time(name, value.shape[1])
    return Panel(name, draw_default, 0.9 if value.ndim else 0.3)


def _panel_over_time(name: str, channels: int) -> Panel:
    if name == "spikes":
        return Panel(name, draw_counts, float(np.clip(0.02 * channels, 0.7, 2.2)))
    if name == "lfp":
        return Panel(name, draw_traces, 0.3 + 0.16 * min(channels, MAX_TRACES))
    if channels <= 16:
        return Panel(name, draw_lines, 0.45 * min(channels, MAX_FEATURES) + 0.2)
    return Panel(name, draw_default, 0.9)


def _array(value: Any) -> Any:
    array = as_array(value)
    return value if array is None else array


def _mark_time(axes: Axes, view: SampleView) -> None:
    """Give a time axis few ticks, and mark the event of the trial that the window is aligned to."""
    if not axes.get_xlabel().startswith("time"):
        return
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    if "session" not in axes.get_xlabel():
        return
    if isinstance(view.metadata.get("align_s"), float):
        axes.axvline(view.metadata["align_s"], color=INK, linewidth=0.8, linestyle="--")
    for at, _ in _trial_edges(view):
        axes.axvline(at, color=TRIAL, linewidth=1.0)


def _trial_edges(view: SampleView) -> list[tuple[float, str]]:
    """Return where trials start and stop within a sample, and what happens there."""
    edges = [edge for name, a, b in view.trials() for edge in ((a, f"{name} starts"), (b, f"{name} stops"))]
    first, last = view.span("")[:2] if edges else (0.0, 0.0)
    return sorted((at, what) for at, what in edges if first <= at <= last)


def _name_trials(places: Sequence[Axes], view: SampleView) -> None:
    """Write above the first panel over time which trials start and stop there, unless they are too many to read."""
    over_time = [place for place in places if "session" in place.get_xlabel()]
    edges = _trial_edges(view)
    if not over_time or not 0 < len(edges) <= MAX_EDGES:
        return
    over_time[0].set_title(over_time[0].get_title(loc="left"), pad=18)
    first, last, _ = view.span("")
    for at, what in edges:
        share = (at - first) / (last - first)
        is_left = share > 0.2 and (share > 0.8 or what.endswith("stops"))
        over_time[0].annotate(
            what, (at, 1), xycoords=("data", "axes fraction"), xytext=(-3 if is_left else 3, 3),
            textcoords="offset points", ha="right" if is_left else "left", fontsize=SMALL, color=TRIAL,
        )  # fmt: skip


def _share_time(places: Sequence[Axes]) -> None:
    """Leave the time axis to the last panel of those that share it."""
    labels = [(place.get_xlabel(), *place.get_xlim()) for place in places]
    for number, place in enumerate(places[:-1]):
        if place.get_xlabel() and labels[number] == labels[-1]:
            place.set_xlabel("")
            place.tick_params(labelbottom=False)


def _order(rows: Sequence[Mapping[str, Any]], activity: Array) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return units ordered by region, then by activity, and their regions in that order."""
    regions = [str(row.get("location") or "") for row in rows] or [""] * len(activity)
    order = np.lexsort((-activity, np.array(regions)))
    return order, [regions[i] for i in order.tolist()]


def _label_regions(axes: Axes, regions: Sequence[str], what: str) -> None:
    """Write each region beside its rows, and lines between regions."""
    edges = [0, *(i for i in range(1, len(regions)) if regions[i] != regions[i - 1]), len(regions)]
    axes.set_ylabel(what)
    axes.set_yticks([])
    if len(edges) > 13 or not any(regions):
        return
    axes.set_yticks([(a + b - 1) / 2 for a, b in pairwise(edges)])
    names = [region_name(regions[a]) or "?" for a in edges[:-1]]
    axes.set_yticklabels([name if len(name) <= 14 else f"{name[:13].rstrip()}…" for name in names])
    axes.tick_params(axis="y", length=0)
    for edge in edges[1:-1]:
        axes.axhline(edge - 0.5, color=FAINT, linewidth=0.5)


#: What stands before a region's name where a file tells several facts of an electrode as one text.
_KEY = re.compile(r"^\W*\w+\W*:\W*([^;,}]*\w)")
_SAYS_NOTHING = frozenset({"n/a", "na", "nan", "none", "unknown"})


def region_name(region: str) -> str:
    """Return what a region is called: the first value of ``brain_region: ALM; hemisphere: left`` and the like.

    >>> region_name("brain_region: ALM; hemisphere: left"), region_name("brain_region: N/A; subregion: VM")
    ('ALM', 'VM')
    """
    keyed = _KEY.match(region)
    if keyed and keyed[1].lower() in _SAYS_NOTHING:
        return region_name(region[keyed.end() :].lstrip(" ;,")) or region
    return keyed[1] if keyed else region


def _image(axes: Axes, view: SampleView, column: str, image: Array, base: str) -> None:
    """Draw rows over time."""
    first, last, label = view.span(column)
    finite = image[np.isfinite(image)]
    low = min(0.0, float(finite.min())) if finite.size else 0.0
    high = float(np.quantile(finite, 0.999)) if finite.size else 1.0
    axes.imshow(
        image, aspect="auto", interpolation="nearest", cmap=from_nothing(base), vmin=low,
        vmax=max(high, low + 1e-12), extent=(first, last, len(image) - 0.5, -0.5),
    )  # fmt: skip
    axes.set_xlabel(label)


def _shade(axes: Axes, view: SampleView, column: str, mask: Array | None) -> None:
    """Shade the stretches that a mask leaves out."""
    if mask is None or not mask.any():
        return
    first, last, _ = view.span(column)
    hidden = np.asarray(mask if mask.ndim == 1 else mask.all(axis=tuple(range(1, mask.ndim))))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hidden, [False]]).astype(np.int8)))
    scale = (last - first) / len(hidden)
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        axes.axvspan(first + start * scale, first + stop * scale, color=FAINT, alpha=0.35, linewidth=0)


def draw_counts(axes: Axes, view: SampleView, column: str) -> None:
    """Draw binned counts, one row per unit, ordered by region and rate."""
    counts = np.asarray(view.values[column], np.float64)
    order, regions = _order(view.rows("unit_ids", "units"), counts.sum(axis=0))
    _image(axes, view, column, counts.T[order], SPIKES)
    _shade(axes, view, column, view.invalid(column))
    _label_regions(axes, regions, "unit")
    axes.set_title(f"{column}: {counted(counts.shape[1], 'unit')}, at most {counts.max(initial=0):g} in a bin")


def draw_raster(axes: Axes, view: SampleView, column: str) -> None:
    """Draw spike times, one row per unit, ordered by region and number of spikes."""
    times = np.asarray(view.values[column], np.float64)
    owner = np.asarray(view.values["spike_units"], np.int64)
    first, last, label = view.span(column)
    if label == "bin":
        first, last, label = 0.0, float(times.max(initial=1.0)), "time (s)"
    numbers = np.asarray(view.values.get("unit_ids", np.unique(owner)), np.int64).ravel()
    activity = np.array([(owner == number).sum() for number in numbers.tolist()])
    order, regions = _order(view.rows("unit_ids", "units"), activity)
    row_of = {int(numbers[i]): row for row, i in enumerate(order.tolist())}
    rows = [row_of.get(number, -1) for number in owner.tolist()]
    axes.plot(
        first + times, rows, linestyle="none", marker="|", markersize=3, color=SPIKES, rasterized=len(times) > 500
    )
    _shade(axes, view, column, view.invalid(column))
    axes.set_xlim(first, last)
    axes.set_ylim(len(numbers) - 0.5, -0.5)
    axes.set_xlabel(label)
    _label_regions(axes, regions, "unit")
    axes.set_title(f"{column}: {counted(len(times), 'spike')} of {counted(len(numbers), 'unit')}")


def draw_masked(axes: Axes, view: SampleView, column: str) -> None:
    """Say that nothing in a column is valid."""
    first, last, label = view.span(column)
    axes.axvspan(first, last, color=FAINT, alpha=0.35, linewidth=0)
    axes.text(
        0.5, 0.5, "nothing valid in this window", transform=axes.transAxes, ha="center", va="center", fontsize=SMALL
    )
    axes.set_xlim(first, last)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label)
    axes.set_title(column)


def thinned(time: Array, values: Array, most: int = MAX_POINTS) -> tuple[Array, Array]:
    """Return a trace in about ``most`` points: the least and the greatest value of each stretch, so no peak is lost."""
    step = -(-2 * len(values) // most)
    if step <= 2:
        return time, values
    whole = len(values) // step * step
    blocks = values[:whole].reshape(-1, step)
    first = np.arange(0, whole, step)
    places = np.stack([first, first + step // 2], axis=1).ravel()
    pairs = np.stack([blocks.min(axis=1), blocks.max(axis=1)], axis=1).ravel()
    rest = values[whole:]
    if len(rest):
        places, pairs = np.append(places, [whole, len(values) - 1]), np.append(pairs, [rest.min(), rest.max()])
    return time[places], pairs


def draw_traces(axes: Axes, view: SampleView, column: str) -> None:
    """Draw channels below one another, with a scale bar in place of an axis."""
    values = np.asarray(view.values[column], np.float64)
    shown = np.linspace(0, values.shape[1] - 1, min(values.shape[1], MAX_TRACES)).round().astype(np.int64)
    traces = values[:, shown] - np.nanmean(values[:, shown], axis=0) if values.size else values[:, shown]
    spread = float(np.nanquantile(np.abs(traces), 0.98)) * 2.5 if np.isfinite(traces).any() else 1.0
    spread = spread or 1.0
    first, last, label = view.span(column)
    time = np.linspace(first, last, len(traces), endpoint=False)
    for number in range(traces.shape[1]):
        axes.plot(*thinned(time, traces[:, number] - number * spread), color=INK, linewidth=0.5)
    _shade(axes, view, column, view.invalid(column))
    bare(axes)
    axes.set_xlim(first, last)
    _scale_bar(axes, spread, view.units.get(column, ""))
    axes.set_xlabel(label)
    axes.tick_params(axis="x", length=0)
    names = [str(row.get("channel") or "") for row in view.rows(f"{column}_channels", "channels")]
    less = "" if len(shown) == values.shape[1] else f", {len(shown)} of them drawn"
    axes.set_title(f"{column}: {values.shape[1]} channels{less}")
    axes.set_yticks([-number * spread for number in range(len(shown))])
    axes.set_yticklabels([names[i] if names else str(i) for i in shown.tolist()])
    axes.tick_params(axis="y", length=0)


def _scale_bar(axes: Axes, spread: float, unit: str) -> None:
    """Draw a vertical bar of a round length, and say how long it is."""
    exponent = np.floor(np.log10(spread))
    length = max(m * 10**exponent for m in (1, 2, 5) if m * 10**exponent <= spread)
    place = axes.get_yaxis_transform()
    axes.plot(
        [1.015, 1.015], [0, -length], color=INK, linewidth=1.5, solid_capstyle="butt", clip_on=False, transform=place
    )
    axes.text(
        1.03, -length / 2, f"{engineering(length)}{unit}", va="center", ha="left", fontsize=SMALL, transform=place
    )


def engineering(value: float) -> str:
    """Return a number with an SI prefix: ``200 µ`` for 0.0002."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g} "
    prefixes = {-12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G"}
    power = int(np.clip(np.floor(np.log10(abs(value)) / 3 + 1e-9) * 3, -12, 9))
    return f"{value / 10.0**power:.3g} {prefixes[power]}"


def draw_lines(axes: Axes, view: SampleView, column: str) -> None:
    """Draw features over time, each on a scale of its own, masked parts shaded."""
    values = np.asarray(view.values[column], np.float64)
    mask = view.invalid(column)
    features = view.rows(f"{column}_features", "features")
    first, last, label = view.span(column)
    time = np.linspace(first, last, len(values), endpoint=False)
    shown = min(values.shape[1], MAX_FEATURES)
    is_whole = np.asarray(view.values[column]).dtype.kind in "biu"
    names = feature_names([*features, *[{}] * (values.shape[1] - len(features))])
    for number in range(shown):
        own = values[:, number].copy()
        if mask is not None and mask.shape[: own.ndim] == own.shape:
            own[mask if mask.ndim == 1 else mask[:, number]] = np.nan
        row = features[number] if number < len(features) else {}
        if row.get("kind") == "circular":
            own[1:][np.abs(np.diff(own)) > np.pi] = np.nan  # where an angle goes once around
        low, high = _range(own)
        axes.plot(
            *thinned(time, (own - low) / (high - low) - 1.25 * number), color=colour(number), linewidth=1,
            drawstyle="steps-post" if is_whole else "default",
        )  # fmt: skip
        unit = f" {row['unit']}" if row.get("unit") else ""
        said = f"{low:.3g} to {high:.3g}{unit}" if np.isfinite(own).any() else "masked"
        said = f"{shorten(names[number], 22, placeholder='…')}\n{said}"
        axes.text(
            1.015, 0.5 - 1.25 * number, said, va="center", ha="left",
            transform=axes.get_yaxis_transform(), fontsize=SMALL, linespacing=1.1,
        )  # fmt: skip
    _shade(axes, view, column, mask)
    axes.set_xlim(first, last)
    axes.set_ylim(-1.25 * (shown - 1) - 0.1, 1.1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label)
    less = "" if shown == values.shape[1] else f", {shown} of {values.shape[1]} drawn"
    axes.set_title(f"{column}{less}")


def _range(values: Array) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def feature_names(rows: Sequence[Mapping[str, Any]], parts: int = 1) -> list[str]:
    """Return what features are called: the last parts of the series' path, and which column where it has several.

    A feature of which nothing is known is called by its number.
    """
    paths = [str(row.get("path") or row.get("id") or "") for row in rows]
    names = []
    for number, (path, row) in enumerate(zip(paths, rows, strict=True)):
        name, column = "/".join(path.rsplit("/", parts)[-parts:]) or str(number), row.get("column")
        alone = column in (None, "") or (str(column) == "0" and paths.count(path) == 1)
        names.append(name if alone else f"{name} {column}")
    return names


def draw_default(axes: Axes, view: SampleView, column: str) -> None:
    """Draw any array: a number as text, a row as a line, a table as an image."""
    values = np.asarray(view.values[column])
    values = np.abs(values) if values.dtype.kind == "c" else values.astype(np.float64)
    unit = view.units.get(column)
    shape = " × ".join(map(str, values.shape))
    axes.set_title(f"{column}{f' ({unit})' if unit else ''}{': ' + shape if shape else ''}")
    if values.ndim == 0 or values.size == 0:
        bare(axes)
        axes.text(0, 0.5, f"{values[()]:g}" if values.ndim == 0 else "empty", va="center")
        return
    is_deep = values.ndim > 2
    values = values.reshape(len(values), -1) if is_deep else values
    if values.ndim == 1:
        axes.plot(*thinned(np.arange(len(values)), values), color=INK, linewidth=0.8)
        axes.set_xlabel("number")
        return
    _image(axes, view, column, values.T[:: -(-values.shape[1] // MAX_POINTS)], SPIKES)
    axes.set_ylabel("other axes" if is_deep else "channel")
    if is_deep and not view.has_times:
        axes.set_xlabel("first axis")
    _shade(axes, view, column, view.invalid(column))
