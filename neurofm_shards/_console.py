"""A console on which names from files are shown and steer nothing, and rows that fit its width."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from neurofm_shards.errors import visible


class SafeConsole(Console):
    """A console that shows control characters instead of sending them to the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text ready for printing; everything that is printed as a text comes by here."""
        return super().render_str(visible(text), **options)


#: Columns are this far apart, notes below their row this far indented.
_GAP, _INDENT = 2, 4
#: The first column is at least this wide, unless all its texts are shorter.
_LEAST_NAME = 20


def fitted_rows(heads: Sequence[str], rows: Iterable[tuple[Sequence[str], str]], width: int) -> list[str]:
    """Lay rows out as lines that fit a width, if the columns after the first leave room for it.

    Parameters
    ----------
    heads : sequence of str
        Heads of the columns; columns without any text are left out.
    rows : iterable of (sequence of str, str)
        Cells, and a note. The first cell breaks after ``/``, ``_``, ``-`` and spaces, other cells do not. The note
        follows where it fits, and else stands below its row.
    width : int
        Columns of the terminal.

    Returns
    -------
    list of str
        The first one is of the heads.
    """
    rows = list(rows)
    kept = [0, *(i for i in range(1, len(heads)) if any(cells[i] for cells, _ in rows))]
    table = [[heads[i] for i in kept], *([cells[i] for i in kept] for cells, _ in rows)]
    others = [max(cell_len(cells[i]) for cells in table) for i in range(1, len(kept))]
    left = width - sum(others) - _GAP * len(others)
    first = min(max(cell_len(cells[0]) for cells in table), max(left, _LEAST_NAME))
    lines = []
    for cells, note in zip(table, ["", *(note for _, note in rows)], strict=True):
        name, *more = [cells[0]] if cell_len(cells[0]) <= first else _folded(cells[0], first - _GAP)
        line = _padded([name, *cells[1:]], [first, *others])
        below = [" " * _GAP + part for part in more]
        if note and cell_len(line) + _GAP + cell_len(note) <= width and not more:
            line += " " * _GAP + note
        elif note:
            below += [" " * _INDENT + part for part in _folded(note, width - _INDENT)]
        lines += [line.rstrip(), *below]
    return lines


def print_table(console: Console, heads: Sequence[str], rows: Iterable[tuple[Sequence[str], str]]) -> None:
    """Print cells and notes, laid out by :func:`fitted_rows`, the heads dim."""
    first, *others = fitted_rows(heads, rows, console.width)
    console.print(first, style="dim", markup=False, soft_wrap=True)
    for line in others:
        console.print(line, markup=False, soft_wrap=True)


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
    return (" " * _GAP).join(padded)


def _folded(text: str, width: int) -> list[str]:
    """Break a text between words and parts of paths; a part that is longer than a line is cut."""
    lines = [""]
    for part in re.findall(r"[^/_\-\s]*[/_\-\s]*", text):
        if cell_len(lines[-1]) + cell_len(part.rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += part
        while cell_len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip() for line in lines if line] or [""]
