"""Finds the fenced blocks of a Markdown file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[\w-]+) -->\n)?```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Fence:
    """One fenced block: its language, its code, the line it starts at, and the name in the comment before it."""

    language: str
    code: str
    line: int
    mark: str


def fences(path: Path) -> list[Fence]:
    """Return the blocks of a document in order."""
    text = path.read_text()
    return [
        Fence(m["language"], m["code"], text.count("\n", 0, m.start("code")) + 1, m["mark"] or "")
        for m in _FENCE.finditer(text)
    ]
