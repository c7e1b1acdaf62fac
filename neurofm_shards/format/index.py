"""The index of a shard: where every sample and value is; collected while a shard is written or read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.format.sidecar import PackedInts, pack_ints, pack_strings
from neurofm_shards.types import ArrayLayout, Buffer, ColumnSpec, Shape, merge_shapes

if TYPE_CHECKING:
    from neurofm_shards._typing import Ints
    from neurofm_shards.compression.frames import FrameTable
    from neurofm_shards.format.sidecar import PackedStrings

Digests = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class ColumnIndex:
    """Where the values of one field are, in bytes of the decompressed tar.

    Attributes
    ----------
    spec : ColumnSpec
        Name, dtype and shape (None parts where they differ between samples).
    codec : str
        Name of the codec; empty for a foreign extension, whose payloads are handed out as bytes.
    extension : str
        Last part of the members' names.
    packed_offsets, packed_sizes : PackedInts of length n
        Payloads; -1 and 0 where a sample lacks the field.
    packed_data : PackedInts of length n, or None
        First data byte of arrays with a plain layout; -1 where a single sample has none. None when none has one, or
        when dtype or number of dimensions differ: such columns are decoded.
    packed_shape : tuple of PackedInts of length n, or None
        Length of each axis, for arrays whose shape differs between samples.
    """

    spec: ColumnSpec
    codec: str
    extension: str
    packed_offsets: PackedInts
    packed_sizes: PackedInts
    packed_data: PackedInts | None = None
    packed_shape: tuple[PackedInts, ...] | None = None

    def place(self, row: int) -> ArrayLayout | None:
        """Return where one sample's array lies in the tar, rows first; None where it has to be decoded."""
        if self.packed_data is None or self.spec.dtype is None or not self.spec.shape or self.packed_data.at(row) < 0:
            return None
        axes = self.spec.shape if self.packed_shape is None else [axis.at(row) for axis in self.packed_shape]
        return ArrayLayout(self.spec.dtype, tuple(int(n or 0) for n in axes), self.packed_data.at(row))

    @property
    def payload_offsets(self) -> Ints:
        """First byte of each payload, shape (n,); a new array at each access, -1 where there is none."""
        return self.packed_offsets.array()

    @property
    def payload_sizes(self) -> Ints:
        """Bytes of each payload, shape (n,); a new array at each access."""
        return self.packed_sizes.array()

    @property
    def data_offsets(self) -> Ints | None:
        """First data byte of each array, shape (n,), -1 where there is none; None when the column must be decoded."""
        return None if self.packed_data is None else self.packed_data.array()

    @property
    def shapes(self) -> Ints | None:
        """Shape of each array, (n, ndim), where shapes differ; None where they are constant or unknown."""
        if self.packed_shape is None:
            return None
        axes = [axis.array() for axis in self.packed_shape]
        return np.stack(axes, axis=1) if axes else np.empty((self.packed_offsets.length, 0), np.int64)


@dataclass(frozen=True)
class ShardIndex:
    """Where every sample of a shard is.

    Attributes
    ----------
    shard_name : str
        File name.
    shard_bytes, tar_bytes : int
        Size of the file, and of the tar once decompressed.
    num_samples : int
        Number of samples, n.
    fingerprint : str
        Changes when the file's content changes; see :func:`~neurofm_shards.format.index_io.shard_fingerprint`.
    packed_records : PackedInts of length n + 1
        Where each sample's record begins in the tar; the last one is where they end.
    packed_keys : PackedStrings of length n
        The samples' keys.
    digests : numpy.ndarray of uint64, shape (n,)
        xxh3_64 of each record: first header to last padding.
    columns : mapping of str to ColumnIndex
        In the order of the members; the metadata is a column called ``metadata``.
    frames : FrameTable or None
        Frames of a compressed shard that can be read at random.
    """

    shard_name: str
    shard_bytes: int
    tar_bytes: int
    num_samples: int
    fingerprint: str
    packed_records: PackedInts
    packed_keys: PackedStrings
    digests: Digests
    columns: Mapping[str, ColumnIndex]
    frames: FrameTable | None = None

    @property
    def record_offsets(self) -> Ints:
        """Where each record begins, and where the last one ends; shape (n + 1,), a new array at each access."""
        return self.packed_records.array()

    @property
    def checksum(self) -> str:
        """The shard's checksum; see :func:`shard_checksum`."""
        return shard_checksum(self.digests, self.tar_bytes - self.packed_records.at(self.num_samples))

    def keys(self) -> list[str]:
        """Return the samples' keys, in order."""
        return self.packed_keys.texts()


def shard_checksum(digests: Digests, tail_bytes: int) -> str:
    """Return xxh3_128 of all samples' digests and of the zeros behind the last sample, in hexadecimal.

    Hashing the digests instead of the bytes once more makes one pass over the data enough.
    """
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(digests, "<u8").tobytes() + bytes(tail_bytes))


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
        shapes: list[Shape] = [form[1] for form in forms if form is not None]
        # A value without a plain form may turn out to have any shape once it is decoded.
        uniform = len(shapes) == len(forms) and len({form[0] for form in forms if form is not None}) == 1
        ranks = {len(shape) for shape in shapes}
        dtype = next(form[0] for form in forms if form is not None) if uniform else None
        shape = _common(shapes) if uniform and len(ranks) == 1 else None
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


def _common(shapes: Sequence[Shape]) -> Shape | None:
    common: Shape | None = shapes[0]
    for shape in shapes[1:]:
        common = merge_shapes(common, shape)
    return common


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
