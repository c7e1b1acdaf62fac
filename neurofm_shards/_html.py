"""Small HTML tables, which notebooks show in place of ``repr``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(title: str, rows: Iterable[Sequence[object]], heads: Sequence[str] = ()) -> str:
    """Return a table as HTML; all texts are escaped.

    Parameters
    ----------
    title : str
        Caption of the table.
    rows : iterable of sequence
        Cells.
    heads : sequence of str
        Heads of the columns; without them, the first cell of each row is one.
    """
    head = f"<thead><tr>{''.join(f'<th>{escape(text)}</th>' for text in heads)}</tr></thead>" if heads else ""
    body = "".join(f"<tr>{''.join(_cells(row, first_is_head=not heads))}</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption>{head}<tbody>{body}</tbody></table>"


def _cells(row: Sequence[object], *, first_is_head: bool) -> Iterable[str]:
    for number, cell in enumerate(row):
        tag = "th" if first_is_head and number == 0 else "td"
        yield f'<{tag} style="text-align: left">{escape(_text(cell))}</{tag}>'


def _text(cell: object) -> str:
    if isinstance(cell, bool) or cell is None:
        return "" if cell is None else str(cell)
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
