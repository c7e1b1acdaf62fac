"""The data that travels between rooms: frozen and plain.

Nothing here imports numpy at run time, so that plugins can describe themselves without paying for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Sample: TypeAlias = dict[str, Any]
"""One sample: field name to value (an array, or something JSON can hold)."""

Metadata: TypeAlias = dict[str, Any]
"""Metadata of one sample: JSON values only."""

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Anything the tar writer can write without copying."""


Shape: TypeAlias = "tuple[int | None, ...]"
"""Shape of one sample's array; None stands for a length that differs between samples."""


@dataclass(frozen=True)
class ColumnSpec:
    """What is known of one field over all samples of a source or data set.

    Attributes
    ----------
    name : str
        Field name: lower case, ``[a-z0-9_-]``.
    dtype : str or None
        numpy dtype string with byte order (``"<f4"``, ``"|u1"``); None for values that are not arrays (JSON).
    shape : tuple of (int or None) or None
        Shape of ONE sample; None stands for a length that differs between samples (ragged). None as a whole when
        even the number of dimensions differs or the value is not an array.
    unit : str or None
        Physical unit of the stored values (``"V"``, ``"cm"``), where known.
    table : str or None
        Name of the side table whose row numbers this integer column holds (``"units"``), or None. Row numbers are
        local to one input when a source hands them over; conversion shifts them to rows of the data-set-wide table.
        Negative numbers mean "none" and are never shifted.
    optional : bool
        Whether inputs, and samples of one input, may lack the field or hold another type under its name: pieces of
        recordings, which have what streams they have.
    """

    name: str
    dtype: str | None
    shape: tuple[int | None, ...] | None
    unit: str | None = None
    table: str | None = None
    optional: bool = False

    @property
    def ragged(self) -> bool:
        """Whether the arrays' shapes differ between samples."""
        return self.dtype is not None and (self.shape is None or None in self.shape)

    def merge(self, other: ColumnSpec) -> ColumnSpec:
        """Return the column of both: properties that differ (dtype, axes, unit, table) become None."""
        dtype = self.dtype if self.dtype == other.dtype else None
        return ColumnSpec(
            self.name,
            dtype,
            None if dtype is None else merge_shapes(self.shape, other.shape),
            self.unit if self.unit == other.unit else None,
            self.table if self.table == other.table else None,
            self.optional or other.optional,
        )


def merge_shapes(a: Shape | None, b: Shape | None) -> Shape | None:
    """Return the shape that both have, None for lengths that differ; None when the numbers of dimensions differ."""
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple(m if m == n else None for m, n in zip(a, b, strict=True))


@dataclass(frozen=True)
class Ragged:
    """``n`` arrays that differ in their first length only, end to end.

    Attributes
    ----------
    values : numpy.ndarray, shape (total, ...)
        All samples' rows, one sample after the other.
    offsets : numpy.ndarray of int64, shape (n + 1,)
        Sample ``i`` is ``values[offsets[i]:offsets[i + 1]]``.
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[self.offsets[i] : self.offsets[i + 1]]


ColumnData: TypeAlias = "np.ndarray | Ragged | list[Any]"
"""``n`` values of one field: an array (n, ...), ragged arrays, or a plain list (JSON values, arrays of odd shapes)."""


@dataclass(frozen=True)
class Block:
    """``n`` consecutive samples, column by column.

    Attributes
    ----------
    columns : mapping of str to ColumnData
        Every column has ``n`` entries.
    metadata : sequence of dict
        ``n`` metadata dicts (JSON values).
    rows : numpy.ndarray of int64, shape (n,), or None
        Which planned samples these are, counted from the source's first; None means consecutive from where reading
        started. A transform that drops samples returns the rows that are left.
    keys : sequence of str or None
        ``n`` sample keys where the source or caller names them; None for automatic keys.
    """

    columns: Mapping[str, ColumnData]
    metadata: Sequence[Metadata]
    rows: np.ndarray | None = None
    keys: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.metadata)


#: The consequence of an option that names something an input has not; an error where no input has it.
WITHOUT_EFFECT = "that option has no effect"


@dataclass(frozen=True)
class Problem:
    """Something noteworthy that was found in an input or a data set, and what follows from it.

    Attributes
    ----------
    where : str
        Path inside the input (``"units/spike_times"``), or the shard; empty where it is about the whole.
    what : str
        What was found.
    consequence : str
        What follows from it, or what the program does about it.
    severity : str
        ``"info"``, ``"warning"`` or ``"error"``.
    key : str
        The sample, where it is about one sample of a shard.
    """

    where: str
    what: str
    consequence: str
    severity: str = "warning"
    key: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the attributes by name, as manifests have them: no key where there is none."""
        return {name: text for name, text in vars(self).items() if text or name != "key"}


@dataclass(frozen=True)
class SourcePlan:
    """What one input will give, found out cheaply and without reading the data.

    Attributes
    ----------
    num_samples : int
        How many samples ``read(0, num_samples)`` covers.
    columns : tuple of ColumnSpec
        The fields of every sample.
    fingerprint : str
        Changes when the input's content changes (size, times and a hash of some content, say); never depends on the
        folder the input lies in.
    metadata : mapping
        Facts about the whole input (JSON values), written to the manifest's list of sources.
    drops : mapping of str to int
        Samples (windows) that were considered and left out, counted by reason.
    problems : tuple of Problem
        What was odd about the input.
    tables : mapping of str to sequence of dict
        Side tables of this input (``"units"``, ``"channels"``): one JSON dict per row. Conversion joins those of all
        inputs, in input order, into one table per data set.
    sample_bytes : tuple of int
        Bytes of the arrays of each sample, where they differ so much that shards are bounded by them; else empty.
    splits : tuple of (str, int)
        Split of the first samples and their number, then of those that follow, and so on, where samples are divided
        into splits; conversion gives each split shards of its own. Empty where they are not.
    """

    num_samples: int
    columns: tuple[ColumnSpec, ...]
    fingerprint: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    drops: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    sample_bytes: tuple[int, ...] = ()
    splits: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class ArrayLayout:
    """Where the raw C-order bytes of an array lie inside an encoded payload.

    Attributes
    ----------
    dtype : str
        numpy dtype string with byte order.
    shape : tuple of int
        Shape of the array.
    offset : int
        First data byte, counted from the start of the payload.
    fortran : bool
        True when the bytes are in column-major order.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    fortran: bool = False
