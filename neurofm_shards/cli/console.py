"""The console: results go to stdout, everything else to stderr."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from neurofm_shards._wording import counted
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
    """Print a sentence behind its severity, with the flags of the command line."""
    print_block(console, "", [(severity, text)])


def print_block(console: Console, about: str, said: Iterable[tuple[str, str]]) -> None:
    """Print sentences, each behind its severity, below what they are about.

    On a terminal they are in colour and broken at words, elsewhere each is one line.
    """
    from rich.text import Text  # noqa: PLC0415  (after --help)

    from neurofm_shards.cli.options import in_flags  # noqa: PLC0415  (after --help)

    block = Text(visible(about), style="bold")
    for severity, text in said:
        label = f"{severity}: " if severity != "info" else ""
        lines = _wrapped(label + visible(in_flags(text)), console.width if console.is_terminal else 0, bool(about))
        block.append("\n" * bool(block) + lines, style="not bold")
        start = len(block) - len(lines) + 2 * bool(about)
        block.stylize(COLOURS[severity], start, start + len(label))
    console.print(block, soft_wrap=True)


def _wrapped(text: str, width: int, indent: bool) -> str:
    """Break a text between words; its lines stay apart, later ones are indented further."""
    first = "  " * indent
    if not width:
        return "\n".join(first + line for line in text.split("\n"))
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    lines: list[str] = []
    for line in text.split("\n"):
        wrapper.initial_indent = first + " " * (len(line) - len(line.lstrip()))
        wrapper.subsequent_indent = wrapper.initial_indent + "  "
        lines += wrapper.wrap(line.strip()) or [""]
    return "\n".join(lines)


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

    from neurofm_shards.cli.options import in_flags  # noqa: PLC0415  (after --help)

    console = result_console()
    for finding in report.findings:
        colour = COLOURS.get(finding.severity, "white")
        where = " ".join(filter(None, (finding.where, finding.key)))
        what = escape(in_flags(finding.what))
        console.print(f"[{colour}]{finding.severity}[/{colour}] {escape(where or report.folder)}: {what}")
        console.print(f"  -> {in_flags(finding.consequence)}", markup=False)
    size = (
        f"{counted(report.num_samples, 'sample')} in {counted(report.num_shards, 'shard')}, {report.num_bytes:,} bytes"
    )
    console.print(f"{report.folder}: {size}: {verdict}", markup=False)
