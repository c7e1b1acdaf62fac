"""Turns the series of a file into streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, cast, get_args

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats
from neurofm_shards.errors import SourceError
from neurofm_shards.streams import AnyStream, Continuity, IrregularStream, RegularStream
from neurofm_shards.types import Problem
from neurofm_shards_nwb.arrays import StoredArray
from neurofm_shards_nwb.circular import circular_range
from neurofm_shards_nwb.content import Series, small_columns
from neurofm_shards_nwb.events import event_stream, interval_series, looks_like_events
from neurofm_shards_nwb.modality import modality_of
from neurofm_shards_nwb.spooling import time_reader

_UNITS = {"volts": "V", "volt": "V", "v": "V", "radians": "rad", "radian": "rad", "degrees": "deg", "degree": "deg"}


@dataclass(frozen=True)
class Described:
    """A stream, where one could be made, and what was odd about it."""

    stream: AnyStream | None
    problems: tuple[Problem, ...] = ()


def describe_series(path: str, series: Series) -> Described:
    """Describe one series as a stream.

    Parameters
    ----------
    path : str
        The file, for messages.
    series : Series
        What the file says.

    Returns
    -------
    Described
        Without a stream for images and movies. A series that cannot be read gives a stream whose ``read`` raises, so
        that only those who want it are stopped.
    """
    modality = modality_of(series)
    if modality == "image":
        return Described(None, (_note(series, "holds images or movies", "left out: frames are not converted"),))
    trouble = series.broken or _trouble(series)
    if trouble:
        return Described(_broken_stream(path, series, modality, trouble), (_error(series, trouble),))
    if modality == "intervals":
        return Described(interval_series(series))
    text = series.data is not None and series.data.dtype.kind not in "fiub"
    if modality == "events" or text or looks_like_events(series, modality):
        return _events(series, text)
    return _values(series, modality)


def _events(series: Series, text: bool) -> Described:
    if series.timestamps is not None:
        stream = event_stream(series)
        if stream is not None:
            return Described(stream)
    if text:
        return Described(None, (_note(series, "text, references or other values that are not numbers", "left out"),))
    described = _values(series, "events", continuity="instantaneous")
    what = "events with values that are not codes"
    note = _note(series, what, "described as values at instants; taken only when its path is named")
    return Described(described.stream, (*described.problems, note))


def _trouble(series: Series) -> str:
    """Say why a series cannot be used; empty when it can."""
    if series.data is None or not series.data.shape:
        return f"{series.path} has no data: the file was not finished; leave its modality out"
    return _trouble_with_times(series) or _trouble_with_factors(series)


def _trouble_with_times(series: Series) -> str:
    where = series.path
    if series.timestamps is not None:
        return _trouble_with_stamps(series, series.timestamps)
    if "IntervalSeries" in series.types:
        return f"{where} is an IntervalSeries without time stamps: when its intervals begin and end is unknown"
    if series.rate is None:
        return f"{where} has neither time stamps nor a rate: its times are unknown; leave its modality out"
    if not _positive(series.rate):
        return f"{where} has a rate of {series.rate} Hz: its times are unknown; leave its modality out"
    return ""


def _trouble_with_stamps(series: Series, stamps: StoredArray) -> str:
    if len(stamps.shape) != 1 or stamps.dtype.kind not in "fiu":
        said = f"of shape {stamps.shape} and type {stamps.dtype.name}"
        return f"{series.path} has time stamps {said}, not one number each; mend the file or leave this modality out"
    if _time_axis(series) is None:
        shape = () if series.data is None else series.data.shape
        return (
            f"{series.path} has data of shape {shape} and {len(stamps)} time stamps: which value "
            "belongs to which time is unknown; mend the file or leave this modality out"
        )
    return ""


def _trouble_with_factors(series: Series) -> str:
    factors, channels = series.channel_conversion, _channel_count(_logical_shape(series))
    scale = np.append(series.conversion, 1.0 if factors is None else factors)
    if not (np.isfinite(series.offset) and np.isfinite(scale).all() and scale.all()):
        return (
            f"{series.path} has a conversion that is zero or not a number (conversion {series.conversion:g}, offset "
            f"{series.offset:g}): its physical values are unknown; mend the file or leave this modality out"
        )
    if factors is None or factors.size == channels:
        return ""
    return (
        f"{series.path} has {factors.size} factors in channel_conversion for {channels} channels: its values in "
        f"{series.unit or 'physical units'} are unknown; mend the file or leave this modality out"
    )


def _positive(rate: float | None) -> bool:
    return rate is not None and bool(np.isfinite(rate)) and rate > 0


def _time_axis(series: Series) -> int | None:
    """Return the axis of time: 0, or 1 for channels or ROIs stored (channel, time); None when neither fits."""
    shape = () if series.data is None else series.data.shape
    rows = len(series.region.rows) if series.region is not None else None
    transposable = len(shape) == 2 and bool({"RoiResponseSeries", "ElectricalSeries"} & set(series.types))
    if series.timestamps is not None:
        if shape[0] == len(series.timestamps):
            return 0
        return 1 if transposable and shape[1] == len(series.timestamps) else None
    if transposable and rows is not None and shape[0] == rows and shape[1] != rows:
        return 1
    return 0


def _logical_shape(series: Series) -> tuple[int, ...]:
    """Return the shape with time first."""
    shape = () if series.data is None else series.data.shape
    return shape[::-1] if _time_axis(series) == 1 else shape


def _channel_count(shape: tuple[int, ...]) -> int:
    return shape[1] if len(shape) > 1 else 1


def _values(series: Series, modality: str, continuity: Continuity | None = None) -> Described:
    assert series.data is not None  # noqa: S101  (for the type checker: _trouble has seen to it)
    axis = _time_axis(series) or 0
    shape = _logical_shape(series)
    channels, table, problems = _channels(series, shape)
    scale, scale_problems = _scale(series)
    circular = circular_range(series)
    problems += scale_problems + circular.problems
    if axis == 1:
        across = "ROI" if "RoiResponseSeries" in series.types else "channel"
        what = f"stored as ({across}, time) {series.data.shape}"
        problems += (_note(series, what, f"read as (time, {across}) {shape}"),)
    common: dict[str, Any] = {
        "path": series.path,
        "modality": modality,
        "kind_name": series.types[0],
        "description": series.description,
        "shape": shape,
        "dtype": series.data.dtype.str,
        "read": _reader(series.data, axis),
        "unit": _UNITS.get(series.unit.lower(), series.unit),
        "scale": scale,
        "offset": series.offset,
        "calibrated": _calibrated(series),
        "channels": channels,
        "table": table,
        "continuity": continuity or _continuity(series),
        "circular": circular.range,
    }
    if series.timestamps is not None:
        return Described(IrregularStream(**common, timestamps=_timestamps(series.timestamps)), problems)
    t0, rate = series.t0 or 0.0, series.rate
    return Described(RegularStream(**common, rate=float(rate or 0.0), t0=t0), problems)


def _reader(data: StoredArray, axis: int) -> Callable[[int, int], npt.NDArray[Any]]:
    if axis == 0:
        return time_reader(data)
    return lambda start, stop: np.ascontiguousarray(data.read(start, stop, axis=1).T)


def _timestamps(stored: StoredArray) -> Callable[[], Floats]:
    return lambda: stored.all().astype(np.float64)


def _continuity(series: Series) -> Continuity:
    for known in get_args(Continuity):
        if series.continuity == known:
            return cast("Continuity", known)
    kind = "" if series.data is None else series.data.dtype.kind
    return "step" if kind == "b" or (kind in "iu" and series.conversion == 1.0 and not series.unit) else "continuous"


def _calibrated(series: Series) -> bool:
    integers = series.data is not None and series.data.dtype.kind in "iu"
    return not integers or series.conversion != 1.0 or series.channel_conversion is not None


def _scale(series: Series) -> tuple[float | Floats, tuple[Problem, ...]]:
    """Return the factor from stored to physical values: one number, or one per channel."""
    problems: tuple[Problem, ...] = ()
    if not _calibrated(series) and series.unit:
        what = f"integers with conversion 1.0, said to be in {series.unit!r}"
        problems = (Problem(series.path, what, "uncalibrated: the numbers are taken as they are"),)
    if series.channel_conversion is None:
        return series.conversion, problems
    return series.conversion * series.channel_conversion.ravel(), problems


def _channels(
    series: Series, shape: tuple[int, ...]
) -> tuple[tuple[str, ...], list[dict[str, Any]], tuple[Problem, ...]]:
    """Return the ids and properties of the second axis, from the electrodes or ROIs the series refers to."""
    width = _channel_count(shape)
    if series.region is None:
        return _axes(series, shape), [], ()
    rows = series.region.rows.all().astype(np.int64)
    table = series.region.table
    outside = rows[(rows < 0) | (rows >= len(table))]
    if len(rows) != width or len(outside):
        what = f"{len(rows)} rows of {table.path} for {width} channels of data"
        what += f", among them row {outside[0]} of {len(table)}" if len(outside) else ""
        return (), [], (Problem(series.path, what, "channels are numbered instead of named"),)
    ids = table.row_ids
    names = small_columns(table)
    records = table.records(names)
    return tuple(ids[row] for row in rows), [{"id": ids[row], **records[row]} for row in rows], ()


def _axes(series: Series, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Name the columns of a spatial series, which the schema says are x, y and z."""
    named = "SpatialSeries" in series.types and len(shape) == 2 and shape[1] in (2, 3)
    return ("x", "y", "z")[: shape[1]] if named else ()


def _broken_stream(path: str, series: Series, modality: str, trouble: str) -> IrregularStream:
    def refuse(*_: int) -> NoReturn:
        raise SourceError(f"{path}: {trouble}")

    shape, dtype = ((0,), "<f8") if series.data is None else (series.data.shape, series.data.dtype.str)
    return IrregularStream(
        path=series.path,
        modality=modality,
        kind_name=series.types[0],
        description=series.description,
        shape=shape,
        dtype=dtype,
        read=refuse,
        timestamps=refuse,
        unit=series.unit,
    )


def _note(series: Series, what: str, consequence: str) -> Problem:
    return Problem(series.path, what, consequence, "info")


def _error(series: Series, trouble: str) -> Problem:
    return Problem(series.path, trouble, "an error as soon as it is asked for", "error")
