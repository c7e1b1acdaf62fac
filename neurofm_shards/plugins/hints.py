"""What to install for a name that nothing provides: the only place where the core names its own plugins."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_OURS = {
    "source": {"nwb": "nwb", "npz": "npz", "arrays": "arrays"},
    "compression": {"zstd": "compression", "lz4": "compression"},
    "transform": dict.fromkeys(
        ("zscore", "cast", "select", "rename", "crop", "clip", "smooth", "sqrt", "channel-mask"), "transforms"
    ),
}


def install_hint(kind: str, name: str) -> str:
    """Return the ``pip install`` line for one of our own plugins, or an empty string."""
    extra = _OURS.get(kind, {}).get(name)
    return f"pip install 'neurofm-shards[{extra}]'" if extra else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that nothing is registered under ``name``, what comes close, what there is and what to install."""
    known = sorted(known)
    message = f"no {kind} named {name!r} is installed"
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        message += f"; did you mean {close[0]!r}?"
    hint = install_hint(kind, name)
    if hint:
        message += f"; install it with: {hint}"
    return f"{message} (installed: {', '.join(known) or 'none'})"
