"""What every kind of column group in a sample can do: say its columns, read windows, say what is valid."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.types import ColumnData, ColumnSpec, Problem, Ragged


class WindowedModality(ABC):
    """Columns of one modality, cut at windows that start at given ticks."""

    #: Name of the modality.
    name: str
    #: The columns this adds to every sample.
    columns: tuple[ColumnSpec, ...] = ()
    #: Side tables: name to rows.
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = {}
    #: What was odd.
    problems: tuple[Problem, ...] = ()
    #: Facts for the plan's metadata.
    facts: Mapping[str, Any] = {}
    #: Stretches in which no window may lie, by reason.
    removals: Mapping[str, Ints] = {}
    #: Spans in which there is anything of it; None for the whole recording.
    covers: Ints | None = None

    @property
    def values_per_window(self) -> int:
        """Number of values in one window of the columns of fixed shape."""
        shapes = [spec.shape for spec in self.columns if spec.shape and None not in spec.shape]
        return sum(math.prod(length or 0 for length in shape) for shape in shapes)

    @abstractmethod
    def read(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:
        """Return the columns of windows that start at these ticks; nothing from ``stops`` on is in them."""

    def read_scattered(self, starts: Ints, stops: Ints) -> dict[str, ColumnData]:
        """Do the same for windows in any order, from anywhere, in several threads at once."""
        return self.read(starts, stops)

    def valid_fraction(self, starts: Ints) -> Floats:
        """Return the share of valid values of each window; all of them unless a modality knows better."""
        return np.ones(len(starts))


def cut_short(starts: Ints, stops: Ints, length: int) -> list[tuple[int, int]]:
    """Return the windows that hold less than their length, as (position, ticks they hold)."""
    return [(int(i), int(stops[i] - starts[i])) for i in np.flatnonzero(stops < starts + length)]


def nothing(spec: ColumnSpec, windows: int) -> ColumnData:
    """Return an empty column of so many windows."""
    shape, dtype = spec.shape or (), np.dtype(spec.dtype or "<f4")
    if None in shape:
        inner = [size or 0 for size in shape[1:]]
        return Ragged(np.zeros((0, *inner), dtype=dtype), np.zeros(windows + 1, dtype=np.int64))
    return np.zeros((windows, *(size or 0 for size in shape)), dtype=dtype)


def row_numbers(count: int, windows: int) -> npt.NDArray[np.int32]:
    """Return the rows ``0 .. count - 1`` of a side table, as int32, once per window."""
    return np.tile(np.arange(count, dtype=np.int32), (windows, 1))
