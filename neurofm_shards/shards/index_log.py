"""Noting, while a shard is written or read, where its values are; in the end that is its index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from neurofm_shards.format.index import ColumnIndex, ShardIndex
from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.shards.packing import PackedInts, pack_ints, pack_strings
from neurofm_shards.types import Buffer, ColumnSpec

#: dtype and shape of an array that lies plainly in its payload.
Form = tuple[str, tuple[int, ...]]


class Encoded(NamedTuple):
    """One value as bytes: the pieces of its payload, and where an array's data lie in it (-1: nowhere plainly)."""

    size: int
    pieces: Sequence[Buffer]
    data: int = -1
    form: Form | None = None


class ColumnLog:
    """Where the values of one field, with one extension, are."""

    def __init__(self, codec: str, extension: str) -> None:
        self.codec = codec
        self.extension = extension
        self._rows: list[int] = []
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        self._data: list[int] = []
        self._forms: list[Form | None] = []

    def add(self, row: int, offset: int, value: Encoded) -> None:
        """Note one value: its sample, where its payload begins, and what is in it."""
        self._rows.append(row)
        self._offsets.append(offset)
        self._sizes.append(value.size)
        self._data.append(-1 if value.data < 0 else offset + value.data)
        self._forms.append(value.form)

    def add_many(self, row: int, offsets: range, sizes: Sequence[int], data: int, form: Form | None) -> None:
        """Note the values of consecutive samples; ``data`` counts from each payload's start."""
        self._rows.extend(range(row, row + len(offsets)))
        self._offsets.extend(offsets)
        self._sizes.extend(sizes)
        self._data.extend(
            repeat(-1, len(offsets)) if form is None else range(offsets.start + data, offsets.stop + data, offsets.step)
        )
        self._forms.extend(repeat(form, len(offsets)))

    @property
    def num_samples(self) -> int:
        """How many samples have the field."""
        return len(self._rows)

    def finish(self, name: str, num_samples: int, known: ColumnSpec | None) -> ColumnIndex:
        """Return the column's index."""
        forms = set(self._forms)
        shapes = [form[1] for form in forms if form is not None]
        # A value without a plain form may turn out to have any shape once it is decoded.
        plain = len(shapes) == len(forms) and len({form[0] for form in forms if form is not None}) == 1
        ranks = {len(shape) for shape in shapes}
        dtype = next(form[0] for form in forms if form is not None) if plain else None
        shape = _common(shapes) if plain and len(ranks) == 1 else None
        spec = ColumnSpec(name, dtype, shape, known.unit if known else None, known.table if known else None)
        return ColumnIndex(
            spec,
            self.codec,
            self.extension,
            self._spread(self._offsets, num_samples, -1),
            self._spread(self._sizes, num_samples, 0),
            None if shape is None else self._spread(self._data, num_samples, -1),
            self._shapes(num_samples) if shape is not None and None in shape else None,
        )

    def _shapes(self, num_samples: int) -> tuple[PackedInts, ...]:
        axes = zip(*(form[1] for form in self._forms if form is not None), strict=True)
        return tuple(self._spread(list(axis), num_samples, 0) for axis in axes)

    def _spread(self, values: list[int], num_samples: int, missing: int) -> PackedInts:
        if len(values) == num_samples:
            return pack_ints(values)
        whole = np.full(num_samples, missing, np.int64)
        whole[self._rows] = values
        return pack_ints(whole)


def _common(shapes: Sequence[tuple[int, ...]]) -> tuple[int | None, ...]:
    return tuple(axis[0] if len(set(axis)) == 1 else None for axis in zip(*shapes, strict=True))


class IndexLog:
    """Where everything in one shard is."""

    def __init__(self) -> None:
        self._columns: dict[tuple[str, str], ColumnLog] = {}
        self.keys: list[str] = []
        self.digests: list[int] = []
        self.records: list[int] = []

    def column(self, field: str, codec: str, extension: str) -> ColumnLog:
        """Return the log of a field's members of one extension."""
        log = self._columns.get((field, extension))
        if log is None:
            log = self._columns[field, extension] = ColumnLog(codec, extension)
        return log

    def columns(self) -> dict[str, ColumnLog]:
        """Return logs by column name: the field's, or ``field.extension`` where one field has several."""
        fields = [field for field, _ in self._columns]
        named = {
            (field if fields.count(field) == 1 else f"{field}.{extension}"): log
            for (field, extension), log in self._columns.items()
        }
        # Others call a sample's metadata "key.json"; here it is "key.metadata.json".
        if METADATA_FIELD not in named and "json" in named and named["json"].extension == "json":
            named[METADATA_FIELD] = named.pop("json")
        if METADATA_FIELD in named:
            named[METADATA_FIELD] = named.pop(METADATA_FIELD)  # last, wherever it came first
        return named

    def finish(self, end: int, specs: Mapping[str, ColumnSpec] | None = None, **facts: Any) -> ShardIndex:
        """Return the index; ``end`` is where records end, ``facts`` are name, sizes and fingerprint."""
        known = specs or {}
        n = len(self.keys)
        return ShardIndex(
            num_samples=n,
            packed_records=pack_ints([*self.records, end]),
            packed_keys=pack_strings(self.keys),
            digests=np.array(self.digests, np.uint64),
            columns={name: log.finish(name, n, known.get(name)) for name, log in self.columns().items()},
            **facts,
        )
