"""A recording as samples that are stored as they are: pieces of its streams, cut at common points in time.

A sample holds what all streams have in one stretch of time. Nothing is binned, resampled, scaled or put in another
order, but for events, which are sorted. Stretches are as long as ``piece_bytes`` allow, so that most recordings are one
sample, whose arrays are whole streams. The first sample also holds the recording's description (see
:mod:`neurofm_shards.recordings.description`), from which windows are planned without a look at any array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.blocks import MISSING, little_endian
from neurofm_shards.errors import SampleIndexError, SourceError
from neurofm_shards.format.keys import RECORDING_FIELD
from neurofm_shards.plugins.interfaces import Samples
from neurofm_shards.recordings import description
from neurofm_shards.recordings.ticks import TICKS_PER_SECOND
from neurofm_shards.recordings.timeline import Timeline, timeline
from neurofm_shards.streams import (
    AnyStream,
    EventStream,
    IntervalStream,
    IrregularStream,
    Recording,
    RegularStream,
    read_once,
)
from neurofm_shards.types import Block, ColumnData, ColumnSpec, Metadata, Problem, SourcePlan
from neurofm_shards.values import to_json

#: Stored arrays of one sample, unless another size is asked for.
PIECE_BYTES = 256 << 20
#: Owners are stored in two bytes where they fit.
_FEW_OWNERS = 1 << 16
_EARLIEST, _LATEST = -(1 << 62), 1 << 62


@dataclass(frozen=True)
class StoredArray:
    """One array of a stream.

    Attributes
    ----------
    field : str
        Its name in samples.
    dtype : str
        numpy dtype.
    shape : tuple of int
        ``(rows, ...)``.
    rows_before : callable
        Given a tick, returns how many rows come before it.
    read : callable
        ``read(start, stop)`` returns rows.
    unit : str or None
        Physical unit of the stored numbers, where they have one.
    """

    field: str
    dtype: str
    shape: tuple[int, ...]
    rows_before: Callable[[int], int]
    read: Callable[[int, int], npt.NDArray[Any]]
    unit: str | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * np.dtype(self.dtype).itemsize


class RecordingPieces(Samples):
    """The samples that one stored recording is made of.

    Parameters
    ----------
    recording : Recording
        Streams, as a format plugin describes them. It is closed with the samples.
    piece_bytes : int
        Bytes of the arrays in one sample; a sample holds at least the rows of one moment.

    Raises
    ------
    NothingToConvertError
        Nothing in the recording has a time.
    SourceError
        What would have one cannot be read.
    """

    def __init__(self, recording: Recording, piece_bytes: int = PIECE_BYTES) -> None:
        self._recording = recording
        self._problems: list[Problem] = list(recording.problems)
        streams = [read_once(stream) for stream in recording.streams]
        timelines = description.timelines_to_json(streams, recording.source_file)
        known = description.timelines_from_json(timelines)
        when = known["auto"] if known else timeline(streams, recording.source_file)
        self._when = when
        self._arrays: list[StoredArray] = []
        self._stamps: dict[str, str] = {}
        names = description.field_names([stream.path for stream in streams])
        said = [self._described(stream, name, when) for stream, name in zip(streams, names, strict=True)]
        self._ticks = _borders(self._arrays, piece_bytes)
        self._rows = {array.field: [array.rows_before(tick) for tick in self._ticks] for array in self._arrays}
        self._description = {
            "version": description.VERSION,
            "session_id": recording.session_id,
            "subject_id": recording.subject_id,
            "source_file": recording.source_file,
            "fingerprint": recording.fingerprint,
            "facts": to_json(dict(recording.facts)),
            "problems": description.problems_to_json(recording.problems),
            "timelines": timelines,
            "pieces": len(self),
            "rows": self._rows,
            "streams": said,
            **description.unknown_subject(recording),
        }

    def __len__(self) -> int:
        return len(self._ticks) - 1

    def plan(self) -> SourcePlan:
        """Describe the samples; everything needed was found when the recording was opened."""
        specs = [ColumnSpec(RECORDING_FIELD, None, None, optional=True)]
        for array in self._arrays:
            spec = ColumnSpec(
                array.field, little_endian(array.dtype), (None, *array.shape[1:]), array.unit, optional=True
            )
            specs.append(spec)
        recording = self._recording
        return SourcePlan(
            num_samples=len(self),
            columns=tuple(specs),
            fingerprint=recording.fingerprint,
            metadata={
                "session_id": recording.session_id,
                "subject_id": recording.subject_id,
                "source_file": recording.source_file,
                "facts": dict(recording.facts),
                "streams": {said["path"]: said["field"] for said in self._description["streams"] if said["field"]},
                **description.unknown_subject(recording),
                "extent_s": self._when.extent_s,
                "extent_from": self._when.said_by,
                **self._when.recorded_s,
            },
            problems=tuple(self._problems),
            sample_bytes=tuple(self._bytes(i) for i in range(len(self))),
        )

    def read(self, start: int, stop: int) -> Block:
        """Return pieces ``start`` to ``stop``, with the arrays that have rows in one of them."""
        if not 0 <= start <= stop <= len(self):
            raise SampleIndexError(f"samples {start} to {stop} of {len(self)}: out of range")
        numbers = range(start, stop)
        columns: dict[str, ColumnData] = {
            RECORDING_FIELD: [MISSING if i else self._description for i in numbers],
        }
        for array in self._arrays:
            columns[array.field] = [self._piece(array, i) for i in numbers]
        return Block(columns, [self._metadata(i) for i in numbers])

    def close(self) -> None:
        """Close the recording."""
        self._recording.close()

    def _piece(self, array: StoredArray, i: int) -> npt.NDArray[Any]:
        first, last = self._rows[array.field][i : i + 2]
        values = np.asarray(array.read(first, last))
        if values.shape != (last - first, *array.shape[1:]):
            raise SourceError(
                f"{array.field}: rows {first} to {last} came back as an array of shape {values.shape}: the input is "
                "shorter than it says, or changed"
            )
        return values.astype(np.dtype(array.dtype).newbyteorder("="), copy=False)

    def _bytes(self, i: int) -> int:
        return sum((self._rows[a.field][i + 1] - self._rows[a.field][i]) * a.row_bytes for a in self._arrays)

    def _metadata(self, i: int) -> Metadata:
        recording = self._recording
        return {
            "session_id": recording.session_id,
            "subject_id": recording.subject_id,
            "source_file": recording.source_file,
            "piece": i,
            "pieces": len(self),
            "start_ticks": None if i == 0 else self._ticks[i],
            "stop_ticks": None if i == len(self) - 1 else self._ticks[i + 1],
        }

    def _described(self, stream: AnyStream, field: str, when: Timeline) -> dict[str, Any]:
        """Describe a stream, and note its arrays; one that cannot be read is described by its error."""
        try:
            if isinstance(stream, IntervalStream):
                return description.described_intervals(stream)
            if isinstance(stream, EventStream):
                said, events = description.described_events(stream, field, when)
                owner = "<u2" if len(stream.owners) <= _FEW_OWNERS else "<u4"
                self._add(f"{field}_ticks", events.ticks, _of_ticks(events.ticks))
                self._add(f"{field}_owner", events.owner.astype(owner), _of_ticks(events.ticks))
                return said
            return self._series(stream, field)
        except SourceError as error:
            self._problems.append(Problem(stream.path, str(error), "it is stored as unreadable", "error"))
            return description.described_failure(stream, error)

    def _series(self, stream: RegularStream | IrregularStream, field: str) -> dict[str, Any]:
        said, stamps = description.described_series(stream, field)
        before = _of_clock(stream) if isinstance(stream, RegularStream) else _of_stamps(stamps)
        if stamps is not None:
            said["times"] = self._add_stamps(f"{field}_times", stamps, before)
        if np.dtype(stream.dtype).kind in description.STORED_KINDS:
            unit = stream.unit if _unscaled(stream) else None
            self._arrays.append(
                StoredArray(f"{field}_values", stream.dtype, tuple(stream.shape), before, stream.read, unit or None)
            )
        else:
            what = f"holds {np.dtype(stream.dtype)}, no numbers"
            self._problems.append(Problem(stream.path, what, "its values are not stored"))
        return said

    def _add_stamps(self, field: str, stamps: Floats, before: Callable[[int], int]) -> str:
        """Store time stamps, once for all series that share them; return the field they are in."""
        known = self._stamps.setdefault(xxhash.xxh3_128_hexdigest(np.ascontiguousarray(stamps).tobytes()), field)
        if known == field:
            self._add(field, stamps, before)
        return known

    def _add(self, field: str, values: npt.NDArray[Any], before: Callable[[int], int]) -> None:
        def read(start: int, stop: int) -> npt.NDArray[Any]:
            return values[start:stop]

        self._arrays.append(StoredArray(field, values.dtype.str, values.shape, before, read))


def _unscaled(stream: RegularStream | IrregularStream) -> bool:
    return bool(np.all(np.asarray(stream.scale) == 1.0) and not np.any(stream.offset))


def _of_ticks(ticks: Ints) -> Callable[[int], int]:
    return lambda tick: int(np.searchsorted(ticks, tick, side="left"))


def _of_clock(stream: RegularStream) -> Callable[[int], int]:
    count, rate, t0 = stream.shape[0], stream.rate, stream.t0

    def before(tick: int) -> int:
        rows = np.ceil((tick / TICKS_PER_SECOND - t0) * rate)
        return int(min(max(rows, 0), count))

    return before


def _of_stamps(stamps: Floats | None) -> Callable[[int], int]:
    """Count rows up to the first that reaches a time, so that pieces stay runs of rows where stamps are not sorted."""
    known = np.zeros(0) if stamps is None else np.where(np.isfinite(stamps), stamps, -np.inf)
    reached = np.maximum.accumulate(known) if len(known) else known

    def before(tick: int) -> int:
        at = int(np.searchsorted(reached, tick / TICKS_PER_SECOND, side="left"))
        return len(reached) if tick >= _LATEST else at

    return before


def _borders(arrays: Sequence[StoredArray], piece_bytes: int) -> list[int]:
    """Return the ticks between which pieces lie: each as long as fits, the first and last without an end."""

    def held(tick: int) -> int:
        return sum(array.rows_before(tick) * array.row_bytes for array in arrays)

    borders, total = [_EARLIEST], held(_LATEST)
    while total - held(borders[-1]) > piece_bytes:
        start = borders[-1]
        border = _last(held, held(start) + piece_bytes, start)
        if held(border) == held(start):  # one moment holds more than fits
            border = _last(held, held(start), start) + 1
            if held(border) == total:
                break
        borders.append(border)
    return [*borders, _LATEST]


def _last(held: Callable[[int], int], room: int, low: int) -> int:
    """Return the last tick from ``low`` on before which no more than ``room`` bytes lie; there are more before some."""
    high = _LATEST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if held(middle) <= room else (low, middle)
    return low
