"""Turns the series of a file into streams: their modality, axes, scale and clock."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats
from neurofm_shards._wording import counted
from neurofm_shards.errors import SourceError
from neurofm_shards.streams import AnyStream, Continuity, IrregularStream, RegularStream
from neurofm_shards.types import Problem
from neurofm_shards_nwb.content import Series, StoredArray, small_columns
from neurofm_shards_nwb.events import event_stream, interval_series, looks_like_events
from neurofm_shards_nwb.hdf5_file import time_reader

#: Above this rate an electrical series is wide-band, wherever it lies: LFP is stored at 0.5 to 2.5 kHz.
WIDE_BAND_HZ = 5000.0
BEHAVIOR_CONTAINERS = (
    "Position",
    "CompassDirection",
    "EyeTracking",
    "PupilTracking",
    "BehavioralTimeSeries",
    "BehavioralEvents",
)
_BEHAVIOR_MODULE = re.compile(r"behaviou?r", re.IGNORECASE)


#: Neurodata type to modality; the first that a series is decides.
_BY_TYPE = (
    ("ImageSeries", "image"),
    ("IndexSeries", "image"),
    ("PatchClampSeries", "raw"),
    ("SpikeEventSeries", "raw"),
    ("RoiResponseSeries", "ophys"),
    ("IntervalSeries", "intervals"),
    ("AnnotationSeries", "events"),
)


def modality_of(series: Series) -> str:
    """Return the modality of a series, ``"image"`` for what is not converted, ``"other"`` for what is unknown."""
    if series.external:
        return "image"
    for kind, modality in _BY_TYPE:
        if kind in series.types:
            return modality
    if "ElectricalSeries" in series.types:
        return "lfp" if is_lfp(series) else "raw"
    return _general(series)


#: What is computed from the fluorescence of regions, or is no signal of theirs, by the name that programs give it.
_COMPANIONS = "[Nn]europil|[Dd]econv\\w*|[Bb]ackground"


def imaging_rank(series: Series) -> int:
    """Return 0 for dF/F, 1 for fluorescence, 2 for what accompanies it: the first that is there is what is meant."""
    names = [series.path.rpartition("/")[2], *(name for name, _ in series.containers)]
    if any(_says(name, _COMPANIONS) for name in names):
        return 2
    return 0 if _within(series, ("DfOverF",)) else 1


def is_lfp(series: Series) -> bool:
    """Return whether an electrical series is a local field potential; wide-band data are not, whatever their container.

    A series within LFP, or in FilteredEphys or anywhere else without ``AP`` in its name, counts when its rate is at
    most 5 kHz. Without a rate (time stamps only) the container or the name has to say so.
    """
    name = series.path.rpartition("/")[2]
    if series.rate is not None and series.rate > WIDE_BAND_HZ:
        return False
    if _within(series, ("LFP",)) or _says(name, "LFP?|lfp"):
        return True
    if _says(name, "AP|raw|Raw|spikes?|muae?"):
        return False
    return series.rate is not None or _within(series, ("FilteredEphys",))


def _general(series: Series) -> str:
    place = series.path.partition("/")[0]
    if place == "stimulus":
        return "stimulus"
    if "SpatialSeries" in series.types or _within(series, BEHAVIOR_CONTAINERS):
        return "behavior"
    if series.rate is not None and series.rate > WIDE_BAND_HZ:
        return "raw"
    if series.types[0] != "TimeSeries":
        return "other"
    in_module = any(_BEHAVIOR_MODULE.search(name) for name, _ in series.containers)
    return "behavior" if in_module or place == "acquisition" else "other"


def _within(series: Series, kinds: tuple[str, ...]) -> bool:
    return any(kind in kinds for _, kind in series.containers)


def _says(name: str, words: str) -> bool:
    """Return whether a name contains a word, as its own or in camel case (``ElectricalSeriesAP``, ``probe_lfp``)."""
    return re.search(rf"(?:^|[^A-Za-z]|(?<=[a-z]))(?:{words})(?![a-z])", name) is not None


_RADIANS = re.compile(r"^rad(ian)?s?$", re.IGNORECASE)
_DEGREES = re.compile(r"^(deg(ree)?s?|°)$", re.IGNORECASE)
_NAMES = re.compile(r"head.?dir|heading|orientation|compass|azimuth|yaw|phase", re.IGNORECASE)
#: Values looked at to tell [0, 2 pi) from [-pi, pi).
_LOOK_AT = 1_000_000


@dataclass(frozen=True)
class Circle:
    """The range of a circular variable, or None."""

    range: tuple[float, float] | None
    problems: tuple[Problem, ...] = ()


def circular_range(series: Series) -> Circle:
    """Decide whether a series is circular.

    A spatial series is when it lies in CompassDirection, or is named like an angle, and its unit is radians or degrees
    (an angle without a unit is judged by its values). The range starts at 0, or at minus half a turn where there are
    values below 0; values beyond one turn are an unwrapped angle, which is not circular.
    """
    compass = any(kind == "CompassDirection" for _, kind in series.containers)
    named = "SpatialSeries" in series.types and _NAMES.search(series.path.rpartition("/")[2]) is not None
    if series.data is None or not (compass or named) or series.data.dtype.kind not in "fiu":
        return Circle(None)
    low, high = _extremes(series)
    turn = _turn(series.unit, high - low) if compass or _has_angle_unit(series.unit) else None
    if turn is None:
        return Circle(None)
    start = 0.0 if low >= 0 else -turn / 2
    if high > start + turn * 1.001 or low < start - turn * 0.001:
        what = f"an angle from {low:.4g} to {high:.4g}, more than a turn of {turn:.4g}"
        return Circle(None, (Problem(series.path, what, "taken as unwrapped: interpolated as it is", "info"),))
    return Circle((start, start + turn))


def _has_angle_unit(unit: str) -> bool:
    return bool(_RADIANS.match(unit) or _DEGREES.match(unit))


def _turn(unit: str, extent: float) -> float | None:
    if _RADIANS.match(unit):
        return math.tau
    if _DEGREES.match(unit):
        return 360.0
    if unit and unit.lower() not in ("unknown", "n/a", "a.u.", "na"):
        return None
    return math.tau if extent <= math.tau * 1.001 else 360.0


def _extremes(series: Series) -> tuple[float, float]:
    """Return the smallest and largest finite value of the beginning of a series, in physical units."""
    assert series.data is not None  # noqa: S101  (the caller has looked)
    values = series.data.read(0, min(len(series.data), _LOOK_AT)).astype(np.float64) * series.conversion + series.offset
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


_UNITS = {"volts": "V", "volt": "V", "v": "V", "radians": "rad", "radian": "rad", "degrees": "deg", "degree": "deg"}


#: Data with a rate that is so many times as wide as long, and so short, lie (feature, time).
_WIDE = 10
_MOST_FEATURES = 256
#: Nor has any sample so many features; and a series of so few samples has no more than four times as many.
_TOO_MANY_FEATURES = 2000
_FEW_SAMPLES, _FEW_FEATURES = 3, 4
#: A place has x, y and z, by the schema.
_MOST_AXES = 3
_SAME_RATE = 0.01
Read: TypeAlias = Callable[[int, int], npt.NDArray[Any]]


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
    try:
        found = _described(series, modality)
    except SourceError as error:
        trouble = str(error).removeprefix(f"{path}: ")
        return Described(_broken_stream(path, series, modality, trouble), (_error(series, trouble),))
    return replace(found, problems=(*found.problems, *series.conversions))


def _described(series: Series, modality: str) -> Described:
    if trouble := series.broken or _trouble(series):
        raise SourceError(trouble)
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
        return Described(None, (_note(series, f"holds {_kind_of(series)}", "left out"),))
    described = _values(series, "events", continuity="instantaneous")
    what = "events with values that are not codes"
    note = _note(series, what, "described as values at instants; taken only when its path is named")
    return Described(described.stream, (*described.problems, note))


def _kind_of(series: Series) -> str:
    """Return what values that are no real numbers are, and what to do to have them converted."""
    compound = None if series.data is None else series.data.dtype.fields
    if series.data is not None and (series.data.dtype.kind == "c" or {"r", "i"} == set(compound or ())):
        return "complex numbers: save their real and imaginary parts, or their magnitude"
    return "text, references or other values that are not numbers"


def _trouble(series: Series) -> str:
    """Return why a series cannot be used; empty when it can."""
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
    if trouble := series.trouble_with_stamps():
        return trouble
    if _time_axis(series) is None:
        shape = () if series.data is None else series.data.shape
        return (
            f"{series.path} has data of shape {shape} and {counted(len(stamps), 'time stamp')}: which value "
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
        f"{series.path} has {counted(factors.size, 'factor')} in channel_conversion for "
        f"{counted(channels, 'channel')}: its values in "
        f"{series.unit or 'physical units'} are unknown; mend the file or leave this modality out"
    )


def _positive(rate: float | None) -> bool:
    return rate is not None and bool(np.isfinite(rate)) and rate > 0


def _time_axis(series: Series) -> int | None:
    """Return the axis of time: 0, or 1 for channels, ROIs or features stored before it; None when neither fits."""
    shape = () if series.data is None else series.data.shape
    rows = len(series.region.rows) if series.region is not None else None
    rows = rows if rows in shape else None  # a table of something else
    if series.timestamps is not None:
        if shape[0] == len(series.timestamps):
            return 0
        return 1 if len(shape) == 2 and shape[1] == len(series.timestamps) else None
    transposable = len(shape) == 2 and bool({"RoiResponseSeries", "ElectricalSeries"} & set(series.types))
    if transposable and rows is not None and shape[0] == rows and shape[1] != rows:
        return 1
    if len(shape) != 2 or rows is not None or shape[0] == 0:
        return 0
    if "SpatialSeries" in series.types and shape[0] <= _MOST_AXES < shape[1]:
        return 1
    many = _MOST_FEATURES if shape[1] <= _TOO_MANY_FEATURES else shape[0]
    wide = _FEW_FEATURES if shape[0] <= _FEW_SAMPLES else _WIDE
    flat = shape[0] <= many and shape[1] >= wide * shape[0] and max(shape) > _MOST_AXES
    return 1 if flat and (_has_features(series) or "ElectricalSeries" in series.types) else 0


def _has_features(series: Series) -> bool:
    return series.types[0] == "TimeSeries" or "SpatialSeries" in series.types


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
    plane = series.region.table.plane if series.region is not None and table else {}
    scale, scale_problems = _scale(series)
    circular = circular_range(series)
    problems += scale_problems + circular.problems
    read, dtype = _reader(series.data, axis), series.data.dtype.str
    offset: float | Floats = series.offset
    sure = _sureness(series, shape)
    if sure is None and series.confidence is not None:
        what = f"confidence of shape {series.confidence.shape} for data of shape {shape}"
        problems += (Problem(series.path, what, "left out: which value it belongs to is unknown"),)
    if sure is not None:
        read, shape, channels, scale, dtype = _with_confidence(read, sure, shape, channels, scale)
        offset = np.append(np.full(shape[1] - 1, series.offset), 0.0)
    if axis == 1:
        across = "ROI" if "RoiResponseSeries" in series.types else "channel"
        across = "feature" if _has_features(series) else across
        what = f"stored as ({across}, time) {series.data.shape}"
        found = Problem(series.path, what, f"read as (time, {across}) {shape}")
        problems += (replace(found, severity="info") if across == "ROI" else found,)  # ROIs have a table that says it
    common: dict[str, Any] = {
        "path": series.path,
        "modality": modality,
        "kind_name": series.types[0],
        "description": series.description,
        "shape": shape,
        "dtype": dtype,
        "read": read,
        "unit": _UNITS.get(series.unit.lower(), series.unit),
        "scale": scale,
        "offset": offset,
        "confidence": "" if sure is None else "confidence",
        "calibrated": _calibrated(series),
        "channels": channels,
        "table": [{**row, **_of_plane(plane)} for row in table],
        "tables": {"planes": [{"id": plane["name"], **plane}]} if plane else {},
        "continuity": continuity or _continuity(series),
        "circular": circular.range,
    }
    if series.timestamps is not None:
        return Described(IrregularStream(**common, timestamps=series.seconds), problems + _two_clocks(series))
    t0, rate = (series.t0 or 0.0) * series.time_factor, series.rate
    return Described(RegularStream(**common, rate=float(rate or 0.0), t0=t0), problems)


def _two_clocks(series: Series) -> tuple[Problem, ...]:
    """Report a rate beside time stamps that says something else."""
    stamps = series.timestamps
    if stamps is None or not _positive(series.rate) or len(stamps) < 2 or stamps.hole:
        return ()
    first, last = (float(stamps.read(at, at + 1)[0]) * series.time_factor for at in (0, len(stamps) - 1))
    rate = (len(stamps) - 1) / (last - first) if last > first else float("nan")
    if abs(rate / (series.rate or 1.0) - 1) <= _SAME_RATE:
        return ()
    what = f"a rate of {series.rate:g} Hz, and time stamps at {rate:.6g} Hz"
    return (Problem(series.path, what, "the time stamps are taken"),)


def _reader(data: StoredArray, axis: int) -> Callable[[int, int], npt.NDArray[Any]]:
    if axis == 0:
        return time_reader(data)
    return lambda start, stop: np.ascontiguousarray(data.read(start, stop, axis=1).T)


def _sureness(series: Series, shape: tuple[int, ...]) -> StoredArray | None:
    """Return the confidence of each sample, where there is one for each."""
    sure = series.confidence
    return sure if sure is not None and sure.shape in {shape[:1], (*shape[:1], 1)} and len(shape) <= 2 else None


def _with_confidence(
    read: Read, sure: StoredArray, shape: tuple[int, ...], channels: tuple[str, ...], scale: float | Floats
) -> tuple[Read, tuple[int, ...], tuple[str, ...], Floats, str]:
    """Return what describes a series with its confidence as the last channel."""
    width = _channel_count(shape)
    names = channels or tuple(str(i) for i in range(width))

    def both(start: int, stop: int) -> npt.NDArray[Any]:
        values = np.asarray(read(start, stop), dtype=np.float64).reshape(stop - start, width)
        return np.concatenate([values, sure.read(start, stop).astype(np.float64).reshape(-1, 1)], axis=1)

    factors = np.append(np.broadcast_to(np.asarray(scale, dtype=np.float64), width), 1.0)
    return both, (shape[0], width + 1), (*names, "confidence"), factors, "<f8"


def _continuity(series: Series) -> Continuity:
    for known in get_args(Continuity):
        if series.continuity == known:
            return cast("Continuity", known)
    is_bool = series.data is not None and series.data.dtype.kind == "b"
    return "step" if is_bool or not _calibrated(series) else "continuous"


def _calibrated(series: Series) -> bool:
    integers = series.data is not None and series.data.dtype.kind in "iu"
    scaled = series.conversion != 1.0 or series.offset != 0.0 or series.channel_conversion is not None
    return not integers or scaled


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
        what = f"{counted(len(rows), 'row')} of {table.path} for {counted(width, 'channel')} of data"
        what += f", among them row {outside[0]} of {len(table)}" if len(outside) else ""
        return (), [], (Problem(series.path, what, "channels are numbered instead of named"),)
    ids = table.row_ids
    columns, problems = table.readable(small_columns(table))
    records = table.records(columns)
    return tuple(ids[row] for row in rows), [{"id": ids[row], **records[row]} for row in rows], tuple(problems)


def _of_plane(plane: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of an imaging plane as columns of its regions."""
    return {f"plane_{name}": value for name, value in plane.items()}


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
