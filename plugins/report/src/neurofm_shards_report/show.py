"""Samples drawn into files and terminals."""

from __future__ import annotations

import base64
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from neurofm_shards.errors import ConfigError
from neurofm_shards.format.files import write_atomically
from neurofm_shards_report.facts import DatasetFacts, open_facts
from neurofm_shards_report.pictures import SampleView, describe, plot_view
from neurofm_shards_report.style import png, styled

_SUFFIXES = (".png", ".svg", ".pdf")
#: From no event to many, in a character.
_SHADES, _ASCII_SHADES = " ·▪■█", " .:+#"


def view_of(facts: DatasetFacts, sample: str) -> SampleView:
    """Return a sample that is named by key or number, ready to be drawn.

    Raises
    ------
    SampleNotFoundError, SampleIndexError
        There is no such sample.
    """
    row = _row(facts, sample)
    collection = facts.collection
    values = {name: data[0] for name, data in collection.gather(np.array([row])).items()}
    values = {name: value for name, value in values.items() if value is not None}
    tables = {name: facts.table(name) for name in (facts.manifest.tables if facts.manifest else ())}
    units = {name: spec.unit for name, spec in collection.columns.items() if spec.unit}
    widths = {session.summary.bin_size_ms for session in facts.sessions}
    bin_ms = widths.pop() if len(widths) == 1 else None
    return SampleView(values, collection.metadata(np.array([row]))[0], tables, units, bin_ms)


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
            yield as_characters(view, shutil.get_terminal_size((80, 24)).columns, ascii_only=not _has_blocks())


def picture_protocol() -> str:
    """Return how the terminal takes pictures: ``"kitty"``, ``"iterm"`` or nothing."""
    if os.environ.get("KITTY_WINDOW_ID") or os.environ.get("TERM", "") in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    return "iterm" if os.environ.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm", "vscode") else ""


def encoded(image: bytes, protocol: str) -> str:
    """Return a PNG as the escape sequences of a terminal."""
    text = base64.b64encode(image).decode()
    if protocol == "iterm":
        return f"\x1b]1337;File=inline=1;size={len(image)}:{text}\a\n"
    pieces = [text[i : i + 4096] for i in range(0, len(text), 4096)]
    parts = []
    for number, piece in enumerate(pieces):
        control = "a=T,f=100," if number == 0 else ""
        parts.append(f"\x1b_G{control}m={int(number < len(pieces) - 1)};{piece}\x1b\\")
    return "".join(parts) + "\n"


def _has_blocks() -> bool:
    try:
        _SHADES.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def as_characters(view: SampleView, width: int, *, ascii_only: bool) -> str:
    """Return the sample's two-dimensional columns as rows of characters, darker where values are larger."""
    shades = _ASCII_SHADES if ascii_only else _SHADES
    lines = [describe(view) if not ascii_only else describe(view).encode("ascii", "replace").decode()]
    for name, value in view.values.items():
        if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "iuf" or not value.size:
            continue
        lines.append(f"{name} ({' x '.join(map(str, value.shape))})")
        lines += _rows(value, max(20, min(width - 2, 120)), shades)
    return "\n".join(lines) + "\n"


def _rows(value: np.ndarray, width: int, shades: str, most: int = 24) -> list[str]:
    """Average time into ``width`` cells and channels into ``most`` rows."""
    table = np.nan_to_num(np.asarray(value, np.float64).T)
    table = table if value.dtype.kind in "iu" else np.abs(table - np.median(table, axis=1, keepdims=True))
    table = np.stack([part.mean(axis=0) for part in np.array_split(table, min(most, len(table)))])
    cells = np.stack([part.mean(axis=1) for part in np.array_split(table, min(width, table.shape[1]), axis=1)], axis=1)
    top = float(np.quantile(cells, 0.99)) or float(cells.max()) or 1.0
    level = np.clip(np.ceil(cells / top * (len(shades) - 1)), 0, len(shades) - 1).astype(int)
    return ["|" + "".join(shades[i] for i in row) + "|" for row in level.tolist()]
