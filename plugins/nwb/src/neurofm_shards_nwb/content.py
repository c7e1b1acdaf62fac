"""What a file holds, in terms that do not depend on how it was read: arrays read in pieces, tables, series, events."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import SourceError
from neurofm_shards.types import Problem
from neurofm_shards_nwb.holes import unwritten, unwritten_rows

#: Seconds of one unit of time stamps, by how files spell it (lower case).
_TIME_UNITS = {
    **dict.fromkeys(("", "s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "\u00b5s", "\u03bcs", "usec", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nsec", "nanosecond", "nanoseconds"), 1e-9),
}


@dataclass(frozen=True)
class StoredArray:
    """An h5py or Zarr dataset (or an array pynwb holds in memory), with its place in the file for messages.

    Attributes
    ----------
    data : object
        Anything with ``shape``, ``dtype`` and slicing, or a list.
    where : str
        ``"FILE: path/in/file"``.
    """

    data: Any
    where: str
    process: int = field(default_factory=os.getpid)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape as stored; ``()`` for a dataset without a dataspace, which holds nothing."""
        shape = self.data.shape if hasattr(self.data, "shape") else np.shape(self.data)
        return tuple(int(n) for n in shape or ())

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values as stored; ``object`` for text and references."""
        dtype = getattr(self.data, "dtype", None)
        return dtype if isinstance(dtype, np.dtype) else np.asarray(self.data[:0] if self.shape else self.data).dtype

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Chunk shape, or None where the data are contiguous."""
        return getattr(self.data, "chunks", None)

    @cached_property
    def hole(self) -> str:
        """Why values of a dataset were never written, or lie in a file that is not there; empty where all are there.

        HDF5 gives the fill value for them, zero as a rule, as if it were data. Not-a-number as fill value says as much
        itself.
        """
        what = unwritten(self.data)
        return f"{self.where}: {what}; get the file again, or leave its modality out" if what else ""

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def read(self, start: int, stop: int, axis: int = 0) -> npt.NDArray[Any]:
        """Return the values ``start`` to ``stop`` along ``axis``.

        Raises
        ------
        SourceError
            The values cannot be decoded, or another process opened the file.
        """
        return self.part(start, stop, (), axis)

    def part(self, start: int, stop: int, other: tuple[slice, ...], axis: int = 0) -> npt.NDArray[Any]:
        """Return the values ``start`` to ``stop`` along ``axis``, and only those in ``other`` along the axes behind it.

        Raises
        ------
        SourceError
            See :meth:`read`.
        """
        if os.getpid() != self.process:
            raise SourceError(
                f"{self.where} was opened by process {self.process} and is read in {os.getpid()}: HDF5 handles do not "
                "survive a fork; open the file in the process that reads it"
            )
        if self.hole:
            raise SourceError(self.hole)
        return self._stored(start, stop, other, axis)

    def _stored(self, start: int, stop: int, other: tuple[slice, ...], axis: int) -> npt.NDArray[Any]:
        where: Any = ((slice(None),) * axis) + (slice(start, stop), *other)
        where = where if len(where) > 1 else where[0]
        try:
            whole = (start, stop, axis, other) == (0, len(self), 0, ())
            return self._whole() if whole else np.asarray(self.data[where])
        except (OSError, RuntimeError, ValueError, KeyError) as error:  # what h5py raises for damaged data
            raise SourceError(self._read_problem(start, stop, error)) from error

    def all(self) -> npt.NDArray[Any]:
        """Return all values."""
        return self.read(0, len(self))

    def with_gaps(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return all values, and which rows were never written: what stands there is made up by HDF5."""
        if not self.hole:
            return self.all(), np.zeros(len(self), dtype=bool)
        return self._stored(0, len(self), (), 0), unwritten_rows(self.data)

    def _whole(self) -> npt.NDArray[Any]:
        """Return all values, numbers in half the time that slicing takes h5py."""
        import h5py  # noqa: PLC0415  (only when a file is opened)

        if not isinstance(self.data, h5py.Dataset) or self.dtype.kind not in "fiub" or not math.prod(self.shape):
            return np.asarray(self.data[:])
        values = np.empty(self.shape, self.dtype)
        self.data.id.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
        return values

    def _read_problem(self, start: int, stop: int, error: Exception) -> str:
        text = str(error)
        if "required filter" in text or "can't open directory" in text or "plugin" in text:
            return (
                f"{self.where} is stored with an HDF5 filter that is not installed ({text}): install it, for most "
                "with 'pip install hdf5plugin' and 'import hdf5plugin' in a --plugin file"
            )
        return (
            f"{self.where}: values {start} to {stop} cannot be read ({text}): a chunk is damaged; get the file again, "
            "or leave this series out of modalities"
        )


def text(value: object) -> str:
    """Return stored text, which is bytes in some files and str in others, as str without surrounding blanks."""
    if getattr(value, "shape", ()) is None:  # h5py.Empty: a dataset without a dataspace
        return ""
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else " ".join(text(part) for part in value.ravel())
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return "" if value is None else str(value).strip()


def python_value(value: object) -> Any:
    """Turn one stored value into what JSON can hold: numbers, bools, text, lists; objects become their names."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (np.ndarray, list, tuple)):
        parts = value.tolist() if isinstance(value, np.ndarray) else value
        return [python_value(part) for part in parts] if isinstance(parts, (list, tuple)) else python_value(parts)
    if isinstance(value, bytes):
        return text(value)
    if isinstance(value, np.generic):
        return python_value(value.item())
    return str(getattr(value, "name", None) or type(value).__name__)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name : str
        As in the file.
    data : StoredArray
        The values; of all rows end to end when ``indexes`` is not empty.
    indexes : tuple of StoredArray
        Ragged columns: where each row ends, innermost index first.
    rows_of : Table or None
        The table whose row numbers this column holds.
    resolve : callable or None
        Turns a stored object reference into the name of what it points to.
    unit : str
        Unit of the values, as the file says it.
    elements : StoredArray or None
        What the values stand for by position (EnumData).
    explained_by : str
        Path of the MeaningsTable that the column names; empty where it names none.
    meanings : mapping of object to str
        What each value means, as tables of the file say it; see :func:`with_meanings`.
    """

    name: str
    data: StoredArray
    indexes: tuple[StoredArray, ...] = ()
    rows_of: Table | None = None
    resolve: Callable[[object], str] | None = None
    unit: str = ""
    elements: StoredArray | None = None
    explained_by: str = ""
    meanings: Mapping[Any, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indexes[-1] if self.indexes else self.data)

    def meaning(self, value: object) -> str:
        """Return what a value means; empty where no table says it."""
        return self.meanings.get(value, "") or self.meanings.get(str(value), "")

    @property
    def stamps(self) -> Stamped:
        """Its values as time stamps."""
        place = self.data.where.rpartition(": ")[2]
        return Stamped(path=place, types=(), timestamps=self.data, time_unit=self.unit)

    def ends(self) -> npt.NDArray[np.int64]:
        """Return where each row of a singly indexed column ends, as int64 whatever the file uses.

        Raises
        ------
        SourceError
            The index decreases or points beyond the data.
        """
        return checked_ends(self.indexes[0], len(self.data))

    def values(self) -> list[Any]:
        """Return one JSON value per row: lists where the column is ragged or has several dimensions.

        What was never written of a column that is not ragged is None, and so is a number that stands for nothing.
        """
        resolve = self.resolve
        stored, missing = (self.data.all(), ()) if self.indexes else self.data.with_gaps()
        values = [python_value(value) for value in stored] if resolve is None else [resolve(value) for value in stored]
        if self.elements is not None:
            known: list[Any] = [python_value(value) for value in self.elements.all()]
            values = [known[int(value)] if value in range(len(known)) else None for value in values]
        for row in np.flatnonzero(missing).tolist():
            values[row] = None
        lengths = len(self.data)
        for index in self.indexes:
            ends = checked_ends(index, lengths)
            starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
            values = [values[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
            lengths = len(ends)
        return values


def checked_ends(index: StoredArray, length: int) -> npt.NDArray[np.int64]:
    """Read a ragged index as int64 and check it against the length of what it indexes.

    Raises
    ------
    SourceError
        The index decreases, points beyond the data, or is of a type too small to reach their end (so that it wrapped).
    """
    ends = index.all().astype(np.int64)
    if ends.size and (ends[0] < 0 or np.any(np.diff(ends) < 0)):
        row = int(np.argmax(np.diff(ends, prepend=0) < 0))
        raise SourceError(f"{index.where} decreases at row {row}: the index is damaged, and no row can be trusted")
    if ends.size and int(ends[-1]) > length:
        raise SourceError(
            f"{index.where} points to value {int(ends[-1])} of {length}: the table or its index was cut short"
        )
    if ends.size and index.dtype.kind in "iu" and int(ends[-1]) < length > np.iinfo(index.dtype).max:
        raise SourceError(
            f"{index.where} is stored as {index.dtype.name}, which cannot count the {length} values it points to: its "
            "numbers wrapped around, and no row can be trusted; write it again with a larger type"
        )
    return ends


@dataclass(frozen=True, kw_only=True)
class Table:
    """A DynamicTable: units, electrodes, trials, ...

    Attributes
    ----------
    types : tuple of str
        Its neurodata types, the most derived first.
    columns : mapping of str to Column
        In the file's order.
    ids : StoredArray or None
        The rows' own ids.
    plane : mapping of str to object
        What the file says of the imaging plane that all rows lie in, ``name`` included; empty where there is none.
    explains : str
        Path of the column whose values a MeaningsTable explains; empty where it does not say.
    """

    path: str
    types: tuple[str, ...]
    columns: Mapping[str, Column]
    ids: StoredArray | None = None
    description: str = ""
    plane: Mapping[str, Any] = field(default_factory=dict)
    explains: str = ""

    def __len__(self) -> int:
        if self.ids is not None:
            return len(self.ids)
        return len(next(iter(self.columns.values()))) if self.columns else 0

    @cached_property
    def row_ids(self) -> list[str]:
        """The rows' own ids as text; row numbers where the file has none."""
        return [str(python_value(value)) for value in (range(len(self)) if self.ids is None else self.ids.all())]

    def readable(self, names: Sequence[str]) -> tuple[dict[str, list[Any]], list[Problem]]:
        """Return the values of columns by name, but for those that cannot be read, and what is missing of all.

        What numbers mean, where a table says it, is a further column ``NAME_meaning``.
        """
        found: dict[str, list[Any]] = {}
        problems: list[Problem] = []
        for name in names:
            column, place = self.columns[name], f"{self.path}/{name}"
            try:
                found[name] = column.values()
            except SourceError as error:
                what = str(error).removeprefix(column.data.where.removesuffix(place))
                problems.append(Problem(place, what, "the column is left out", "error"))
                continue
            if column.data.hole and not column.indexes:
                problems.append(Problem(place, never_written(column.data), "unknown there"))
            meant = f"{name}_meaning"
            if column.meanings and meant not in self.columns and not column.indexes and are_codes(found[name]):
                found[meant] = [column.meaning(value) for value in found[name]]
        return found, problems

    def records(self, columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """Return one JSON dict per row with the values of columns."""
        return [{name: values[row] for name, values in columns.items()} for row in range(len(self))]


def never_written(stored: StoredArray) -> str:
    """Say how many rows of an array were never written, and which is the first."""
    rows = np.flatnonzero(unwritten_rows(stored.data))
    return f"{len(rows)} of {len(stored)} values were never written (the first: row {rows[0]})"


def are_codes(values: Sequence[object]) -> bool:
    """Return whether values are numbers, which say nothing by themselves."""
    return all(value is None or isinstance(value, (bool, int, float)) for value in values)


def with_meanings(tables: Sequence[Table]) -> list[Table]:
    """Return tables whose columns know what their values mean.

    A MeaningsTable says which column it explains (hdmf-common), or the column says by which table it is explained
    (ndx-events); else a table ``COLUMN_meanings`` inside of another explains its column of that name.
    """
    said: dict[str, Mapping[Any, str]] = {}
    for table in tables:
        columns = table.columns
        if "MeaningsTable" not in table.types or not {"value", "meaning"} <= set(columns):
            continue
        found, _ = table.readable(("value", "meaning"))
        if len(found) < 2:
            continue
        meanings = {value: text(meant) for value, meant in zip(*found.values(), strict=False) if _is_single(value)}
        owner, _, name = table.path.removesuffix("_meanings").replace("/meanings_tables/", "/").rpartition("/")
        said |= {place: meanings for place in (table.explains, table.path, f"{owner}/{name}") if place}
    return [_explained(table, said) for table in tables] if said else list(tables)


def _explained(table: Table, said: Mapping[str, Mapping[Any, str]]) -> Table:
    columns = {
        name: replace(column, meanings=said.get(column.explained_by) or said.get(f"{table.path}/{name}", {}))
        for name, column in table.columns.items()
    }
    return replace(table, columns=columns)


def _is_single(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


#: Ragged and many-valued columns count as properties of a row up to this many values each.
MOST_VALUES = 32


def small_columns(table: Table) -> list[str]:
    """Return the names of the columns that say something about each row, rather than hold data."""
    limit = MOST_VALUES * max(len(table), 1)
    return [
        name
        for name, column in table.columns.items()
        if len(column) == len(table) and math.prod(column.data.shape) <= limit
    ]


@dataclass(frozen=True, kw_only=True)
class Region:
    """Rows of a table: a series' electrodes or ROIs."""

    table: Table
    rows: StoredArray


@dataclass(frozen=True, kw_only=True)
class Stamped:
    """What has time stamps.

    Attributes
    ----------
    types : tuple of str
        Its neurodata types, the most derived first.
    timestamps : StoredArray or None
        None where the file has none.
    time_unit : str
        Unit of the time stamps, or of the starting time, as the file says it; ``"seconds"`` by the schema.
    """

    path: str
    types: tuple[str, ...]
    description: str = ""
    timestamps: StoredArray | None = None
    time_unit: str = ""

    @property
    def time_factor(self) -> float:
        """Seconds of one unit of the time stamps, by what the file says their unit is."""
        return _TIME_UNITS.get(self.time_unit.lower(), 1.0)

    @property
    def conversions(self) -> tuple[Problem, ...]:
        """The note that time stamps are not in seconds, or in a unit that is not known; none where they are seconds."""
        if self.time_unit.lower() not in _TIME_UNITS:
            what = f"{self._what} in {self.time_unit!r}, which is no unit of time"
            return (Problem(self.path, what, "taken for seconds"),)
        if self.time_factor == 1.0:
            return ()
        what = f"{self._what} in {self.time_unit}, where the schema has seconds"
        return (Problem(self.path, what, "converted to seconds"),)

    @property
    def _what(self) -> str:
        return "starting time" if self.timestamps is None else "time stamps"

    def trouble_with_stamps(self) -> str:
        """Return why the time stamps are none; empty when they are."""
        stamps = self.timestamps
        if stamps is None or (len(stamps.shape) == 1 and stamps.dtype.kind in "fiu"):
            return ""
        kind = "text" if stamps.dtype.kind in "OSU" else stamps.dtype.name
        return (
            f"{self.path} has time stamps of shape {stamps.shape} that are {kind}, not one number of seconds each; "
            "mend the file or leave this modality out"
        )

    def seconds(self) -> npt.NDArray[np.float64]:
        """Return the time stamps in seconds; none where there are none."""
        stamps = np.zeros(0) if self.timestamps is None else self.timestamps.all()
        return stamps.astype(np.float64) * self.time_factor


@dataclass(frozen=True, kw_only=True)
class Series(Stamped):
    """A TimeSeries of any kind.

    Attributes
    ----------
    containers : tuple of (str, str)
        Name and neurodata type of what it lies in, the innermost first.
    data : StoredArray or None
        None where the file has none.
    confidence : StoredArray or None
        How sure each sample's value is, as pose estimation says it.
    sweep : int or None
        Number of the patch-clamp sweep it belongs to, where it says so.
    electrode : str
        Name of the intracellular electrode it was recorded with.
    broken : str
        Why the series cannot be read, as a whole message; empty when it can.
    external : bool
        Whether the values are frames in other files (images, movies).
    """

    containers: tuple[tuple[str, str], ...] = ()
    data: StoredArray | None = None
    rate: float | None = None
    t0: float | None = None
    unit: str = ""
    conversion: float = 1.0
    offset: float = 0.0
    channel_conversion: npt.NDArray[np.float64] | None = None
    continuity: str = ""
    region: Region | None = None
    confidence: StoredArray | None = None
    sweep: int | None = None
    electrode: str = ""
    broken: str = ""
    external: bool = False


@dataclass(frozen=True, kw_only=True)
class EventList(Stamped):
    """Times of events, with codes and what they mean (ndx-events 0.1 and 0.2).

    Attributes
    ----------
    codes : StoredArray or None
        A code for each event; without codes all events are of one kind.
    labels : tuple of str
        Meaning of each code, by position.
    """

    codes: StoredArray | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepPart:
    """A stretch of a series: ``count`` samples from ``first`` on, all that follow where ``count`` is negative."""

    path: str
    first: int = 0
    count: int = -1


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """A patch-clamp sweep: what was recorded at once, what was applied, and what the file says of it."""

    number: int
    responses: tuple[SweepPart, ...]
    stimuli: tuple[SweepPart, ...] = ()
    said: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FileContent:
    """Everything found in one file.

    Attributes
    ----------
    version : str
        NWB version.
    facts : mapping
        Identifier, session and subject ids, species, start time, ... as JSON values.
    series : sequence of Series
    tables : sequence of Table
        All tables, of whatever kind.
    events : sequence of EventList
    sweeps : sequence of SweepRow
        Of the tables that list them.
    other : mapping of str to str
        Path to neurodata type of what is in the file and is neither of these.
    problems : sequence of Problem
    close : callable
        Releases the file.
    """

    path: str
    version: str
    facts: Mapping[str, Any]
    series: Sequence[Series]
    tables: Sequence[Table]
    close: Callable[[], None]
    events: Sequence[EventList] = ()
    sweeps: Sequence[SweepRow] = ()
    other: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[Problem] = ()
