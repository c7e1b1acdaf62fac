"""The console: results go to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from neurofm_shards.errors import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from neurofm_shards.maintenance.validate import Report

#: Colour of each severity.
COLOURS = {"info": "cyan", "warning": "yellow", "error": "red"}


def result_console() -> Console:
    """Return a console for results; wide when piped, so that tables are not cut."""
    from neurofm_shards._console import SafeConsole  # noqa: PLC0415  (after --help)

    return SafeConsole(width=None if sys.stdout.isatty() else 160, highlight=False)


def note_console() -> Console:
    """Return a console for progress and notes."""
    from neurofm_shards._console import SafeConsole  # noqa: PLC0415  (after --help)

    return SafeConsole(stderr=True, highlight=False, soft_wrap=True)


def print_note(console: Console, text: str, severity: str = "info") -> None:
    """Print a sentence, behind its severity: on a terminal in colour and broken at words, elsewhere in one line."""
    from rich.text import Text  # noqa: PLC0415  (after --help)

    label = Text(f"{severity}: ", COLOURS[severity]) if severity != "info" else Text()
    console.print(label + Text(visible(text)), soft_wrap=not console.is_terminal)


def borderless_table(*heads: str, wrap: Sequence[str] = ()) -> Table:
    """Return a table without borders; only the columns named in ``wrap`` break their lines, at words."""
    from rich.table import Table  # noqa: PLC0415  (after --help)

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in heads:
        table.add_column(head, no_wrap=head not in wrap, overflow="fold")
    return table


def has_blocks(console: Console) -> bool:
    """Return whether the console's encoding has block characters."""
    try:
        "█·▁▇".encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def print_json(value: Any) -> None:
    """Print one JSON document, indented and with sorted keys where the order says nothing."""
    import orjson  # noqa: PLC0415  (after --help)

    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
    sys.stdout.write(visible(text.decode()))


def print_report(report: Report, verdict: str) -> None:
    """Print each finding, then one line that sums up."""
    from rich.markup import escape  # noqa: PLC0415  (after --help)

    console = result_console()
    for finding in report.findings:
        colour = COLOURS.get(finding.severity, "white")
        where = " ".join(filter(None, (finding.where, finding.key)))
        console.print(
            f"[{colour}]{finding.severity}[/{colour}] {escape(where or report.folder)}: {escape(finding.what)}"
        )
        console.print(f"  -> {finding.consequence}", markup=False)
    size = f"{report.num_samples:,} samples in {report.num_shards:,} shards, {report.num_bytes:,} bytes"
    console.print(f"{report.folder}: {size}: {verdict}", markup=False)
