"""What a file holds, in terms that do not depend on how it was read (pynwb, h5py, Zarr)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import SourceError
from neurofm_shards.types import Problem
from neurofm_shards_nwb.arrays import StoredArray, plain


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name, description : str
        As in the file.
    data : StoredArray
        The values; of all rows end to end when ``indexes`` is not empty.
    indexes : tuple of StoredArray
        Ragged columns: where each row ends, innermost index first.
    rows_of : Table or None
        The table whose row numbers this column holds.
    resolve : callable or None
        Turns a stored object reference into the name of what it points to.
    """

    name: str
    data: StoredArray
    description: str = ""
    indexes: tuple[StoredArray, ...] = ()
    rows_of: Table | None = None
    resolve: Callable[[object], str] | None = None

    def __len__(self) -> int:
        return len(self.indexes[-1] if self.indexes else self.data)

    def ends(self) -> npt.NDArray[np.int64]:
        """Return where each row of a singly indexed column ends, as int64 whatever the file uses.

        Raises
        ------
        SourceError
            The index decreases or points beyond the data.
        """
        return checked_ends(self.indexes[0], len(self.data))

    def values(self) -> list[Any]:
        """Return one JSON value per row: lists where the column is ragged or has several dimensions."""
        resolve = self.resolve
        stored = self.data.all()
        values = [plain(value) for value in stored] if resolve is None else [resolve(value) for value in stored]
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
    plain : bool
        False for a type of an extension that pynwb could not construct: its columns may mean anything.
    """

    path: str
    types: tuple[str, ...]
    columns: Mapping[str, Column]
    ids: StoredArray | None = None
    description: str = ""
    plain: bool = True

    def __len__(self) -> int:
        if self.ids is not None:
            return len(self.ids)
        return len(next(iter(self.columns.values()))) if self.columns else 0

    @cached_property
    def row_ids(self) -> list[str]:
        """The rows' own ids as text; row numbers where the file has none."""
        return [str(plain(value)) for value in (range(len(self)) if self.ids is None else self.ids.all())]

    def records(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return one JSON dict per row with the columns named."""
        columns = {name: self.columns[name].values() for name in names}
        return [{name: values[row] for name, values in columns.items()} for row in range(len(self))]


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
class Series:
    """A TimeSeries of any kind.

    Attributes
    ----------
    types : tuple of str
        Its neurodata types, the most derived first.
    containers : tuple of (str, str)
        Name and neurodata type of what it lies in, the innermost first.
    data, timestamps : StoredArray or None
        None where the file has none.
    broken : str
        Why the series cannot be read, as a whole message; empty when it can.
    external : bool
        Whether the values are frames in other files (images, movies).
    """

    path: str
    types: tuple[str, ...]
    containers: tuple[tuple[str, str], ...] = ()
    description: str = ""
    data: StoredArray | None = None
    timestamps: StoredArray | None = None
    rate: float | None = None
    t0: float | None = None
    unit: str = ""
    conversion: float = 1.0
    offset: float = 0.0
    channel_conversion: npt.NDArray[np.float64] | None = None
    continuity: str = ""
    region: Region | None = None
    broken: str = ""
    external: bool = False


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
    other: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[Problem] = ()
