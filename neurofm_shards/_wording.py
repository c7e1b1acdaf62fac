"""Build the phrases of messages: counted nouns, sizes in bytes, texts cut to one line; and notebooks' small tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape


def counted(count: int, what: str) -> str:
    """Return a number of things, in the plural where it is not one.

    Examples
    --------
    >>> counted(1, "shard"), counted(1200, "shard"), counted(0, "box of index"), counted(2, "entry")
    ('1 shard', '1,200 shards', '0 boxes of index', '2 entries')
    """
    return f"{count:,} {what if count == 1 else plural(what)}"


def plural(what: str) -> str:
    """Return the plural of a noun, which ends before ``of`` where there is one."""
    noun, of, rest = what.partition(" of ")
    if noun.endswith("series"):
        return what
    if noun.endswith(("x", "ch", "s")):
        return f"{noun}es{of}{rest}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies{of}{rest}"
    return f"{noun}s{of}{rest}"


def listed(names: Sequence[str], most: int, between: str = ", ") -> str:
    """Return names in a row, and behind the first ``most`` how many more there are.

    Examples
    --------
    >>> listed(["a", "b"], 2), listed(["a", "b", "c"], 1)
    ('a, b', 'a and 2 more')
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def size_text(number: float) -> str:
    """Return a number of bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def without_name(text: str, *names: str) -> str:
    """Return a message without the name of a file, and its folder, at its beginning: it stands there already.

    Examples
    --------
    >>> without_name("/data/a.tar, byte 512: the file is empty", "a.tar"), without_name("a.tar is cut off", "a.tar")
    ('byte 512: the file is empty', 'it is cut off')
    """
    for name in names:
        found = re.match(rf"(?:[^: ]*/)?{re.escape(name)}([:,]?) ", text)
        if found:
            text = ("" if found[1] else "it ") + text[found.end() :]
    return text


def first_part(text: str, longest: int = 500) -> str:
    """Return a text in one line, cut where it is longer than that."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


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
