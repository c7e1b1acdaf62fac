"""Reads by time from data whose chunks are too long for that: each chunk is decoded once, into a temporary file.

HDF5 decodes a whole chunk for any value of it. Where a chunk is a channel's whole recording, reading block after block
would decode the file once per block; where it fits the chunk cache, HDF5 does well by itself.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import SourceError
from neurofm_shards_nwb.arrays import StoredArray
from neurofm_shards_nwb.storage import CHUNK_CACHE_BYTES

#: Rows of chunks that are kept: windows on the border of two need both.
_KEPT = 2


def time_reader(stored: StoredArray) -> Callable[[int, int], npt.NDArray[Any]]:
    """Return the best ``read(start, stop)`` along the first axis: the plain one, or one through a temporary file."""
    return SpooledReader(stored) if needs_spooling(stored) else stored.read


def needs_spooling(stored: StoredArray) -> bool:
    """Say whether the chunks that hold one instant do not fit the cache and have to be decoded as a whole."""
    chunks = stored.chunks
    if not chunks or not getattr(stored.data, "compression", None) or not stored.dtype.itemsize:
        return False
    wide = math.prod(-(-size // chunk) * chunk for size, chunk in zip(stored.shape[1:], chunks[1:], strict=True))
    return chunks[0] * wide * stored.dtype.itemsize > CHUNK_CACHE_BYTES


class SpooledReader:
    """Reads ranges of time through decoded copies of the last rows of chunks.

    Memory holds one chunk and the values asked for; the temporary file (in ``TMPDIR``) two rows of chunks.

    Parameters
    ----------
    stored : StoredArray
        A chunked HDF5 dataset, time along the first axis.
    """

    def __init__(self, stored: StoredArray) -> None:
        self._stored = stored
        self._rows: dict[int, _ChunkRow] = {}

    def __call__(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the values ``start`` to ``stop``."""
        length = (self._stored.chunks or (1,))[0]
        stop = min(stop, len(self._stored))
        if start >= stop:
            return self._stored.read(start, start)
        parts = [
            self._row(number).read(max(start, number * length), min(stop, (number + 1) * length))
            for number in range(start // length, (stop - 1) // length + 1)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _row(self, number: int) -> _ChunkRow:
        if number not in self._rows:
            while len(self._rows) >= _KEPT:
                self._rows.pop(next(iter(self._rows))).close()
            self._rows[number] = _ChunkRow(self._stored, number)
        return self._rows[number]


class _ChunkRow:
    """The decoded chunks that hold one stretch of time, one after the other in a temporary file."""

    def __init__(self, stored: StoredArray, number: int) -> None:
        chunks = stored.chunks or (1,)
        self._dtype, self._shape = stored.dtype, stored.shape[1:]
        self._start = number * chunks[0]
        self._stop = min(len(stored), self._start + chunks[0])
        axes = [
            [slice(at, min(at + chunk, size)) for at in range(0, size, chunk)]
            for size, chunk in zip(self._shape, chunks[1:], strict=True)
        ]
        self._places = list(itertools.product(*axes))
        self._file = tempfile.TemporaryFile(prefix="neurofm-shards-")  # noqa: SIM115  (lives as long as this object)
        self.close = weakref.finalize(self, self._file.close)
        for place in self._places:
            self._write(stored.part(self._start, self._stop, place), stored.where)
        self._file.flush()

    def _write(self, values: npt.NDArray[Any], where: str) -> None:
        try:
            self._file.write(np.ascontiguousarray(values).data.cast("B"))
        except OSError as error:
            raise SourceError(
                f"{where} has chunks of a whole stretch of time, which are decoded into {tempfile.gettempdir()}: "
                f"{error.strerror or error}; set TMPDIR to a folder with more room"
            ) from error

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the values ``start`` to ``stop``, which lie in this row."""
        out = np.empty((stop - start, *self._shape), dtype=self._dtype)
        offset = 0
        for place in self._places:
            shape = tuple(part.stop - part.start for part in place)
            width = math.prod(shape) * self._dtype.itemsize
            raw = os.pread(self._file.fileno(), (stop - start) * width, offset + (start - self._start) * width)
            where = (slice(None), *place)
            out[where] = np.frombuffer(raw, dtype=self._dtype).reshape(stop - start, *shape)
            offset += (self._stop - self._start) * width
        return out
