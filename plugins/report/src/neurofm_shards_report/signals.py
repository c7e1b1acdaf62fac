"""The parts of a report about what was recorded: rates, spectra, behaviour, and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError
from neurofm_shards_report import figures
from neurofm_shards_report.facts import DatasetFacts, drawn_rows
from neurofm_shards_report.measures import Distribution, DrawnSamples, Spectrum
from neurofm_shards_report.numbers import sample_table
from neurofm_shards_report.page import Figures, Gallery, Part, Picture, Table, Text, table
from neurofm_shards_report.pictures import describe, plot_view

#: Samples drawn in a report, and how wide each is in inches.
SAMPLES_DRAWN, SAMPLE_WIDTH = 12, 4.6


def signal_parts(drawn: DrawnSamples, canvas: Figures) -> list[Part]:
    """Return firing rates, power spectra and distributions of behaviour."""
    parts: list[Part] = [*_rates(drawn, canvas)]
    for found in drawn.spectra():
        caption = (
            f"Power spectral density of {found.column}, from {counted(found.samples, 'window')} without masked values."
        )
        parts.append(canvas.picture(figures.spectrum(found), caption, _spectrum_table(found)))
    behaviour = drawn.distributions()
    if behaviour:
        caption = f"Behaviour between its 0.1st and 99.9th percentile, from {counted(len(drawn.rows), 'sample')}."
        parts.append(canvas.picture(figures.distributions(behaviour), caption, _behaviour_table(behaviour)))
    return parts


def _rates(drawn: DrawnSamples, canvas: Figures) -> list[Part]:
    figure, counts = figures.firing_rates(drawn.unit_rows), drawn.counts_per_unit()
    if figure is not None:
        caption = "Firing rates of all units over their whole recordings, by region."
        return [canvas.picture(figure, caption, _unit_table(drawn.unit_rows))]
    if counts is None:
        return []
    behind = table(
        "unit|mean count in a bin", enumerate(counts.tolist()), title="As a table", folded=True, numbers=(1,)
    )
    caption = f"Mean count in a bin of each unit, over {counted(len(drawn.rows), 'sample')}."
    return [canvas.picture(figures.mean_counts(counts), caption, behind)]


def _unit_table(units: Sequence[Mapping[str, Any]]) -> Table:
    rows = [(u.get("id"), u.get("location"), u.get("num_spikes"), u.get("firing_rate_hz")) for u in units]
    title = f"{counted(len(rows), 'unit')} as a table"
    return table("unit|region|spikes|rate (Hz)", rows, title=title, folded=True, numbers=(2, 3))


def _spectrum_table(found: Spectrum) -> Table:
    rows = zip(found.frequency.tolist(), found.median.tolist(), found.low.tolist(), found.high.tolist(), strict=True)
    heads = f"frequency (Hz)|median channel ({found.unit})|5 % of channels|95 % of channels"
    return table(heads, rows, title="As a table", folded=True, numbers=(0, 1, 2, 3))


def _behaviour_table(found: Sequence[Distribution]) -> Table:
    rows = [(d.name, d.unit, d.number, d.invalid, d.outside, float(d.edges[0]), float(d.edges[-1])) for d in found]
    heads = "feature|unit|valid values|masked|beyond|0.1 %|99.9 %"
    return table(heads, rows, title="As a table", folded=True, numbers=(2, 3, 4, 5, 6))


def sample_parts(facts: DatasetFacts, drawn: DrawnSamples, canvas: Figures) -> list[Part]:
    """Return samples that represent the data set, and its extremes."""
    chosen = drawn_rows(facts, SAMPLES_DRAWN).tolist()
    pictures = _pictures(drawn, [(row, "") for row in chosen], canvas)
    extremes = [(one.row, one.why) for one in drawn.oddest()]
    odd = _pictures(drawn, extremes, canvas)
    spread = (
        "some of every split, spread over sessions and time" if facts.has_splits else "spread over sessions and time"
    )
    parts: list[Part] = [Text(f"{counted(len(pictures), 'sample')}, {spread}."), Gallery(pictures)]
    if odd:
        parts += [Text(f"The extremes among {counted(len(drawn.rows), 'sample')}."), Gallery(odd)]
    if canvas.are_many and len(pictures) + len(odd) < len(chosen) + len(extremes):
        parts.append(Text("Further samples are not drawn, so that the page stays below 5 MB."))
    return parts


def _pictures(drawn: DrawnSamples, rows: Sequence[tuple[int, str]], canvas: Figures) -> list[Picture]:
    """Draw samples until there are too many bytes of pictures: those that are drawn are spread over all, too."""
    found: dict[int, Picture] = {}
    for place in sorted(range(len(rows)), key=lambda i: f"{i:032b}"[::-1]):
        picture = None if canvas.are_many else _sample(drawn, rows[place][0], canvas, rows[place][1])
        if picture is not None and not canvas.are_too_many:
            found[place] = picture
    return [found[place] for place in sorted(found)]


def _sample(drawn: DrawnSamples, row: int, canvas: Figures, why: str = "") -> Picture | None:
    view = drawn.view(row)
    try:
        figure = plot_view(view, width=SAMPLE_WIDTH, title="")
    except ConfigError:
        return None  # nothing in it can be drawn, which the table of columns says
    said = describe(view).replace("\n", " ")
    lead = f"{why[0].upper()}{why[1:]}. " if why else ""
    return canvas.picture(figure, f"{lead}Sample {row:,}: {said}.", sample_table(view))
