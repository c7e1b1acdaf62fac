"""A page: sections of texts, tables and figures, rendered into one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, ClassVar

import jinja2
from matplotlib.figure import Figure

from neurofm_shards._wording import counted
from neurofm_shards_report.style import svg

#: Most rows of a table.
MAX_TABLE_ROWS = 300
#: Bytes of pictures after which no further sample or stream is drawn, and which the last may not exceed, so that a page
#: stays below 5 MB.
MAX_BYTES, MOST_BYTES = 3_600_000, 4_400_000


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Code:
    """Lines as they are, folded away under a title."""

    text: str
    title: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    rows: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Head:
    """The head of a table's column, and whether it holds numbers."""

    text: str
    number: bool = False


@dataclass(frozen=True)
class Table:
    """A table, folded away or not."""

    heads: Sequence[Head]
    rows: Sequence[Sequence[str]]
    title: str = ""
    folded: bool = False
    more: str = ""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Picture:
    """A figure with a caption, and the numbers behind it."""

    svg: str
    caption: str
    table: Table | None = None
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Gallery:
    """Figures side by side."""

    figures: Sequence[Picture]
    kind: ClassVar[str] = "samples"


Part = Text | Code | Facts | Table | Picture | Gallery


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    id: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Alarm:
    """What a reader should know first; ``severity`` is ``error``, ``warning``, ``info`` or ``good``."""

    severity: str
    text: str


@dataclass(frozen=True)
class Page:
    """The whole page."""

    title: str
    lead: str
    sections: Sequence[Section]
    alarms: Sequence[Alarm] = field(default_factory=tuple)

    @property
    def version(self) -> str:
        """Version of this distribution."""
        return version("neurofm-shards-report")


def table(
    heads: str, rows: Iterable[Sequence[Any]], *, title: str = "", folded: bool = False, numbers: Sequence[int] = ()
) -> Table:
    """Make a table.

    Parameters
    ----------
    heads : str
        Heads of the columns, separated by ``|``.
    rows : iterable of sequence
        Cells; numbers get thousands separators, None an empty cell. Columns without any are left out.
    title : str
        Title, or what a folded table is called.
    folded : bool
        Show the title only, until it is opened.
    numbers : sequence of int
        Columns that are aligned as numbers.
    """
    cells = [[cell(value) for value in row] for row in rows]
    more = f"{counted(len(cells) - MAX_TABLE_ROWS, 'more row')} not shown." if len(cells) > MAX_TABLE_ROWS else ""
    names = [Head(text, i in numbers) for i, text in enumerate(heads.split("|"))]
    filled = [i for i in range(len(names)) if not cells or any(row[i] for row in cells)]
    shown = [[row[i] for i in filled] for row in cells[:MAX_TABLE_ROWS]]
    return Table([names[i] for i in filled], shown, title, folded, more)


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


class Figures:
    """Turns figures into pictures with ids of their own."""

    def __init__(self) -> None:
        self._number = self._bytes = 0

    @property
    def are_many(self) -> bool:
        """Whether further pictures would make the page too large."""
        return self._bytes >= MAX_BYTES

    @property
    def are_too_many(self) -> bool:
        """Whether the last picture makes the page too large."""
        return self._bytes > MOST_BYTES

    def picture(self, figure: Figure, caption: str, behind: Table | None = None) -> Picture:
        """Return a figure as a picture; the caption is also the text for those who do not see it."""
        self._number += 1
        text = svg(figure, f"f{self._number}", caption)
        self._bytes += len(text)
        return Picture(text, caption, behind)


def render(page: Page) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("neurofm_shards_report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("report.html").render(page=page).lstrip()
