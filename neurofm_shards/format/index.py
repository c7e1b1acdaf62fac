"""What an index says: where every sample and every value of a shard is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import xxhash

if TYPE_CHECKING:
    from neurofm_shards._typing import Ints
    from neurofm_shards.compression.frames import FrameTable
    from neurofm_shards.shards.packing import PackedInts, PackedStrings
    from neurofm_shards.types import ColumnSpec

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

    @property
    def payload_offsets(self) -> Ints:
        """First byte of each payload, shape (n,); made anew at each access, -1 where there is none."""
        return self.packed_offsets.array()

    @property
    def payload_sizes(self) -> Ints:
        """Bytes of each payload, shape (n,); made anew at each access."""
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
        Changes when the file's content changes; see :func:`~neurofm_shards.shards.fingerprints.shard_fingerprint`.
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
        """Where each record begins, and where the last one ends; shape (n + 1,), made anew at each access."""
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
