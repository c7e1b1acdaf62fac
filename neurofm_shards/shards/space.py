"""The bytes of a whole data set behind one kind of address: decoded tar, shard after shard.

Columns know addresses and lengths; a space turns them into bytes. :class:`MappedSpace` (one arena of maps) is what is
used; :class:`~neurofm_shards.shards.file_space.FileSpace` (plain reads) stands in where mapping is not wanted or not
possible. Which one is decided once, when a data set is opened. Compressed shards are decoded into memory, frame by
frame, in both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import ClosedError, FormatError
from neurofm_shards.shards.arena import Arena, Bytes, places
from neurofm_shards.shards.frames_cache import FrameCache
from neurofm_shards.shards.guard import ForkSafeCondition
from neurofm_shards.shards.shard_file import ShardFile

if TYPE_CHECKING:
    from typing_extensions import Self

Ints: TypeAlias = npt.NDArray[np.int64]

#: ``copy(offsets, size, out)`` puts rows of ``size`` bytes, beginning at ``offsets``, into ``out``.
RowCopy: TypeAlias = Callable[[Ints, int, Bytes], None]

#: Rows of at least this size are copied one by one; smaller ones in one fancy index.
LARGE_ROW = 256 << 10
#: NumPy fills memory that is there row by row, which pays from this size on.
_ONE_BY_ONE = 16 << 10


class Space(ABC):
    """Where the shards of a data set lie.

    Parameters
    ----------
    name : str
        The data set's folder, for messages.
    tar_bytes : array of int64
        Decoded size of each shard.
    cache_bytes : int
        Decoded bytes of compressed shards to keep.

    Attributes
    ----------
    bases : numpy.ndarray of int64, shape (shards + 1,)
        Address of each shard's first byte. A payload never has address 0: a tar begins with a header.
    frames : FrameCache
        The decoded frames of compressed shards.
    smallest_row : int
        Smaller rows are better fetched with ``Reader.rows`` and then put where they belong, larger ones put there
        directly with ``Reader.rows_into``.
    """

    smallest_row = 0

    def __init__(self, name: str, tar_bytes: Ints, cache_bytes: int) -> None:
        self.name = name
        self.bases: Ints = places(np.asarray(tar_bytes, np.int64))
        self.frames = FrameCache(cache_bytes, self._drop)
        self._bounds: dict[int, Ints] = {}
        self._first_frames = np.full(len(tar_bytes), -1, np.int64)
        self._guard = ForkSafeCondition(self._forget_readers)
        self._readers = 0
        self._closed = False

    @property
    def compressed(self) -> bool:
        """Whether any shard that was looked at is compressed."""
        return bool(self._bounds)

    def attach(self, shard: int, file: ShardFile) -> None:
        """Make a shard readable."""
        if not file.compressed:
            self._attach_plain(shard, file)
            return
        try:
            memory = self._memory(shard, file.tar_bytes)
        except OSError as error:
            raise FormatError(f"{file.path}: no addresses are left for its {file.tar_bytes:,} bytes") from error
        source = file.frames(memory)
        self._bounds[shard] = source.bounds
        self._first_frames[shard] = self.frames.add(source, int(self.bases[shard]))

    @abstractmethod
    def copy_rows_with(self, make: Callable[[Bytes], RowCopy]) -> None:
        """Let ``make(everything)`` copy rows out of memory."""

    @abstractmethod
    def reading(self) -> Reader:
        """Return a context manager that holds the space open, and the frames that are read, for one gather."""

    def enter(self) -> None:
        """Note that somebody reads.

        Raises
        ------
        ClosedError
            The data set was closed.
        """
        lock = self._guard.get()
        lock.acquire()  # by hand here and below: the statement costs more than all that is done
        try:
            if self._closed:
                raise ClosedError(f"the data set {self.name} is closed; open it again to read from it")
            self._readers += 1
        finally:
            lock.release()

    def leave(self) -> None:
        """Note that somebody is done reading."""
        condition = self._guard.get()
        condition.acquire()
        try:
            self._readers -= 1
            if self._closed and self._readers == 0:
                condition.notify_all()
        finally:
            condition.release()

    def close(self) -> None:
        """Wait for running gathers, then release maps, files and memory. Doing it twice is fine."""
        condition = self._guard.get()
        with condition:
            if self._closed:
                return
            self._closed = True
            condition.wait_for(lambda: self._readers == 0)
        self.frames.close()
        self._release()

    def frames_of(self, offsets: Ints, sizes: Ints | int) -> Ints:
        """Return the numbers of the frames that these ranges lie in, each once; plain shards have none."""
        shards = np.searchsorted(self.bases, offsets, side="right") - 1
        lengths = np.broadcast_to(np.asarray(sizes, np.int64), offsets.shape)
        found = [np.zeros(0, np.int64)]
        for shard in sorted(set(shards[self._first_frames[shards] >= 0].tolist())):
            here, bounds = shards == shard, self._bounds[shard]
            start = offsets[here] - self.bases[shard]
            first = np.searchsorted(bounds, start, side="right") - 1
            last = np.searchsorted(bounds, start + np.maximum(lengths[here], 1) - 1, side="right") - 1
            found.append(_numbers(first, last) + self._first_frames[shard])
        return np.concatenate(found)

    @abstractmethod
    def _attach_plain(self, shard: int, file: ShardFile) -> None:
        """Make a plain tar readable."""

    @abstractmethod
    def _memory(self, shard: int, size: int) -> Bytes:
        """Return memory for a compressed shard's tar, which takes no room before it is written to."""

    @abstractmethod
    def _drop(self, start: int, stop: int) -> None:
        """Give the memory of decoded bytes back."""

    @abstractmethod
    def _release(self) -> None:
        """Give everything back."""

    def _forget_readers(self) -> None:
        self._readers = 0


class Reader(ABC):
    """Reads from a space for one gather in one thread; made by ``Space.reading``."""

    def __init__(self, space: Space) -> None:
        self._opened = space
        self._pinned: list[Ints] = []

    @property
    def smallest_row(self) -> int:
        """See :class:`Space`."""
        return self._opened.smallest_row

    def __enter__(self) -> Self:
        self._opened.enter()
        return self

    def __exit__(self, *error: object) -> None:
        for frames in self._pinned:
            self._opened.frames.unpin(frames)
        self._opened.leave()

    def need(self, offsets: Ints, sizes: Ints | int) -> None:
        """Make these byte ranges readable until the reader ends."""
        if self._opened.compressed:
            frames = self._opened.frames_of(offsets, sizes)
            self._opened.frames.pin(frames)
            self._pinned.append(frames)
            self._opened.frames.load(frames)

    @abstractmethod
    def slices(self, offsets: Ints, sizes: Ints | int) -> list[Bytes]:
        """Return one array of bytes per range; to be copied from at once, never to be kept."""

    @abstractmethod
    def rows(self, offsets: Ints, size: int) -> npt.NDArray[Any]:
        """Return ranges of equal size, end to end, in a new array, of whatever type of so many or of single bytes."""

    @abstractmethod
    def rows_into(self, offsets: Ints, size: int, out: Bytes) -> None:
        """Copy ranges of equal size, end to end, into ``out``."""


class MappedSpace(Space):
    """All shards in one arena: files mapped into their places, compressed shards decoded into theirs.

    Raises
    ------
    OSError
        The platform does not give so many addresses.
    """

    def __init__(self, name: str, tar_bytes: Ints, cache_bytes: int) -> None:
        super().__init__(name, tar_bytes, cache_bytes)
        self._arena = Arena(int(self.bases[-1]))
        self._rows: dict[int, npt.NDArray[Any]] = {}
        self.smallest_row = _ONE_BY_ONE
        self.copy_rows: RowCopy = CopyOneByOne(self.everything)

    def copy_rows_with(self, make: Callable[[Bytes], RowCopy]) -> None:
        """See :meth:`Space.copy_rows_with`."""
        self.copy_rows = make(self.everything)
        self.smallest_row = 0

    @property
    def everything(self) -> Bytes:
        """The whole range of addresses."""
        return self._arena.bytes

    def rows_of(self, size: int) -> npt.NDArray[Any]:
        """Return all runs of ``size`` bytes, overlapping, one per address: indexing it copies rows."""
        rows = self._rows.get(size)
        if rows is None:
            count = self.everything.size - size + 1
            rows = self._rows[size] = np.ndarray((count,), f"V{size}", self.everything, strides=(1,))
        return rows

    def _attach_plain(self, shard: int, file: ShardFile) -> None:
        with file.open() as fd:
            self._arena.map_file(int(self.bases[shard]), fd, file.file_bytes)

    def _memory(self, shard: int, size: int) -> Bytes:
        base = int(self.bases[shard])
        self._arena.map_memory(base, size)
        return self.everything[base : base + size]

    def _drop(self, start: int, stop: int) -> None:
        self._arena.drop(start, stop)

    def reading(self) -> Reader:
        """See :meth:`Space.reading`."""
        return _MappedReader(self)

    def _release(self) -> None:
        self._rows.clear()
        self._arena.close()
        self.copy_rows = CopyOneByOne(self.everything)


class _MappedReader(Reader):
    def __init__(self, space: MappedSpace) -> None:
        super().__init__(space)
        self._space = space

    def slices(self, offsets: Ints, sizes: Ints | int) -> list[Bytes]:
        everything = self._space.everything
        stops = (offsets + sizes).tolist()
        return [everything[start:stop] for start, stop in zip(offsets.tolist(), stops, strict=True)]

    def rows(self, offsets: Ints, size: int) -> npt.NDArray[Any]:
        if size < LARGE_ROW:
            copied: npt.NDArray[Any] = self._space.rows_of(size)[offsets]
            return copied
        out = np.empty(len(offsets) * size, np.uint8)
        self.rows_into(offsets, size, out)
        return out

    def rows_into(self, offsets: Ints, size: int, out: Bytes) -> None:
        self._space.copy_rows(offsets, size, out)


class CopyOneByOne:
    """Copies rows with NumPy, which lets go of the GIL and takes it again for each of them."""

    def __init__(self, everything: Bytes) -> None:
        self._everything = everything

    def __call__(self, offsets: Ints, size: int, out: Bytes) -> None:
        """Copy rows."""
        np.concatenate([self._everything[start : start + size] for start in offsets.tolist()], out=out)


def _numbers(first: Ints, last: Ints) -> Ints:
    """Return every number of the ranges ``first`` to ``last`` (inclusive), once, sorted."""
    low = int(first.min())
    change = np.zeros(int(last.max()) - low + 2, np.int64)
    np.add.at(change, first - low, 1)
    np.add.at(change, last + 1 - low, -1)
    return np.flatnonzero(np.cumsum(change[:-1])) + low
