"""The shards of a data set: found without opening them where a manifest says it, looked at when first needed."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xxhash

from neurofm_shards._process import after_fork
from neurofm_shards._typing import Ints
from neurofm_shards._wording import counted, listed
from neurofm_shards.blocks import native_spec
from neurofm_shards.errors import FormatError, InputNotFoundError, IntegrityError, NoShardsError, SampleNotFoundError
from neurofm_shards.format.files import names_in
from neurofm_shards.format.index_io import load_index
from neurofm_shards.format.keys import METADATA_FIELD, key_hash
from neurofm_shards.format.manifest import MANIFEST_NAME, read_manifest
from neurofm_shards.format.packed_index import read_packed_index
from neurofm_shards.format.resolve import find_codec, find_compression
from neurofm_shards.format.shard_names import DEFAULT_SHARD_PATTERN
from neurofm_shards.format.unfinished import why_unfinished
from neurofm_shards.reading.address_space import AddressReader, AddressSpace
from neurofm_shards.reading.frames_cache import Identity, ShardFile, identity_of
from neurofm_shards.reading.given_paths import check_pattern, matches, pattern_in, refuse_pointer, refuse_url
from neurofm_shards.types import ColumnSpec
from neurofm_shards.values import starts_of

if TYPE_CHECKING:
    from neurofm_shards.format.index import ColumnIndex, ShardIndex
    from neurofm_shards.format.manifest import ColumnEntry, Manifest
    from neurofm_shards.format.packed_index import PackedIndex
    from neurofm_shards.plugins.interfaces import Codec, Compression

#: Endings of files that are still being written, or that lie beside shards.
_NOT_SHARDS = (".tmp", ".part", ".partial", ".incomplete", ".lock", ".idx", ".index", ".json", "~")


@dataclass(frozen=True)
class CatalogColumn:
    """One field of the data set.

    Attributes
    ----------
    spec : ColumnSpec
        As stored.
    everywhere : bool
        Whether every sample has it.
    codecs : tuple of str
        Names of the codecs that wrote it.
    """

    spec: ColumnSpec
    everywhere: bool
    codecs: tuple[str, ...]


#: Columns that a summary lists.
_LISTED = 8


def _form(spec: ColumnSpec) -> str:
    """Return shape and type of a column, as numpy writes them."""
    if spec.dtype is None or spec.shape is None:
        return "values" if spec.dtype is None else np.dtype(spec.dtype).name
    lengths = ", ".join("?" if length is None else str(length) for length in spec.shape)
    return f"({lengths}{',' if len(spec.shape) == 1 else ''}) {np.dtype(spec.dtype).name}"


@dataclass(frozen=True)
class Catalog:
    """The shards of a data set, in order.

    Attributes
    ----------
    folder : Path
        Where they lie.
    names : tuple of str
        File names.
    num_samples, file_bytes, tar_bytes : numpy.ndarray of int64, shape (shards,)
        Samples, size of the file, size of the decoded tar.
    checksums : tuple of str
        One per shard; a shard's identity.
    columns : mapping of str to CatalogColumn
        All fields but the metadata, in the order of the members.
    manifest : Manifest or None
        None for shards from elsewhere.
    indexes : mapping of int to ShardIndex
        Those that had to be read already.
    packed : PackedIndex or None
        Where the values of all shards are, where the data set has a packed index.
    """

    folder: Path
    names: tuple[str, ...]
    num_samples: Ints
    file_bytes: Ints
    tar_bytes: Ints
    checksums: tuple[str, ...]
    columns: Mapping[str, CatalogColumn]
    manifest: Manifest | None = None
    indexes: Mapping[int, ShardIndex] = field(default_factory=dict)
    packed: PackedIndex | None = None

    def summary(self) -> str:
        """Return a summary in one line: samples, shards, folder, columns."""
        columns = [f"{name} {_form(column.spec)}" for name, column in self.columns.items()]
        listed = ", ".join(columns[:_LISTED] + (["..."] if len(columns) > _LISTED else []))
        size = f"{counted(int(self.num_samples.sum()), 'sample')} in {counted(len(self.names), 'shard')}"
        return f"{size} of {self.folder}: {listed}"

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.folder.absolute())  # the working directory may change

    def compression(self, shard: int) -> Compression | None:
        """Return the compression of a shard; None for a plain tar, MissingPluginError where there is none."""
        manifest = self.manifest
        known = ("", "") if manifest is None else (manifest.compression, manifest.compression_distribution)
        return find_compression(self.names[shard], *known)

    def codec(self, column: str) -> str:
        """Return the name of a column's codec, as the manifest says; empty where it does not."""
        entry = self._entry(column)
        return "" if entry is None else entry.codec

    def distribution(self, column: str) -> str:
        """Return who provides a column's codec, as the manifest says; empty where it does not."""
        entry = self._entry(column)
        return "" if entry is None else entry.distribution

    def _entry(self, column: str) -> ColumnEntry | None:
        entries = () if self.manifest is None else self.manifest.columns
        return next((entry for entry in entries if entry.name == column), None)


#: Which files of a folder are shards: those that match, those of these names, or those that the manifest lists.
Pattern: TypeAlias = "str | tuple[str, ...] | None"


def read_catalog(
    shard_dir: Path | str, pattern: Pattern = None, num_shards: int | None = None, *, mapped: bool = True
) -> Catalog:
    """Find the shards of a folder.

    Parameters
    ----------
    shard_dir : path-like
        A folder, or one shard.
    pattern : str, tuple of str or None
        Names to take: those that match, or these very ones, whatever the manifest says. None: all that the
        manifest lists, or ``shard_*.tar*`` where there is none.
    num_shards : int or None
        Take the first so many only.

    Raises
    ------
    InputNotFoundError
        There is no such folder.
    NoShardsError
        No shard matches.
    FormatError
        The conversion was never finished, a listed shard is missing, or manifest or index is damaged.
    ConfigError
        It is a URL, or the pattern reaches into other folders.
    """
    refuse_url(shard_dir)
    path = Path(shard_dir)
    if isinstance(pattern, str):
        check_pattern(pattern)
    if pattern is None:
        path, pattern = pattern_in(path)
    if os.path.isfile(path):  # noqa: PTH113  (Path raises where a folder above may not be searched)
        return _from_indexes(path.parent, [path.name], mapped=mapped)
    if not os.path.isdir(path):  # noqa: PTH112
        raise InputNotFoundError(f"there is no folder {path}")
    if isinstance(pattern, tuple):
        return _from_indexes(path, pattern[:num_shards], mapped=mapped)
    refuse_pointer(path / MANIFEST_NAME)
    manifest = read_manifest(path)
    if manifest is not None:
        return _from_manifest(path, manifest, pattern, num_shards)
    unfinished = why_unfinished(path)
    if unfinished is not None:
        raise FormatError(unfinished)
    pattern = pattern or DEFAULT_SHARD_PATTERN
    names = sorted(name for name in names_in(path) if matches(name, pattern) and _is_shard(name))
    if not names:
        raise NoShardsError(f"No shards found in {path} matching {pattern}{_hint(path)}")
    return _from_indexes(path, names[:num_shards], mapped=mapped)


def _hint(folder: Path) -> str:
    """Return a hint at files in a folder without shards that look like shards."""
    names = names_in(folder)
    if any(name.endswith(".tgz") for name in names):
        return "; it has .tgz files, which are known as .tar.gz: rename them"
    below = sorted(name for name in names if not name.startswith(".") and any((folder / name).glob("*.tar*")))
    return (
        f"; there are some in {', '.join(below[:3])}: give one of these folders, or all to mix([...])" if below else ""
    )


def _is_shard(name: str) -> bool:
    return not name.startswith((".", "_")) and not name.endswith(_NOT_SHARDS)


def _from_manifest(folder: Path, manifest: Manifest, pattern: str | None, num_shards: int | None) -> Catalog:
    names = [shard.shard_name for shard in manifest.shards]
    numbers = [k for k, name in enumerate(names) if pattern is None or matches(name, pattern)][:num_shards]
    if not numbers:
        raise NoShardsError(f"No shards found in {folder} matching {pattern or DEFAULT_SHARD_PATTERN}")
    shards = [manifest.shards[k] for k in numbers]
    there = set(names_in(folder))
    missing = [shard.shard_name for shard in shards if shard.shard_name not in there]
    if missing:
        raise FormatError(
            f"{folder}: {MANIFEST_NAME} lists shards that are not there: {listed(missing, 3)}. Bring them "
            "back, or run `neurofm-shards repair`"
        )
    packed = read_packed_index(folder, manifest)
    columns = {
        column.name: CatalogColumn(column.spec, not column.optional, (column.codec,))
        for column in manifest.columns
        if column.name != METADATA_FIELD
    }
    return Catalog(
        folder=folder,
        names=tuple(shard.shard_name for shard in shards),
        num_samples=np.array([shard.num_samples for shard in shards], np.int64),
        file_bytes=np.array([shard.shard_bytes for shard in shards], np.int64),
        tar_bytes=np.array([shard.tar_bytes for shard in shards], np.int64),
        checksums=tuple(shard.checksum for shard in shards),
        columns=columns,
        manifest=manifest,
        packed=None if packed is None else packed.take(numbers),
    )


def _from_indexes(folder: Path, names: Sequence[str], *, mapped: bool) -> Catalog:
    """Describe shards from elsewhere: each index is read, or made and kept, now."""
    for name in names:
        refuse_pointer(folder / name)
    indexes = [load_index(folder / name, mapped=mapped) for name in names]
    return Catalog(
        folder=folder,
        names=tuple(names),
        num_samples=np.array([index.num_samples for index in indexes], np.int64),
        file_bytes=np.array([index.shard_bytes for index in indexes], np.int64),
        tar_bytes=np.array([index.tar_bytes for index in indexes], np.int64),
        checksums=tuple(index.checksum for index in indexes),
        columns=_merged_columns(indexes),
        indexes=dict(enumerate(indexes)),
    )


def _merged_columns(indexes: Sequence[ShardIndex]) -> dict[str, CatalogColumn]:
    names = dict.fromkeys(name for index in indexes for name in index.columns if name != METADATA_FIELD)
    return {name: _merged_column(name, [index for index in indexes if index.num_samples]) for name in names}


def _merged_column(name: str, indexes: Sequence[ShardIndex]) -> CatalogColumn:
    found = [index.columns[name] for index in indexes if name in index.columns]
    specs = [native_spec(column.spec) for column in found] or [ColumnSpec(name, None, None)]
    spec = reduce(ColumnSpec.merge, specs)
    everywhere = len(found) == len(indexes) and all(column.packed_offsets.bounds()[0] >= 0 for column in found)
    return CatalogColumn(ColumnSpec(name, spec.dtype, spec.shape), everywhere, tuple(sorted({c.codec for c in found})))


class ShardTable:
    """Indexes of shards, and their places in the space; thread-safe and fork-safe.

    Parameters
    ----------
    catalog : Catalog
        What is known without opening shards.
    space : AddressSpace
        Where their bytes are read.

    Attributes
    ----------
    starts : numpy.ndarray of int64, shape (shards + 1,)
        First row of each shard, and the number of rows.
    """

    def __init__(self, catalog: Catalog, space: AddressSpace) -> None:
        self.catalog = catalog
        self._identities: dict[int, Identity] = {}
        self.starts: Ints = starts_of(catalog.num_samples)
        self._space = space
        self._indexes: dict[int, ShardIndex] = dict(catalog.indexes)
        self._packed = catalog.packed
        self._folder = str(catalog.folder)
        self._attached: dict[int, bool] = {}  # whether by the packed index
        self._lock = threading.Lock()
        after_fork(self._renew_lock)

    def shards_of(self, rows: Ints) -> Ints:
        """Return the shard of each row."""
        return np.searchsorted(self.starts, rows, side="right").astype(np.int64) - 1

    def locate(self, row: int) -> tuple[int, int]:
        """Return the shard of a row, and its place there."""
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        return shard, row - int(self.starts[shard])

    def index(self, shard: int) -> ShardIndex:
        """Return a shard's index, read when first asked for.

        Raises
        ------
        InputNotFoundError
            The shard is gone.
        FormatError
            The shard is damaged, or not the one that the manifest lists.
        """
        index = self._indexes.get(shard)
        if index is None:
            name = self.catalog.names[shard]
            self.catalog.compression(shard)  # where it is missing, the manifest knows who has it
            path = self.catalog.folder / name
            self._identities[shard] = identity_of(path)  # first: what takes its place meanwhile is noticed
            try:
                index = load_index(path, self.catalog.checksums[shard], mapped=self._space.maps_files)
            except (FormatError, InputNotFoundError):
                refuse_pointer(path)  # which says more
                raise
            self._check(shard, index)
            self._indexes[shard] = index
        return index

    def attach(self, shard: int) -> None:
        """Make a shard readable in the space, by the packed index where that knows it, else by its own."""
        if shard not in self._attached:
            with self._lock:
                if shard not in self._attached:
                    by_pack = self._attach_by_pack(shard)
                    if not by_pack:
                        self._space.attach(shard, self._indexed_file(shard))
                    self._attached[shard] = by_pack

    def _attach_by_pack(self, shard: int) -> bool:
        """Make a shard readable that is what the packed index was made of; return False for any other."""
        packed, catalog = self._packed, self.catalog
        if packed is None or shard in self._indexes:
            return False
        path, sizes = (
            f"{self._folder}/{catalog.names[shard]}",
            (int(catalog.file_bytes[shard]), int(catalog.tar_bytes[shard])),
        )
        try:
            self._space.attach(shard, ShardFile(path, *sizes, packed.fingerprint(shard), catalog.checksums[shard]))
        except (FormatError, InputNotFoundError):
            return False  # its own index is asked, whose reader says what is wrong
        return True

    def _indexed_file(self, shard: int) -> ShardFile:
        index = self.index(shard)
        path, decoder = self.catalog.folder / self.catalog.names[shard], self.catalog.compression(shard)
        if decoder is None and (index.tar_bytes != index.shard_bytes or index.frames is not None):
            raise FormatError(f"{path}: its index takes a plain tar for a compressed one; delete the index")
        facts = (index.shard_bytes, index.tar_bytes, index.fingerprint, index.checksum)
        return ShardFile(path, *facts, decoder, index.frames, self._identities.get(shard))

    def attached(self, rows: Ints, column: str) -> Iterator[tuple[Ints | slice, Ints | int, ColumnIndex | None]]:
        """Attach the shards of these rows; yield which rows they have, where they begin, and one column of theirs."""
        shards = sorted(set(self.shards_of(rows).tolist()))  # np.unique imports, which a fork beside it makes hang
        for shard in shards:
            self.attach(shard)
        by_pack = [shard for shard in shards if self._attached[shard]]
        packed = self._packed_columns(by_pack, column)
        by_own = [shard for shard in shards if packed is None or not self._attached[shard]]
        for owners, places, index in packed or ():
            yield self.starts[owners] + places, self._space.bases[owners], index
        for shard in by_own:
            start, found = int(self.starts[shard]), self.index(shard)
            yield slice(start, start + found.num_samples), int(self._space.bases[shard]), found.columns.get(column)

    def _packed_columns(self, shards: list[int], column: str) -> list[tuple[Ints, Ints, ColumnIndex | None]] | None:
        """Return a column of the shards that were attached by the packed index; None where that is damaged."""
        if self._packed is None or not shards:
            return []
        try:
            return list(self._packed.indexes(np.array(shards, np.int64), column))
        except FormatError:
            return None  # the shards' own indexes are there

    def _codec(self, shard: int, column: str) -> str:
        """Return the name of a column's codec in one shard."""
        if self._packed is not None and self._attached.get(shard):
            return self._packed.codec(shard, column)
        return self.index(shard).columns[column].codec

    def bytes_of(self, reader: AddressReader, shard: int, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Return decoded bytes of a shard's tar, to be used before the reader ends."""
        self.attach(shard)
        at, size = np.array([start + int(self._space.bases[shard])]), np.array([stop - start])
        reader.need(at, size)
        return reader.slices(at, size)[0]

    def check_records(self, reader: AddressReader, rows: Ints) -> None:
        """Compare the checksum of each row's whole record (raises IntegrityError)."""
        for row in dict.fromkeys(rows.tolist()):
            shard, local = self.locate(row)
            index = self.index(shard)
            record = self.bytes_of(reader, shard, index.packed_records.at(local), index.packed_records.at(local + 1))
            if xxhash.xxh3_64_intdigest(record.data) != int(index.digests[local]):
                raise IntegrityError(
                    f"sample {self.describe(row)}: its checksum does not match, the shard is "
                    'damaged; restore it, run `neurofm-shards repair`, or load with on_error="skip"'
                )

    def key(self, row: int) -> str:
        """Return the key of a row."""
        shard, local = self.locate(row)
        return self.index(shard).packed_keys.at(local)

    def describe(self, row: int) -> str:
        """Return key, shard and folder of a row, for messages."""
        shard, local = self.locate(row)
        return f"{self.index(shard).packed_keys.at(local)!r} of {self.catalog.folder / self.catalog.names[shard]}"

    def decode(self, column: str, rows: Ints, payloads: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Any]:
        """Decode payloads of one column; those of an unknown codec are given as bytes, where no manifest names it.

        Raises
        ------
        MissingPluginError
            The codec that the manifest names is not installed.
        FormatError
            A payload is damaged or hostile; names shard, key and column.
        """
        codecs: dict[str, Codec | None] = {}
        for row, shard, payload in zip(rows.tolist(), self.shards_of(rows).tolist(), payloads, strict=True):
            name = self._codec(shard, column) or self.catalog.codec(column)
            if name not in codecs:
                codecs[name] = find_codec(name, column, self.catalog.distribution(column))
            codec = codecs[name]
            if codec is None:
                yield payload.tobytes()
                continue
            try:
                # a copy: what a codec keeps of it stays what it is when its place is used for something else
                yield codec.decode(memoryview(payload.tobytes()))
            except FormatError as error:
                raise type(error)(f"sample {self.describe(row)}, column {column!r}: {error}") from error

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def _check(self, shard: int, index: ShardIndex) -> None:
        """Refuse a shard that is not the one the manifest lists."""
        catalog = self.catalog
        expected = (int(catalog.num_samples[shard]), int(catalog.tar_bytes[shard]), catalog.checksums[shard])
        if (index.num_samples, index.tar_bytes, index.checksum) != expected:
            raise FormatError(
                f"{catalog.folder / catalog.names[shard]}: not the shard that the manifest lists ({index.num_samples} "
                f"samples in {index.tar_bytes} bytes with checksum {index.checksum}, expected {expected[0]} in "
                f"{expected[1]} with {expected[2]}); restore it, or run `neurofm-shards repair`"
            )


_NUMBER = re.compile(r"(\d{1,18})$")


class KeyLookup:
    """Finds keys: automatic ones by their number, others in a sorted table of hashes that is made when first needed."""

    def __init__(self) -> None:
        self._table: tuple[npt.NDArray[np.uint64], Ints] | None = None

    def find(self, shards: ShardTable, key: str) -> int:
        """Return the first row with this key; SampleNotFoundError when there is none."""
        num_samples = int(shards.starts[-1])
        guess = _guess(key, num_samples)
        if guess is not None and shards.key(guess) == key:
            return guess
        if self._table is None:
            self._table = _hashes(shards)
        hashes, rows = self._table
        low, high = (int(np.searchsorted(hashes, np.uint64(key_hash(key)), side)) for side in ("left", "right"))
        for row in rows[low:high].tolist():
            if shards.key(row) == key:
                return int(row)
        example = repr(shards.key(0)) if num_samples else "nothing: there are no samples"
        raise SampleNotFoundError(f"no sample has the key {key!r}; keys look like {example}")


def _guess(key: str, num_samples: int) -> int | None:
    """Return the row that an automatic key, counted from 1 without gaps, would have."""
    match = _NUMBER.search(key)
    row = int(match[1]) - 1 if match else -1
    return row if 0 <= row < num_samples else None


def _hashes(shards: ShardTable) -> tuple[npt.NDArray[np.uint64], Ints]:
    every = chain.from_iterable(shards.index(shard).keys() for shard in range(len(shards.catalog.names)))
    hashes = np.fromiter(map(key_hash, every), np.uint64, int(shards.starts[-1]))
    rows = np.argsort(hashes, kind="stable")
    return hashes[rows], rows
