"""Samples of a data set, drawn into files and onto the terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from neurofm_shards.errors import ConfigError
from neurofm_shards.format.files import write_atomically
from neurofm_shards_report.facts import DatasetFacts, open_facts
from neurofm_shards_report.pictures import plot_view
from neurofm_shards_report.style import png, styled
from neurofm_shards_report.terminal import as_characters, encoded, has_shades, picture_protocol
from neurofm_shards_report.views import SampleView, known_of, stored_view

_SUFFIXES = (".png", ".svg", ".pdf")


def view_of(facts: DatasetFacts, sample: str) -> SampleView:
    """Return a sample that is named by key or number, ready to be drawn.

    Raises
    ------
    SampleNotFoundError, SampleIndexError
        There is no such sample.
    """
    return stored_view(facts.collection, _row(facts, sample), known_of(facts.collection))


def _row(facts: DatasetFacts, sample: str) -> int:
    try:
        number = int(sample)
    except ValueError:
        return facts.collection.find(sample)
    return number + facts.num_samples if number < 0 else number


def save_samples(
    path: str | os.PathLike[str], samples: Sequence[str], output: Path, columns: Sequence[str] | None
) -> list[tuple[str, Path]]:
    """Draw samples into files.

    Returns
    -------
    list of (str, Path)
        Each sample as it was named, and its file.

    Raises
    ------
    ConfigError
        The file's suffix is none of a picture, or a column cannot be drawn.
    """
    if output.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"-o {output}: the name of a picture ends in {', '.join(_SUFFIXES)}")
    facts = open_facts(path)
    written = []
    for number, sample in enumerate(samples):
        figure = plot_view(view_of(facts, sample), columns=columns)
        target = output if len(samples) == 1 else output.with_stem(f"{output.stem}_{number + 1}")
        if output.suffix.lower() == ".png":
            write_atomically(target, [png(figure)])
        else:
            with styled():
                figure.savefig(target, transparent=False, facecolor="white")
        written.append((sample, target))
    return written


def terminal_samples(
    path: str | os.PathLike[str], samples: Sequence[str], columns: Sequence[str] | None
) -> Iterator[str]:
    """Draw samples for the terminal: as pictures where it shows them, else as characters."""
    facts = open_facts(path)
    protocol = picture_protocol() if sys.stdout.isatty() else ""
    for sample in samples:
        view = view_of(facts, sample)
        if protocol:
            yield encoded(png(plot_view(view, columns=columns), dpi=100), protocol)
        else:
            yield as_characters(view, shutil.get_terminal_size((80, 24)).columns, columns, ascii_only=not has_shades())
