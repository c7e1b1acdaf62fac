"""Events and labelled intervals that NWB files store as time series."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.streams import EventStream, IntervalStream
from neurofm_shards_nwb.arrays import StoredArray, text
from neurofm_shards_nwb.content import Series

#: Time stamps looked at to tell events from samples.
_LOOK_AT = 10_000
#: More different values than this are measurements, not codes.
_MOST_CODES = 256
#: Longer series are sampled signals, and their values are not searched for codes.
_MOST_EVENTS = 5_000_000


def looks_like_events(series: Series, modality: str) -> bool:
    """Say whether a plain TimeSeries that counts as behaviour is a list of events rather than a signal.

    Everything in BehavioralEvents is. Elsewhere time stamps and values say so: a signal has a common interval (nine of
    ten intervals lie within a fifth of the median). Of what has none, constant values are events (licks, rewards),
    wherever they lie; changing values are too where they lie in acquisition and fewer than half of the intervals are
    within a factor of two of the median (a wheel that is sampled on movement, in a behaviour module, stays a signal). A
    series without two usable time stamps is no signal either.
    """
    if modality != "behavior" or series.timestamps is None or series.data is None or series.types[0] != "TimeSeries":
        return False
    if any(kind == "BehavioralEvents" for _, kind in series.containers):
        return True
    look = min(len(series.timestamps), _LOOK_AT)
    times = series.timestamps.read(0, look).astype(np.float64)
    steps = np.diff(times[np.isfinite(times)])
    if steps.size < 2:
        return True
    median = float(np.median(steps))
    if np.mean(np.abs(steps - median) <= abs(median) / 5) >= 0.9:
        return False
    values = series.data.read(0, look)
    if np.all(values == values[:1]):
        return True
    scattered = np.mean((steps > median / 2) & (steps < median * 2)) < 0.5
    return bool(scattered) and series.path.startswith("acquisition/")


def event_stream(series: Series) -> EventStream | None:
    """Describe a series as events: annotations by text, codes by value, constant values by the series' name.

    Events of one kind (licks, rewards) and those in BehavioralEvents are behaviour; codes and annotations are events.

    Returns
    -------
    EventStream or None
        None when the values are measurements rather than codes.
    """
    assert series.data is not None  # noqa: S101  (the caller has looked)
    assert series.timestamps is not None  # noqa: S101  (the caller has looked)
    if len(series.data.shape) != 1 or len(series.data) > _MOST_EVENTS:
        return None
    codes = _codes(series.data)
    if codes is None:
        return None
    owners, owner = codes
    is_behavior = any(kind == "BehavioralEvents" for _, kind in series.containers)
    if len(owners) <= 1 and series.data.dtype.kind in "fiub":
        owners, is_behavior = (series.path.rpartition("/")[2],), True
    return EventStream(
        path=series.path,
        modality="behavior" if is_behavior else "events",
        kind_name=series.types[0],
        description=series.description,
        read=_reader(series.timestamps, owner),
        owners=owners,
    )


def _reader(timestamps: StoredArray, owner: Ints) -> Callable[[], tuple[Floats, Ints]]:
    return lambda: (timestamps.all().astype(np.float64), owner)


def _codes(data: StoredArray) -> tuple[tuple[str, ...], Ints] | None:
    """Return the different values as text and each event's number among them; None for measurements."""
    values = data.all()
    if values.dtype.kind in "fiub":
        whole = values.dtype.kind != "f" or bool(np.all(values == np.rint(values)))
        different, owner = np.unique(values, return_inverse=True)
        if not whole or (len(different) > _MOST_CODES):
            return None
        return tuple(str(value) for value in different.astype(np.int64).tolist()), _as_int64(owner)
    different, owner = np.unique([text(value) for value in values], return_inverse=True)
    return tuple(str(value) for value in different), _as_int64(owner)


def _as_int64(owner: npt.NDArray[np.intp]) -> Ints:
    return owner.astype(np.int64).ravel()


def interval_series(series: Series) -> IntervalStream:
    """Turn an IntervalSeries (``k`` starts an interval of type k, ``-k`` ends it) into intervals."""
    assert series.data is not None  # noqa: S101  (the caller has looked)
    assert series.timestamps is not None  # noqa: S101  (the caller has looked)
    marks, times = series.data.all().astype(np.int64), series.timestamps.all().astype(np.float64)
    starts: list[float] = []
    stops: list[float] = []
    kinds: list[int] = []
    open_rows: dict[int, int] = {}
    for mark, time in zip(marks.tolist(), times.tolist(), strict=True):
        if mark > 0:
            open_rows[mark] = len(starts)
            starts.append(time)
            stops.append(np.nan)
            kinds.append(mark)
        elif -mark in open_rows:
            stops[open_rows.pop(-mark)] = time
    return IntervalStream(
        path=series.path,
        modality="intervals",
        kind_name=series.types[0],
        description=series.description,
        start=np.array(starts, dtype=np.float64),
        stop=np.array(stops, dtype=np.float64),
        columns={"type": kinds},
    )
