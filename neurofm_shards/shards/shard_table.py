"""The shards of a data set, each looked at when it is first needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xxhash

from neurofm_shards._typing import Ints
from neurofm_shards.errors import FormatError, IntegrityError
from neurofm_shards.format.index_io import load_index
from neurofm_shards.format.resolve import find_codec, find_compression
from neurofm_shards.reading.address_space import Reader, Space
from neurofm_shards.reading.catalog import Catalog
from neurofm_shards.shards.shard_file import ShardFile

if TYPE_CHECKING:
    from neurofm_shards.format.index import ShardIndex
    from neurofm_shards.plugins.interfaces import Codec
    from neurofm_shards.reading.columns import Column


class ShardTable:
    """Indexes of shards, and their places in the space; thread-safe and fork-safe.

    Parameters
    ----------
    catalog : Catalog
        What is known without opening shards.
    space : Space
        Where their bytes are read.

    Attributes
    ----------
    starts : numpy.ndarray of int64, shape (shards + 1,)
        First row of each shard, and the number of rows.
    """

    def __init__(self, catalog: Catalog, space: Space) -> None:
        self.catalog = catalog
        self.starts: Ints = np.concatenate([[0], np.cumsum(catalog.num_samples)]).astype(np.int64)
        self._space = space
        self._indexes: dict[int, ShardIndex] = dict(catalog.indexes)
        self._attached: set[int] = set()
        self._lock = threading.Lock()
        self._process = os.getpid()

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
            find_compression(name, self.catalog.manifest)  # where it is missing, the manifest knows who has it
            index = load_index(self.catalog.folder / name)
            self._check(shard, index)
            self._indexes[shard] = index
        return index

    def attach(self, shard: int) -> ShardIndex:
        """Make a shard readable in the space; return its index."""
        index = self.index(shard)
        if shard not in self._attached:
            with self._locked():
                if shard not in self._attached:
                    name = self.catalog.names[shard]
                    path, decoder = self.catalog.folder / name, find_compression(name, self.catalog.manifest)
                    if decoder is None and (index.tar_bytes != index.shard_bytes or index.frames is not None):
                        raise FormatError(f"{path}: its index takes a plain tar for a compressed one; delete the index")
                    self._space.attach(
                        shard, ShardFile(path, index.shard_bytes, index.tar_bytes, decoder, index.frames)
                    )
                    self._attached.add(shard)
        return index

    def look_for(self, column: Column, rows: Ints) -> None:
        """Tell a column where its values lie in the shards of these rows."""
        for shard in sorted(set(self.shards_of(rows).tolist())):
            index = self.attach(shard)
            start, base = int(self.starts[shard]), int(self._space.bases[shard])
            column.fill(start, base, index.columns.get(column.spec.name), index.num_samples)

    def bytes_of(self, reader: Reader, shard: int, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Return decoded bytes of a shard's tar, to be used before the reader ends."""
        self.attach(shard)
        at, size = np.array([start + int(self._space.bases[shard])]), np.array([stop - start])
        reader.need(at, size)
        return reader.slices(at, size)[0]

    def check_records(self, reader: Reader, rows: Ints) -> None:
        """Compare the checksum of each row's whole record.

        Raises
        ------
        IntegrityError
            One does not match; names shard and key.
        """
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
            name = self.index(shard).columns[column].codec
            if name not in codecs:
                codecs[name] = find_codec(name, column, self.catalog.manifest)
            codec = codecs[name]
            if codec is None:
                yield payload.tobytes()
                continue
            try:
                yield codec.decode(payload.data)
            except FormatError as error:
                raise type(error)(f"sample {self.describe(row)}, column {column!r}: {error}") from error

    def _locked(self) -> threading.Lock:
        if self._process != os.getpid():  # a parent's thread may have held the lock when it forked
            self._lock, self._process = threading.Lock(), os.getpid()
        return self._lock

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
