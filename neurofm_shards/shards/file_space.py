"""Reading shards with plain reads: for file systems that are not trusted with maps, or where maps are not to be had."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Bytes, Ints
from neurofm_shards.errors import FormatError
from neurofm_shards.reading.address_range import Arena
from neurofm_shards.reading.address_space import Reader, Space
from neurofm_shards.reading.row_copy import RowCopy
from neurofm_shards.shards.shard_file import ShardFile

#: Files that are kept open; others are opened again.
_OPEN_FILES = 128


class FileSpace(Space):
    """Plain shards read by ``preadv`` straight into the output; compressed ones decoded into memory of their own."""

    def __init__(self, name: str, tar_bytes: Ints, cache_bytes: int) -> None:
        super().__init__(name, tar_bytes, cache_bytes)
        self.copy = _FileRows(self)
        self._files: dict[int, ShardFile] = {}
        self._decoded: dict[int, Arena] = {}
        self._open = _OpenFiles()

    def shards_of(self, offsets: Ints) -> Ints:
        """Return the number of the shard that each address lies in."""
        return np.searchsorted(self.bases, offsets, side="right").astype(np.int64) - 1

    def read(self, shard: int, start: int, out: Bytes) -> None:
        """Copy decoded bytes of a shard, from ``start`` on, into ``out``."""
        arena = self._decoded.get(shard)
        if arena is not None:
            out[:] = arena.bytes[start : start + len(out)]
            return
        file = self._files[shard]
        opened, done = self._open.get(shard, file), 0
        while done < len(out):
            count = os.preadv(opened.descriptor, [out[done:].data], start + done)
            if count == 0:
                raise FormatError(f"{file.path}: ends at byte {start + done}, before its last sample; restore it")
            done += count

    def read_all(self, offsets: Ints, parts: list[Bytes]) -> None:
        """Fill each part with the bytes at its address."""
        shards = self.shards_of(offsets)
        starts = offsets - self.bases[shards]
        for shard, start, part in zip(shards.tolist(), starts.tolist(), parts, strict=True):
            self.read(shard, start, part)

    def _attach_plain(self, shard: int, file: ShardFile) -> None:
        self._files[shard] = file
        self._open.get(shard, file)

    def _memory(self, shard: int, size: int) -> Bytes:
        arena = self._decoded[shard] = Arena(size)
        arena.map_memory(0, size)
        return arena.bytes[:size]

    def _drop(self, start: int, stop: int) -> None:
        shard = int(self.shards_of(np.array([start]))[0])
        base = int(self.bases[shard])
        self._decoded[shard].drop(start - base, stop - base)

    def reading(self) -> Reader:
        """See :meth:`Space.reading`."""
        return _FileReader(self)

    def _release(self) -> None:
        self._open.clear()
        for arena in self._decoded.values():
            arena.close()


class _FileReader(Reader):
    def __init__(self, space: FileSpace) -> None:
        super().__init__(space)
        self._space = space

    def slices(self, offsets: Ints, sizes: Ints | int) -> list[Bytes]:
        parts = [np.empty(size, np.uint8) for size in np.broadcast_to(sizes, offsets.shape).tolist()]
        self._space.read_all(offsets, parts)
        return parts


class _FileRows(RowCopy):
    def __init__(self, space: FileSpace) -> None:
        self._space = weakref.proxy(space)  # which owns this

    def rows_into(self, offsets: Ints, size: int, out: npt.NDArray[Any]) -> None:
        rows = out.reshape(-1).view(np.uint8).reshape(-1, size)
        self._space.read_all(offsets, list(rows))


class _OpenFile:
    """A descriptor that is closed when nobody reads from it any more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class _OpenFiles:
    """The most recently used files, open. A file that falls out is closed once its last reader is done."""

    def __init__(self) -> None:
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def get(self, shard: int, file: ShardFile) -> _OpenFile:
        if self._process != os.getpid():  # a parent's thread may have held the lock when it forked
            self._lock, self._process = threading.Lock(), os.getpid()
        with self._lock:
            found = self._files.pop(shard, None)
            if found is None:
                found = _OpenFile(file.descriptor())
            self._files[shard] = found
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
            return found

    def clear(self) -> None:
        self._files.clear()
