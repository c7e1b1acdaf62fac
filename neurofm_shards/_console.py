"""A console on which names from files do what names do: they are shown, and steer nothing."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from neurofm_shards.errors import visible


class SafeConsole(Console):
    """A console that shows control characters instead of sending them to the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text ready for printing; everything that is printed as a text comes by here."""
        return super().render_str(visible(text), **options)
