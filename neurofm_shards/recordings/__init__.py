"""From continuous sessions to samples: streams, windows, bins, resampling, masks, splits.

Names are imported when they are first used: options are needed by the command line, which imports no numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurofm_shards.recordings.memory import InMemoryRecording
    from neurofm_shards.recordings.options import BehaviorOptions, SeriesOptions, SplitOptions, WindowOptions
    from neurofm_shards.recordings.windowing import windowed
    from neurofm_shards.streams import (
        AnyStream,
        EventStream,
        IntervalStream,
        IrregularStream,
        Recording,
        RegularStream,
        Stream,
    )

_HOMES = {
    "AnyStream": "neurofm_shards.streams",
    "BehaviorOptions": "neurofm_shards.recordings.options",
    "EventStream": "neurofm_shards.streams",
    "InMemoryRecording": "neurofm_shards.recordings.memory",
    "IntervalStream": "neurofm_shards.streams",
    "IrregularStream": "neurofm_shards.streams",
    "Recording": "neurofm_shards.streams",
    "RegularStream": "neurofm_shards.streams",
    "SeriesOptions": "neurofm_shards.recordings.options",
    "SplitOptions": "neurofm_shards.recordings.options",
    "Stream": "neurofm_shards.streams",
    "WindowOptions": "neurofm_shards.recordings.options",
    "windowed": "neurofm_shards.recordings.windowing",
}

__all__ = [
    "AnyStream",
    "BehaviorOptions",
    "EventStream",
    "InMemoryRecording",
    "IntervalStream",
    "IrregularStream",
    "Recording",
    "RegularStream",
    "SeriesOptions",
    "SplitOptions",
    "Stream",
    "WindowOptions",
    "windowed",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
