"""Changes pages of the site on their way: mkdocs calls it, see ``mkdocs.yml``."""

from __future__ import annotations

import re


def on_page_content(html: str, **_: object) -> str:
    """Show the cross-references of docstrings as the names they refer to."""
    return re.sub(r":(?:mod|class|func|meth|attr):(<code[^>]*>)~?", r"\1", html)
