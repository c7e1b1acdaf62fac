"""A data set of shards for reading: any rows of any columns, by number or by key, as fast as memory allows."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import xxhash

from neurofm_shards._typing import Ints
from neurofm_shards.blocks import MISSING, native_spec
from neurofm_shards.errors import ConfigError, FormatError
from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.format.manifest import side_table
from neurofm_shards.format.metadata_table import MetadataTable, load_table
from neurofm_shards.reading.address_space import IO, AddressReader, open_address_space
from neurofm_shards.reading.buffers import BufferPool
from neurofm_shards.reading.catalog import Catalog, KeyLookup, Pattern, ShardTable, read_catalog
from neurofm_shards.reading.columns import Column, ColumnRequest, ListColumn, gather_at_once, make_column
from neurofm_shards.reading.samples import SampleCollection, reopened
from neurofm_shards.types import ColumnSpec, Metadata, Ragged
from neurofm_shards.values import native

if TYPE_CHECKING:
    from neurofm_shards.format.index import ShardIndex


class Selection(NamedTuple):
    """Rows of some columns; made by ``ShardCollection.select``, read by ``ShardCollection.read``.

    Finding values costs about as much for a thousand rows as for one, and stays true as long as the data set is open.
    So what several batches need is found in one go, and each is read by itself, into memory of its own.

    Attributes
    ----------
    rows : numpy.ndarray of int64, shape (n,)
        The rows.
    columns : tuple of Column
        The columns.
    addresses : tuple of numpy.ndarray of int64, shape (n,)
        Where each column's values lie; all of them known.
    """

    rows: Ints
    columns: tuple[Column, ...]
    addresses: tuple[Ints, ...]

    def cut(self, lengths: Iterable[int]) -> Iterator[Selection]:
        """Cut this selection into parts of so many rows each."""
        start = 0
        for length in lengths:
            part = slice(start, start + length)
            yield Selection(self.rows[part], self.columns, tuple([places[part] for places in self.addresses]))
            start += length


#: Decoded bytes of compressed shards that are kept unless the caller knows better.
DEFAULT_CACHE_BYTES = 256 << 20


class ShardCollection(SampleCollection):
    """Samples that are stored in shards. Made by :meth:`open`.

    Shards are looked at when a row of theirs is first asked for.
    """

    def __init__(
        self,
        catalog: Catalog,
        source: tuple[str, Pattern],
        io: IO,
        cache_bytes: int,
        verify: bool,
        cache_dir: str | None = None,
    ) -> None:
        self._source = source
        self._options = (io, cache_bytes, verify, cache_dir)
        self._verify = verify
        self.catalog = catalog
        self.manifest = catalog.manifest
        self.shard_sizes = catalog.num_samples
        self._space = open_address_space(str(catalog.folder), catalog.tar_bytes, io, cache_bytes)
        self._space.spill_to(cache_dir)
        self._shards = ShardTable(catalog, self._space)
        self.starts = self._shards.starts
        self.num_samples = int(self.starts[-1])
        self._pool = BufferPool()
        self._columns: dict[str, Column] = {
            name: make_column(native_spec(column.spec), self.num_samples, self._pool, everywhere=column.everywhere)
            for name, column in catalog.columns.items()
        }
        self.columns = {name: column.spec for name, column in self._columns.items()}
        self._metadata = ListColumn(ColumnSpec(METADATA_FIELD, None, None), self.num_samples)
        self._lookup = KeyLookup()

    @classmethod
    def open(
        cls,
        shard_dir: Path | str,
        pattern: Pattern = None,
        *,
        io: IO = "auto",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        verify: bool = False,
        cache_dir: Path | str | None = None,
    ) -> ShardCollection:
        """Open the shards of a folder.

        Parameters
        ----------
        shard_dir : path-like
            A folder of shards, or one shard.
        pattern : str or tuple of str, optional
            File names to take, or the names themselves. Default: what the manifest lists, or ``shard_*.tar*``
            where there is none.
        io : {"auto", "mmap", "pread"}
            How files are read. ``pread`` is for file systems that are not trusted with memory maps (a mapped file
            that shrinks while it is read ends the process). ``auto`` maps, unless the platform cannot hold the maps.
        cache_bytes : int
            Decoded bytes of compressed shards to keep in memory.
        verify : bool
            Check the checksum of every sample before it is delivered, each time.
        cache_dir : path-like, optional
            Folder of a local disk, on which decoded shards are kept instead, in a file without a name that ends with
            the process and that forked children share. Where the disk is full, shards are decoded into memory.

        Raises
        ------
        InputNotFoundError
            There is no such folder.
        NoShardsError
            No shard matches.
        FormatError
            Manifest or index is damaged, or the conversion was never finished.
        """
        if io not in ("auto", "mmap", "pread"):
            raise ConfigError(f"io={io!r}: choose 'auto', 'mmap' or 'pread'")
        try:
            source = (os.path.abspath(shard_dir), pattern)  # noqa: PTH100  (a copy elsewhere opens it again)
            scratch = None if cache_dir is None else os.path.abspath(cache_dir)  # noqa: PTH100
            return cls(read_catalog(shard_dir, pattern, mapped=io != "pread"), source, io, cache_bytes, verify, scratch)
        except MemoryError as error:
            raise FormatError(f"{shard_dir}: there is no memory for all samples that it promises ({error})") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._source, len(self.shard_names), self.fingerprint, self._options)

    def __repr__(self) -> str:
        return f"ShardCollection({self.catalog.summary()})"

    def close(self) -> None:
        """Wait for running gathers, then release maps and memory. Reading afterwards raises ClosedError."""
        self._space.close()

    @cached_property
    def shard_names(self) -> list[str]:
        """File names, in order."""
        return list(self.catalog.names)

    def prefix_fingerprint(self, num_shards: int) -> str:
        """Return the fingerprint of the first ``num_shards`` shards alone."""
        pairs = zip(self.shard_sizes[:num_shards].tolist(), self.catalog.checksums[:num_shards], strict=True)
        return xxhash.xxh3_128_hexdigest(orjson.dumps(list(pairs)))

    # -- values

    def gather(
        self,
        rows: npt.ArrayLike,
        columns: Iterable[str] | None = None,
        out: Mapping[str, npt.NDArray[Any]] | None = None,
        dtypes: Mapping[str, npt.DTypeLike] | None = None,
    ) -> dict[str, npt.NDArray[Any] | Ragged | list[Any]]:
        """See :meth:`SampleCollection.gather`; all is looked up and copied at once where columns are plain bytes."""
        wanted = self._wanted(columns)
        if out is None and self._finds_while_copying(wanted):
            where = np.asarray(rows, np.int64, order="C")
            with self._space.reading() as reader:
                try:
                    found = gather_at_once(wanted, reader.copy, where, dtypes or {}) if where.ndim == 1 else None
                except MemoryError:
                    found = None  # `read` says for which column there is none
            # another thread may have looked at a compressed shard meanwhile, whose bytes are not there yet
            if found is not None and not self._space.compressed:
                return found
        return self.read(self.select(rows, columns), out, dtypes)

    def finds_while_copying(self, columns: Iterable[str] | None = None) -> bool:
        """Return whether looking for the values of several batches together would save nothing."""
        return self._finds_while_copying(self._wanted(columns))

    def _finds_while_copying(self, columns: tuple[Column, ...]) -> bool:
        fit = self._space.copy.finds_rows and not self._space.compressed and not self._verify and bool(columns)
        return fit and all([column.at_once for column in columns])  # noqa: C419  (a generator takes longer)

    def select(self, rows: npt.ArrayLike, columns: Iterable[str] | None = None) -> Selection:
        """Find out where the values of rows lie; parameters and errors are those of :meth:`gather`."""
        where, wanted = self._checked(rows), self._wanted(columns)
        return Selection(where, wanted, tuple([column.located(self._shards, where) for column in wanted]))

    def read(
        self,
        selection: Selection,
        out: Mapping[str, npt.NDArray[Any]] | None = None,
        dtypes: Mapping[str, npt.DTypeLike] | None = None,
    ) -> dict[str, npt.NDArray[Any] | Ragged | list[Any]]:
        """Fetch what was selected; parameters, result and errors are those of :meth:`gather`."""
        rows, columns, addresses = selection
        out, dtypes = out or {}, dtypes or {}
        found = {}
        with self._space.reading() as reader:
            if self._verify:
                self._shards.check_records(reader, rows)
            for column, places in zip(columns, addresses, strict=True):
                name = column.spec.name
                asked = ColumnRequest(reader, rows, places, self._shards, out.get(name), dtypes.get(name))
                try:
                    found[name] = column.gather(asked)
                except MemoryError as error:
                    raise self._too_much(column, len(rows), error) from error
        return found

    def metadata(self, rows: npt.ArrayLike) -> list[Metadata]:
        """Decode the metadata of rows; see :meth:`SampleCollection.metadata`."""
        where = self._checked(rows)
        with self._space.reading() as reader:
            if self._verify:
                self._shards.check_records(reader, where)
            addresses = self._metadata.located(self._shards, where)
            found = self._metadata.gather(ColumnRequest(reader, where, addresses, self._shards))
        return [{} if value is MISSING else _object(value) for value in found]

    def reading(self) -> AddressReader:
        """Return a context manager that holds the data set open: for views of its memory (:meth:`array`).

        Entering it raises ClosedError once the data set was closed.
        """
        return self._space.reading()

    def check(self, rows: npt.ArrayLike) -> None:
        """Compare the checksums of rows.

        Raises
        ------
        IntegrityError
            One does not match; names shard and key.
        """
        with self._space.reading() as reader:
            self._shards.check_records(reader, self._checked(rows))

    @property
    def tables(self) -> Mapping[str, int]:
        """Rows of each side table, as the manifest says."""
        return {} if self.manifest is None else {name: entry.rows for name, entry in self.manifest.tables.items()}

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return a side table: one dict per row; see :func:`~neurofm_shards.format.manifest.side_table`."""
        return side_table(self.catalog.folder, self.manifest, name)

    def is_everywhere(self, column: str) -> bool:
        """Return whether every sample has a column, as the manifest or the indexes say."""
        return self.catalog.columns[column].everywhere

    def lengths(self, column: str) -> Ints:
        """Return the length of one column in every sample; ConfigError where an index does not say how long it is."""
        parts = []
        for shard, size in enumerate(self.shard_sizes.tolist()):
            found = self.index(shard).columns.get(column)
            shapes = None if found is None else found.shapes
            constant = None if found is None else found.spec.shape
            if shapes is not None:
                parts.append(np.asarray(shapes[:, 0], dtype=np.int64))
            elif constant and constant[0] is not None:
                parts.append(np.full(size, constant[0], dtype=np.int64))
            else:
                raise ConfigError(
                    f"the index of {self.shard_names[shard]} does not say how long {column!r} is: give lengths="
                )
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def first_row_with(self, column: str) -> int | None:
        """Return the first row that has a column; None where none has. Opens indexes up to there."""
        for shard, start in enumerate(self.starts[:-1].tolist()):
            index = self.index(shard).columns.get(column)
            there: Ints = np.flatnonzero([] if index is None else np.asarray(index.payload_offsets) >= 0)
            if len(there):
                return int(start + there[0])
        return None

    def has(self, row: int, column: str) -> bool:
        """Return whether a sample has a field (the metadata counts as one)."""
        shard, local = self.locate(int(self._checked([row])[0]))
        index = self.index(shard).columns.get(column)
        return index is not None and index.packed_offsets.at(local) >= 0

    def payload(self, row: int, column: str) -> bytes:
        """Return a member's bytes as they are stored; ConfigError where this sample has no such field."""
        where = self._checked([row])
        if not self.has(row, column):
            raise ConfigError(f"sample {self.describe(row)} has no field {column!r}")
        shard, local = self.locate(row)
        index = self.index(shard).columns[column]
        start = index.packed_offsets.at(local)
        with self._space.reading() as reader:
            if self._verify:
                self._shards.check_records(reader, where)
            return self._shards.bytes_of(reader, shard, start, start + index.packed_sizes.at(local)).tobytes()

    def array(self, row: int, column: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Return one sample's array, or some of its rows, without copying them where they are mapped.

        For arrays that are too large to be gathered. What is returned must not be written to, and must not be used
        once the data set is closed: it may be memory of the data set itself.

        Parameters
        ----------
        row : int
            The sample.
        column : str
            The field, which it must have.
        start, stop : int
            Rows of the array; all by default.

        Raises
        ------
        ConfigError
            This sample has no such field.
        FormatError
            It holds no array, or a damaged one.
        """
        if not self.has(row, column):
            raise ConfigError(f"sample {self.describe(row)} has no field {column!r}")
        shard, local = self.locate(row)
        with self._space.reading() as reader:
            if self._verify:
                self._shards.check_records(reader, self._checked([row]))
            place = self.index(shard).columns[column].place(local)
            if place is None:
                payload = self.payload(row, column)
                (value,) = self._shards.decode(column, self._checked([row]), [np.frombuffer(payload, np.uint8)])
                return native(np.asarray(value)[start:stop])
            shape = (len(range(place.shape[0])[start:stop]), *place.shape[1:])
            dtype = np.dtype(place.dtype)
            row_bytes = math.prod(place.shape[1:]) * dtype.itemsize
            first = place.offset + start * row_bytes
            found = self._shards.bytes_of(reader, shard, first, first + shape[0] * row_bytes)
            values = found.view(dtype).reshape(shape)
            return native(values if self._space.stays(shard) else values.copy())

    # -- names

    def keys(self, rows: npt.ArrayLike) -> list[str]:
        """Return the keys of rows."""
        return [self._shards.key(row) for row in self._checked(rows).tolist()]

    def shard_keys(self, shard: int) -> list[str]:
        """Return all keys of one shard, in order."""
        return self.index(shard).keys()

    def find(self, key: str) -> int:
        """Return the row of a key; SampleNotFoundError where no sample has it."""
        return self._lookup.find(self._shards, key)

    def describe(self, row: int) -> str:
        """Return key, shard and folder of a row, for messages."""
        return self._shards.describe(row)

    def locate(self, row: int) -> tuple[int, int]:
        """Return the shard of a row, and its place there."""
        return self._shards.locate(row)

    def index(self, shard: int) -> ShardIndex:
        """Return a shard's index."""
        return self._shards.index(shard)

    def metadata_table(self) -> MetadataTable:
        """Return the scalar metadata of all samples, column by column."""
        paths = [self.catalog.folder / name for name in self.shard_names]
        mapped = self._space.maps_files
        tables = [load_table(path, self.index(shard), mapped=mapped) for shard, path in enumerate(paths)]
        return MetadataTable.concat(tables)

    def statistics(self, columns: Iterable[str] | None = None) -> Mapping[str, Any]:  # noqa: ARG002
        """Return the statistics that conversion made, of all columns."""
        return {} if self.manifest is None else self.manifest.statistics

    def grow_cache(self, cache_bytes: int, cache_dir: str | None = None) -> None:
        """See :meth:`SampleCollection.grow_cache`."""
        io, kept, verify, _ = self._options
        self._options = (io, max(kept, cache_bytes), verify, cache_dir)
        self._space.frames.budget = max(kept, cache_bytes)
        self._space.spill_to(cache_dir)

    @property
    def keeps_decoded(self) -> bool:
        """See :attr:`SampleCollection.keeps_decoded`."""
        return self._space.spills

    def forget_pages(self) -> None:
        """Let the pages of mapped shards go from this process; the system's cache keeps them as long as it can."""
        self._space.forget_pages()

    # -- shards

    def _wanted(self, columns: Iterable[str] | None) -> tuple[Column, ...]:
        if columns is None:
            return tuple(self._columns.values())
        try:
            return tuple([self._columns[name] for name in columns])
        except KeyError as error:
            raise self._no_column(error.args[0]) from None

    def _too_much(self, column: Column, count: int, error: MemoryError) -> FormatError:
        return FormatError(
            f"{self.catalog.folder}: there is no memory for {count} values of column {column.spec.name!r} ({error}); "
            "check what the data set promises with `neurofm-shards info`, or take smaller batches"
        )


def _object(value: Any) -> Metadata:
    return value if isinstance(value, dict) else {"value": value}  # as the metadata table does


def _reopen(
    source: tuple[str, Pattern], num_shards: int, fingerprint: str, options: tuple[IO, int, bool, str | None]
) -> ShardCollection:
    """Open the same shards in another process; shards appended since do not matter."""
    catalog = read_catalog(*source, num_shards=num_shards, mapped=options[0] != "pread")
    return reopened(ShardCollection(catalog, source, *options), fingerprint)
