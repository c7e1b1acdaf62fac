"""Columns of a modality that a session lacks: empty and masked, so that sessions with and without it go together."""

from __future__ import annotations

import numpy as np

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.recordings.modality import Frame, WindowedModality
from neurofm_shards.recordings.options import SeriesOptions, WindowOptions
from neurofm_shards.recordings.ticks import TICKS_PER_SECOND
from neurofm_shards.types import ColumnData, ColumnSpec, Ragged


class Absent(WindowedModality):
    """The columns that a modality would have, with no units, channels or features; masks are False throughout."""

    def __init__(self, name: str, options: WindowOptions, frame: Frame) -> None:
        self.name = name
        self.columns = _columns(name, options, frame)

    def read(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:  # noqa: ARG002  (nothing to cut short)
        """Return empty columns."""
        return {spec.name: nothing(spec, len(starts)) for spec in self.columns}

    def valid_fraction(self, starts: Ints) -> Floats:
        """Return 1: what a session lacks as a whole drops none of its windows."""
        return np.ones(len(starts))


def _columns(name: str, options: WindowOptions, frame: Frame) -> tuple[ColumnSpec, ...]:
    if name == "spikes":
        counts = ColumnSpec("spikes", np.dtype(options.counts_type).str, (frame.bins, 0), "count")
        times = ColumnSpec("spike_times", "<f4", (None,), "s")
        units = ColumnSpec("spike_units", "<i4", (None,), None, "units")
        chosen = {"counts": (counts,), "events": (times, units), "both": (counts, times, units)}[options.spikes]
        return (*chosen, ColumnSpec("unit_ids", "<i4", (0,), None, "units"))
    if name == "events":
        counts = ColumnSpec("events", np.dtype(options.counts_type).str, (frame.bins, 0), "count")
        return (counts, ColumnSpec("event_codes", "<i4", (0,), None, "codes"))
    if name == "behavior":
        values, mask = (
            ColumnSpec("behavior", "<f4", (frame.bins, 0)),
            ColumnSpec("behavior_valid", "|b1", (frame.bins, 0)),
        )
        return (values, mask, ColumnSpec("behavior_features", "<i4", (0,), None, "features"))
    series: SeriesOptions = options.lfp if name == "lfp" else options.ophys
    samples = frame.bins if series.rate is None else round(series.rate * frame.window_ticks / TICKS_PER_SECOND)
    table = "channels" if name == "lfp" else "rois"
    return (
        ColumnSpec(name, "<f4", (samples, 0)),
        ColumnSpec(f"{name}_valid", "|b1", (samples,)),
        ColumnSpec(f"{name}_channels", "<i4", (0,), None, table),
    )


def nothing(spec: ColumnSpec, windows: int) -> ColumnData:
    """Return an empty column of so many windows."""
    shape, dtype = spec.shape or (), np.dtype(spec.dtype or "<f4")
    if None in shape:
        return Ragged(np.zeros(0, dtype=dtype), np.zeros(windows + 1, dtype=np.int64))
    return np.zeros((windows, *(size or 0 for size in shape)), dtype=dtype)
