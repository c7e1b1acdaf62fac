"""Reports and pictures of data sets and recordings."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurofm_shards_report.pictures import plot_sample, register_picture
    from neurofm_shards_report.reports import report

_HOMES = {"plot_sample": "pictures", "register_picture": "pictures", "report": "reports"}

__all__ = ["plot_sample", "register_picture", "report"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module, so that listing plugins imports no matplotlib."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
