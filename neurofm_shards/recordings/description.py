"""A recording as JSON values, and back: its description and that of its streams, without the streams' arrays.

What windows are planned from is in here (extents, clocks, units with their counts and observed times, interval tables),
so that a recording that was stored is opened by reading one small text. Numbers come back as they were, not-a-number
and infinity included.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import FormatError, SourceError
from neurofm_shards.recordings.series import check_series
from neurofm_shards.recordings.stamps import in_seconds
from neurofm_shards.recordings.timeline import NAMED_EXTENTS, Timeline, timeline
from neurofm_shards.recordings.trains import counted, observed_spans, sorted_events
from neurofm_shards.streams import (
    AnyStream,
    EventCounts,
    EventStream,
    IntervalStream,
    IrregularStream,
    Recording,
    RegularStream,
    SortedEvents,
)
from neurofm_shards.types import Problem
from neurofm_shards.values import to_json

#: Raised when what is written here changes so that older code cannot read it.
VERSION = 1
#: Kinds of numbers that are stored; texts and objects are described only.
STORED_KINDS = "biufc"
#: Names of fields leave room for the key and the codec in a tar header.
_LONGEST_FIELD = 40


class StoredArrays(Protocol):
    """Where the arrays of a stored recording are to be had, by field."""

    def whole(self, field: str) -> npt.NDArray[Any]:
        """Return a whole array; memory that is mapped where it can be."""

    def rows(self, field: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Return some rows of an array."""


def floats_to_json(values: Floats | float) -> Any:
    """Return numbers as JSON holds them: not-a-number is None, infinity a text; all others keep every bit."""
    array = np.asarray(values, dtype=np.float64)
    return array.tolist() if np.isfinite(array).all() else _spelled(array.tolist())


def _spelled(value: Any) -> Any:
    if isinstance(value, list):
        return [_spelled(item) for item in value]
    if value != value:  # noqa: PLR0124  (NaN)
        return None
    return value if abs(value) != np.inf else ("inf" if value > 0 else "-inf")


def floats_from_json(values: Any) -> Floats:
    """Return the array that :func:`floats_to_json` was given."""
    return np.asarray(values, dtype=np.float64)


def _float(value: Any) -> float:
    return float(floats_from_json(value))


def field_names(paths: Sequence[str]) -> list[str]:
    """Return a field name for the stream of each path: as much of its end as distinguishes it.

    >>> field_names(["a/units", "b/units", "processing/licks"])
    ['a_units', 'b_units', 'licks']
    """
    parts = [[_slug(part) for part in path.split("/") if part] or ["stream"] for path in paths]
    lengths = [1] * len(parts)
    while True:
        names = ["_".join(part[-n:]) for part, n in zip(parts, lengths, strict=True)]
        repeated = {name for name, count in Counter(names).items() if count > 1}
        longer = [i for i, name in enumerate(names) if name in repeated and lengths[i] < len(parts[i])]
        if not longer:
            break
        for i in longer:
            lengths[i] += 1
    return [_unique(name, path, name in repeated) for name, path in zip(names, paths, strict=True)]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "_", text.lower()).strip("_-") or "x"


def _unique(name: str, path: str, repeated: bool) -> str:
    if not repeated and len(name) <= _LONGEST_FIELD:
        return name
    return f"{name[: _LONGEST_FIELD - 9]}_{xxhash.xxh3_64_hexdigest(path.encode())[:8]}"


def described_events(stream: EventStream, field: str, when: Timeline) -> tuple[dict[str, Any], SortedEvents]:
    """Return the description of events, and the events in time order."""
    events = stream.in_order() if stream.in_order is not None else sorted_events(stream)
    spans = observed_spans(stream, when)
    said = None if stream.observed is None else stream.observed()
    known = counted(events, when, len(stream.owners), None if said is None else spans)
    return {
        **_common(stream, "events", field),
        "rows": len(events.ticks),
        "owners": list(stream.owners),
        "table": [{name: to_json(value) for name, value in row.items()} for row in stream.table],
        "observed": None
        if said is None
        else [None if spans is None else floats_to_json(np.asarray(spans).reshape(-1, 2)) for spans in said],
        "total": events.total,
        "not_a_number": events.not_a_number,
        "unsorted": events.unsorted,
        "suspicions": list(events.suspicions),
        "inside": {
            "recorded": known.recorded.tolist(),
            "events": [known.first, known.last],
            "counts": known.counts.tolist(),
            "seen": known.seen.tolist(),
        },
    }, events


def described_series(stream: RegularStream | IrregularStream, field: str) -> tuple[dict[str, Any], Floats | None]:
    """Return the description of a series, and its time stamps where it has them."""
    said = {
        **_common(stream, "regular", field),
        "shape": list(stream.shape),
        "dtype": np.dtype(stream.dtype).str,
        "unit": stream.unit,
        "scale": floats_to_json(stream.scale),
        "offset": floats_to_json(stream.offset),
        "calibrated": bool(stream.calibrated),
        "channels": list(stream.channels),
        "table": [{name: to_json(value) for name, value in row.items()} for row in stream.table],
        "continuity": stream.continuity,
        "circular": None if stream.circular is None else floats_to_json(np.asarray(stream.circular)),
        **({"confidence": stream.confidence} if stream.confidence else {}),
        **({"preferred": True} if stream.preferred else {}),
    }
    check_series(stream)
    if isinstance(stream, RegularStream):
        return {**said, "rate": floats_to_json(stream.rate), "t0": floats_to_json(stream.t0)}, None
    stamps = np.asarray(stream.timestamps(), dtype=np.float64)
    if stamps.shape != stream.shape[:1]:
        raise SourceError(f"{stream.path}: {len(stamps):,} time stamps for {stream.shape[0]} samples")
    return {**said, "kind": "irregular"}, stamps


def described_intervals(stream: IntervalStream) -> dict[str, Any]:
    """Return all of an interval table."""
    return {
        **_common(stream, "intervals", ""),
        "start": floats_to_json(stream.start),
        "stop": floats_to_json(stream.stop),
        "columns": {name: [to_json(value) for value in values] for name, values in stream.columns.items()},
        "relative_columns": list(stream.relative_columns),
    }


def described_failure(stream: AnyStream, error: SourceError) -> dict[str, Any]:
    """Return the description of a stream that cannot be read: opening it again fails in the same words."""
    shape = list(stream.shape) if isinstance(stream, (RegularStream, IrregularStream)) else None
    return {**_common(stream, "unreadable", ""), "shape": shape, "error": str(error)}


def _common(stream: AnyStream, kind: str, field: str) -> dict[str, Any]:
    tables = {name: [to_json(dict(row)) for row in rows] for name, rows in stream.tables.items()}
    return {
        "kind": kind,
        "field": field,
        "path": stream.path,
        "modality": stream.modality,
        "kind_name": stream.kind_name,
        "description": stream.description,
        **({"tables": tables} if tables else {}),
    }


def timelines_to_json(streams: Sequence[AnyStream], source_file: str) -> dict[str, Any]:
    """Return the timeline of each extent that has a name, but for those that find nothing.

    None is kept of a recording with doubtful time stamps: ``series_times`` says what they are when windows are cut.

    Raises
    ------
    NothingToConvertError
        Nothing has a time.
    SourceError
        What would have one cannot be read.
    """
    taken, doubts = in_seconds(streams, "error")
    if doubts or any(one is not other for one, other in zip(taken, streams, strict=True)):
        return {}
    found = {"auto": timeline(streams, source_file)}
    for name in NAMED_EXTENTS:
        with contextlib.suppress(SourceError):  # raised again where it is asked for
            found.setdefault(name, timeline(streams, source_file, name))
    return {
        name: {
            "span": [when.start, when.stop],
            "said_by": when.said_by,
            "problems": problems_to_json(when.problems),
            "pauses": when.pauses.tolist(),
            "stated": when.stated,
        }
        for name, when in found.items()
    }


def timelines_from_json(said: Mapping[str, Any]) -> dict[str, Timeline]:
    """Return the timelines that :func:`timelines_to_json` was given."""
    return {
        name: Timeline(
            int(item["span"][0]),
            int(item["span"][1]),
            str(item["said_by"]),
            problems_from_json(item["problems"]),
            np.asarray(item["pauses"], dtype=np.int64).reshape(-1, 2),
            bool(item["stated"]),
        )
        for name, item in said.items()
    }


def problems_to_json(problems: Sequence[Problem]) -> list[list[str]]:
    """Return problems as JSON values."""
    return [[item.where, item.what, item.consequence, item.severity] for item in problems]


def problems_from_json(values: Sequence[Sequence[str]]) -> tuple[Problem, ...]:
    """Return the problems that :func:`problems_to_json` was given."""
    return tuple(Problem(*item) for item in values)


def stream_of(said: Mapping[str, Any], arrays: StoredArrays) -> AnyStream:
    """Return a stored stream, whose arrays are read when they are needed (raises FormatError)."""
    makers: Mapping[str, Callable[[Mapping[str, Any], StoredArrays], AnyStream]] = {
        "events": _events,
        "regular": _series,
        "irregular": _series,
        "intervals": _intervals,
        "unreadable": _unreadable,
    }
    try:
        return makers[said["kind"]](said, arrays)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"the description of a stored stream is damaged ({type(error).__name__}: {error}); run "
            "`neurofm-shards validate`"
        ) from error


def _base(said: Mapping[str, Any]) -> dict[str, Any]:
    common = {name: said[name] for name in ("path", "modality", "kind_name", "description")}
    return {**common, "tables": said.get("tables", {})}


def _events(said: Mapping[str, Any], arrays: StoredArrays) -> EventStream:
    inside, observed = said["inside"], said["observed"]
    first, last = map(int, inside["events"])
    known = EventCounts(
        np.asarray(inside["recorded"], dtype=np.int64).reshape(-1, 2),
        first,
        last,
        np.asarray(inside["counts"], dtype=np.int64),
        np.asarray(inside["seen"], dtype=np.int64),
    )
    ticks, owner = f"{said['field']}_ticks", f"{said['field']}_owner"

    def in_order() -> SortedEvents:
        return SortedEvents(
            arrays.whole(ticks),
            arrays.whole(owner),
            int(said["total"]),
            int(said["not_a_number"]),
            int(said["unsorted"]),
            tuple(said["suspicions"]),
            known,
        )

    def read() -> tuple[Floats, Ints]:
        return arrays.whole(ticks) / 1e9, arrays.whole(owner).astype(np.int64)

    spans = None if observed is None else [None if item is None else floats_from_json(item) for item in observed]
    return EventStream(
        **_base(said),
        read=read,
        owners=tuple(said["owners"]),
        table=said["table"],
        observed=None if spans is None else (lambda: spans),
        in_order=in_order,
    )


def _series(said: Mapping[str, Any], arrays: StoredArrays) -> RegularStream | IrregularStream:
    field, circular = said["field"], said["circular"]
    dtype, width = np.dtype(said["dtype"]), tuple(int(n) for n in said["shape"])

    def read(start: int, stop: int) -> npt.NDArray[Any]:
        if dtype.kind not in STORED_KINDS:
            raise SourceError(f"{said['path']} holds {dtype}, no numbers, and its values were not stored")
        return arrays.rows(f"{field}_values", start, stop)

    common = {
        **_base(said),
        "shape": width,
        "dtype": dtype.str,
        "read": read,
        "unit": said["unit"],
        "scale": _scale(said["scale"]),
        "offset": _scale(said["offset"]),
        "calibrated": said["calibrated"],
        "channels": tuple(said["channels"]),
        "table": said["table"],
        "continuity": said["continuity"],
        "circular": None if circular is None else (_float(circular[0]), _float(circular[1])),
        "confidence": said.get("confidence", ""),
        "preferred": said.get("preferred", False),
    }
    if said["kind"] == "regular":
        return RegularStream(**common, rate=_float(said["rate"]), t0=_float(said["t0"]))
    return IrregularStream(**common, timestamps=lambda: arrays.whole(said["times"]))


def _scale(value: Any) -> float | Floats:
    return floats_from_json(value) if isinstance(value, list) else _float(value)


def _intervals(said: Mapping[str, Any], _arrays: StoredArrays) -> IntervalStream:
    return IntervalStream(
        **_base(said),
        start=floats_from_json(said["start"]),
        stop=floats_from_json(said["stop"]),
        columns=said["columns"],
        relative_columns=tuple(said["relative_columns"]),
    )


def _unreadable(said: Mapping[str, Any], _arrays: StoredArrays) -> AnyStream:
    def fail(*_: int) -> Any:
        raise SourceError(said["error"])

    if said["shape"] is None:
        return EventStream(**_base(said), read=fail, owners=())
    shape = tuple(int(n) for n in said["shape"])
    return IrregularStream(**_base(said), shape=shape, dtype="<f8", read=fail, timestamps=fail)


def unknown_subject(recording: Recording) -> dict[str, bool]:
    """Return the fact that a recording names no subject: splits by subject must not take it for one."""
    return {} if recording.subject_is_known else {"subject_is_unknown": True}
