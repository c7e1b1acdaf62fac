"""Results go to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def result_console() -> Console:
    """Return a console for results; wide when piped, so that tables are not cut."""
    from rich.console import Console  # noqa: PLC0415  (after --help)

    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def note_console() -> Console:
    """Return a console for progress and notes."""
    from rich.console import Console  # noqa: PLC0415  (after --help)

    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON document, indented and with sorted keys where the order says nothing."""
    import orjson  # noqa: PLC0415  (after --help)

    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
    sys.stdout.write(text.decode())
