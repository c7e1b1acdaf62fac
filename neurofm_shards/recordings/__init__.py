"""From continuous sessions to samples: streams, windows, bins, resampling, masks, splits."""

from neurofm_shards.recordings.streams import (
    AnyStream,
    EventStream,
    IntervalStream,
    IrregularStream,
    Recording,
    RegularStream,
    Stream,
)

__all__ = ["AnyStream", "EventStream", "IntervalStream", "IrregularStream", "Recording", "RegularStream", "Stream"]
