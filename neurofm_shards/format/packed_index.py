"""One packed index per data set: where the values of all its shards are, so that each is opened without its own index.

It is made of the shards' indexes when a manifest is committed, where shards are many and small, and it can be deleted.
A reader takes it only for the very shards of its manifest, and each shard only with the fingerprint that stands there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash

from neurofm_shards._typing import AnyArray, Ints
from neurofm_shards.errors import FormatError, InputNotFoundError
from neurofm_shards.format.files import SIDECAR_DIR, Folder
from neurofm_shards.format.index import ColumnIndex
from neurofm_shards.format.index_io import stored_dtype, stored_text
from neurofm_shards.format.manifest import Manifest, ShardEntry, write_manifest
from neurofm_shards.format.resolve import find_compression
from neurofm_shards.format.sidecar import (
    INDEX_SUFFIX,
    Arrays,
    PackedInts,
    load_ints,
    pack_ints,
    read_arrays,
    store_ints,
    write_arrays,
)
from neurofm_shards.types import ColumnSpec
from neurofm_shards.values import starts_of

PACK_NAME = "shards.pack"
PACK_VERSION = 1
#: A data set is packed from so many shards on, of at most so many samples on average: elsewhere it saves too little.
LEAST_SHARDS = 256
MOST_SAMPLES = 64
#: Kinds of columns that shards of one data set may have, each with arrays of its own.
_MOST_FORMS = 64
_LIMIT = 1 << 62


@dataclass(frozen=True)
class ShardInts:
    """Integers of many shards: in each of them ``start + step * i``, or a stretch of ``values``.

    Attributes
    ----------
    starts, steps : numpy.ndarray of int64, shape (shards,)
        The progressions.
    firsts : numpy.ndarray of int64, shape (shards,)
        Where a shard's numbers begin in ``values``; -1 where they are a progression.
    values : numpy.ndarray
        Numbers that form no progression.
    """

    starts: Ints
    steps: Ints
    firsts: Ints
    values: AnyArray

    def of(self, shards: Ints, places: Ints) -> Ints:
        """Return one number per row: that at ``places`` of ``shards``, both of shape (rows,)."""
        found: Ints = self.starts[shards] + self.steps[shards] * places
        firsts = self.firsts[shards]
        stored = firsts >= 0
        if stored.any():
            found[stored] = self.values[firsts[stored] + places[stored]]
        return found


@dataclass(frozen=True)
class PackedColumn:
    """Where the values of one field are in many shards; the parts are those of a ``ColumnIndex``."""

    spec: ColumnSpec
    codec: str
    extension: str
    offsets: ShardInts
    sizes: ShardInts
    data: ShardInts | None
    axes: tuple[ShardInts, ...] | None

    def index(self, shards: Ints, places: Ints, tar_bytes: Ints) -> ColumnIndex:
        """Return the index of rows of several shards, ``tar_bytes`` being how far each one's shard reaches.

        Raises
        ------
        FormatError
            A value would lie outside its shard.
        """
        offsets, sizes = self.offsets.of(shards, places), self.sizes.of(shards, places)
        _check_inside(offsets, sizes, tar_bytes)
        axes = None if self.axes is None else [axis.of(shards, places) for axis in self.axes]
        data = None if self.data is None else self.data.of(shards, places)
        if data is not None and self.spec.dtype is not None:
            nbytes = np.full(len(data), np.dtype(self.spec.dtype).itemsize, np.float64)
            for axis in axes or ():
                nbytes *= axis
            _check_inside(data, nbytes, tar_bytes)
        shape = None if axes is None else tuple(_constant(axis, offsets) for axis in axes)
        spec = ColumnSpec(self.spec.name, self.spec.dtype, shape, self.spec.unit, self.spec.table)
        packed = [_packed(axis) for axis in axes or ()]
        return ColumnIndex(
            spec, self.codec, self.extension, _packed(offsets), _packed(sizes), None if data is None else _packed(data),
            tuple(packed) if shape is not None and None in shape else None,
        )  # fmt: skip


def _packed(values: Ints) -> PackedInts:
    return PackedInts(len(values), values=values)


def _check_inside(starts: Ints, sizes: AnyArray, limits: Ints) -> None:
    if ((starts < -1) | (sizes < 0) | (starts > limits) | (sizes > limits - starts)).any():
        raise FormatError("its values leave their shards")


def _constant(lengths: Ints, offsets: Ints) -> int | None:
    """Return the length that all rows have which have the field; None where it differs."""
    there = lengths[offsets >= 0]
    return int(there[0]) if len(there) and (there == there[0]).all() else None


@dataclass(frozen=True)
class PackedIndex:
    """Where the values of all shards of a data set are.

    Attributes
    ----------
    fingerprints : numpy.ndarray of uint64, shape (shards,)
        See :func:`~neurofm_shards.format.index_io.shard_fingerprint`.
    num_samples, tar_bytes : numpy.ndarray of int64, shape (shards,)
        Of each shard, as the manifest says.
    forms : numpy.ndarray of int64, shape (shards,)
        Which of ``columns`` a shard has.
    places : numpy.ndarray of int64, shape (shards,)
        Its number among the shards of that form.
    columns : tuple of mapping of str to PackedColumn
        One mapping per form.
    """

    fingerprints: AnyArray
    num_samples: Ints
    tar_bytes: Ints
    forms: Ints
    places: Ints
    columns: tuple[Mapping[str, PackedColumn], ...]

    def take(self, shards: Sequence[int]) -> PackedIndex:
        """Return the packed index of some of the shards, in this order."""
        some = np.asarray(shards, np.int64)
        return PackedIndex(
            self.fingerprints[some],
            self.num_samples[some],
            self.tar_bytes[some],
            self.forms[some],
            self.places[some],
            self.columns,
        )

    def fingerprint(self, shard: int) -> str:
        """Return the fingerprint that a shard must have."""
        return f"{int(self.fingerprints[shard]):016x}"

    def codec(self, shard: int, column: str) -> str:
        """Return the name of the codec of a shard's column."""
        return self.columns[int(self.forms[shard])][column].codec

    def indexes(self, shards: Ints, column: str) -> Iterator[tuple[Ints, Ints, ColumnIndex | None]]:
        """Yield, for the shards of each form: each row's shard, its place there, and the index of one column of them.

        Raises
        ------
        FormatError
            A value would lie outside its shard.
        """
        for form in sorted(set(self.forms[shards].tolist())):
            here = shards[self.forms[shards] == form]
            counts = self.num_samples[here]
            owners = np.repeat(here, counts)
            rows = np.arange(len(owners)) - np.repeat(starts_of(counts)[:-1], counts)
            found = self.columns[form].get(column)
            index = None if found is None else found.index(self.places[owners], rows, self.tar_bytes[owners])
            yield owners, rows, index


def commit_manifest(
    folder: Path, manifest: Manifest, *, beside: Path | None = None, durable: bool = False, mode: int | None = None
) -> None:
    """Write a data set's packed index, where it is worth one, and then its manifest.

    Parameters
    ----------
    folder : Path
        Where to; shards that are new lie here.
    manifest : Manifest
        The data set.
    beside : Path, optional
        Where shards lie that stay as they are.
    durable : bool
        Whether files and folders are synced.
    mode : int, optional
        Permission bits; by default those of the files that are replaced.
    """
    write_packed_index(folder, manifest, beside=beside, durable=durable, mode=mode)
    write_manifest(folder, manifest, durable=durable, mode=mode)


def write_packed_index(
    folder: Path, manifest: Manifest, *, beside: Path | None = None, durable: bool = False, mode: int | None = None
) -> None:
    """Write a data set's packed index, or delete it where it is worth none; see :func:`commit_manifest`."""
    sidecars = folder / SIDECAR_DIR
    folders = [folder] if beside is None else [folder, beside]
    packed = _packed_from(folders, manifest) if is_worth_packing(manifest) else None
    if packed is not None:
        Folder.open(sidecars, create=True).close()
        write_arrays(sidecars / PACK_NAME, *packed, durable, mode)
    elif sidecars.is_dir():
        with Folder.open(sidecars) as opened:
            opened.remove(PACK_NAME)


def is_worth_packing(manifest: Manifest) -> bool:
    """Return whether shards are plain, and so many and small that a packed index saves much for little."""
    plain = all(find_compression(entry.shard_name) is None for entry in manifest.shards)
    few = manifest.total_samples <= MOST_SAMPLES * manifest.total_shards
    return manifest.total_shards >= LEAST_SHARDS and few and plain


def _identity(shards: Sequence[ShardEntry]) -> str:
    facts = [[s.shard_name, s.num_samples, s.shard_bytes, s.tar_bytes, s.checksum] for s in shards]
    return xxhash.xxh3_128_hexdigest(orjson.dumps(facts))


@dataclass
class _Log:
    """Integers of shards, one shard after another."""

    starts: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    values: list[AnyArray] = field(default_factory=list)
    length: int = 0

    def add(self, stored: Any, arrays: Arrays) -> None:
        """Note what a shard's index holds: a progression, or the name of an array."""
        if isinstance(stored, str):
            array = arrays[stored]
            start, step, first = 0, 0, self.length
            self.values.append(array)
            self.length += len(array)
        else:
            (start, step), first = stored, -1
        self.starts.append(start)
        self.steps.append(step)
        self.firsts.append(first)

    def store(self, name: str, arrays: Arrays) -> list[Any]:
        """Return the part for the header; arrays go into ``arrays``."""
        lists = [self.starts, self.steps, self.firsts, np.concatenate(self.values) if self.values else []]
        return [
            store_ints(pack_ints(values), f"{name}.{part}", arrays)
            for part, values in zip(("starts", "steps", "firsts", "values"), lists, strict=True)
        ] + [self.length]


@dataclass
class _FormLog:
    """Shards whose columns are of one kind."""

    number: int
    columns: list[list[Any]]
    logs: dict[tuple[int, str], _Log] = field(default_factory=dict)
    shards: int = 0

    def add(self, columns: list[Any], arrays: Arrays) -> None:
        """Note the columns of one more shard, as they stand in its index."""
        self.shards += 1
        for number, ((_, _, shape, _, _), _, _, offsets, sizes, data, axes) in enumerate(columns):
            parts = {"offsets": offsets, "sizes": sizes}
            if data is not None:
                parts["data"] = data
            lengths = axes if axes is not None else [[length, 0] for length in shape or ()]
            parts.update({f"axis{k}": length for k, length in enumerate(lengths)})
            for part, stored in parts.items():
                self.logs.setdefault((number, part), _Log()).add(stored, arrays)

    def store(self, arrays: Arrays) -> list[Any]:
        """Return the part for the header; arrays go into ``arrays``."""
        stored: list[Any] = [[*column, {}] for column in self.columns]
        for (number, part), log in self.logs.items():
            stored[number][-1][part] = log.store(f"{self.number}.{number}.{part}", arrays)
        return [self.shards, stored]


def _kind(column: list[Any]) -> list[Any]:
    (name, dtype, shape, unit, table), codec, extension, _, _, data, _ = column
    return [name, dtype, None if shape is None else len(shape), unit, table, codec, extension, data is not None]


def _packed_from(folders: Sequence[Path], manifest: Manifest) -> tuple[dict[str, Any], Arrays] | None:
    """Return the packed index of a data set; None where an index is missing or damaged, or forms are too many."""
    forms: dict[bytes, _FormLog] = {}
    fingerprints, numbers = [], []
    try:
        for entry in manifest.shards:
            columns, arrays, fingerprint = _index_of(folders, entry)
            kinds = [_kind(column) for column in columns]
            form = forms.setdefault(orjson.dumps(kinds), _FormLog(len(forms), kinds))
            form.add(columns, arrays)
            fingerprints.append(int(fingerprint, 16))
            numbers.append(form.number)
    except (InputNotFoundError, FormatError, KeyError, TypeError, ValueError):
        return None  # readers fall back to the shards' own indexes, and say what is wrong
    if len(forms) > _MOST_FORMS:
        return None
    packed: Arrays = {"fingerprints": np.array(fingerprints, np.uint64)}
    header = {
        "kind": "pack",
        "version": PACK_VERSION,
        "data_set": _identity(manifest.shards),
        "forms": store_ints(pack_ints(numbers), "forms", packed),
        "columns": [form.store(packed) for form in forms.values()],
    }
    return header, packed


def _index_of(folders: Sequence[Path], entry: ShardEntry) -> tuple[list[Any], Arrays, str]:
    """Return columns, arrays and fingerprint of a shard's own index, unchecked but for belonging to the manifest."""
    paths = [Path(f"{folder}/{SIDECAR_DIR}/{entry.shard_name}{INDEX_SUFFIX}") for folder in folders]
    path = next((path for path in paths[:-1] if path.exists()), paths[-1])
    header, arrays = read_arrays(path)
    *facts, fingerprint = header["shard"]
    if facts != [entry.shard_name, entry.shard_bytes, entry.tar_bytes, entry.num_samples]:
        raise FormatError(f"{path.name} belongs to another shard")
    return header["columns"], arrays, fingerprint


def read_packed_index(folder: Path, manifest: Manifest) -> PackedIndex | None:
    """Return the packed index of a data set; None where there is none that belongs to this manifest."""
    try:
        return parse_packed_index(folder / SIDECAR_DIR / PACK_NAME, manifest)
    except (FormatError, InputNotFoundError, NotADirectoryError, PermissionError):
        return None  # absent or of other shards: the shards' own indexes are there


def parse_packed_index(path: Path, manifest: Manifest) -> PackedIndex:
    """Read a packed index and check that it belongs to the shards of a manifest.

    Raises
    ------
    InputNotFoundError
        There is none.
    FormatError
        It is damaged, hostile, of another version, or of other shards.
    """
    header, arrays = read_arrays(path)
    count = len(manifest.shards)
    match header:
        case {"kind": "pack", "version": 1, "data_set": str(identity), "forms": forms, "columns": [*columns]} if (
            len(columns) <= _MOST_FORMS
        ):
            pass
        case _:
            raise FormatError(f"{path.name} is not a packed index of this version")
    fingerprints = arrays.get("fingerprints")
    if fingerprints is None or fingerprints.shape != (count,) or fingerprints.dtype.str != "<u8":
        raise FormatError(f"{path.name}: its fingerprints are missing")
    if identity != _identity(manifest.shards):
        raise FormatError(f"{path.name} belongs to other shards than the manifest lists")
    num_samples = np.array([entry.num_samples for entry in manifest.shards], np.int64)
    tar_bytes = np.array([entry.tar_bytes for entry in manifest.shards], np.int64)
    numbers = load_ints(forms, count, arrays).array()
    places = np.zeros(count, np.int64)
    parsed = []
    for number, stored in enumerate(columns):
        here = numbers == number
        places[here] = np.arange(int(here.sum()))
        parsed.append(_parse_form(stored, num_samples[here], arrays))
    if count and not 0 <= numbers.min() <= numbers.max() < len(columns):
        raise FormatError(f"{path.name}: it has no columns for some of its shards")
    return PackedIndex(fingerprints, num_samples, tar_bytes, numbers, places, tuple(parsed))


def _parse_form(stored: object, num_samples: Ints, arrays: Arrays) -> dict[str, PackedColumn]:
    match stored:
        case [int(count), [*columns]] if count == len(num_samples):
            parsed = [_parse_column(column, num_samples, arrays) for column in columns]
            by_name = {column.spec.name: column for column in parsed}
            if len(by_name) == len(parsed):
                return by_name
    raise FormatError("a packed index's columns are damaged")


def _parse_column(stored: object, num_samples: Ints, arrays: Arrays) -> PackedColumn:
    match stored:
        case [str(name), dtype, ndim, unit, table, str(codec), str(extension), bool(plain), dict(parts)]:
            pass
        case _:
            raise FormatError(f"a packed index's column {stored!r:.60} is damaged")
    if not isinstance(ndim, int | None) or (ndim is not None and not 0 <= ndim <= 64):
        raise FormatError(f"a packed index's column {name!r} has an impossible shape")
    if plain and (dtype is None or ndim is None):
        raise FormatError(f"a packed index's column {name!r} contradicts itself")

    def part(key: str) -> ShardInts:
        return _parse_ints(parts.get(key), num_samples, arrays)

    return PackedColumn(
        ColumnSpec(name, stored_dtype(dtype), None, stored_text(unit), stored_text(table)), codec, extension,
        part("offsets"), part("sizes"), part("data") if plain else None,
        None if ndim is None else tuple(part(f"axis{k}") for k in range(ndim)),
    )  # fmt: skip


def _parse_ints(stored: object, num_samples: Ints, arrays: Arrays) -> ShardInts:
    count = len(num_samples)
    match stored:
        case [starts, steps, firsts, values, int(length)] if 0 <= length <= num_samples.sum():
            found = [load_ints(part, count, arrays).array() for part in (starts, steps, firsts)]
            many = load_ints(values, length, arrays)
        case _:
            raise FormatError(f"a packed index's column of integers is damaged: {stored!r:.60}")
    last = np.abs(found[0].astype(np.float64)) + np.abs(found[1].astype(np.float64)) * (num_samples + 1)
    inside = (found[2] == -1) | ((found[2] >= 0) & (found[2] <= length - num_samples))
    if (last >= _LIMIT).any() or not inside.all():
        raise FormatError("a packed index's column of integers leaves its array")
    return ShardInts(found[0], found[1], found[2], many.array() if many.values is None else many.values)
