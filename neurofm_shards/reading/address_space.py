"""The bytes of a whole data set behind one kind of address: decoded tar, shard after shard.

Columns know addresses and lengths; an address space turns them into bytes. :class:`MappedAddressSpace` (one address
range of maps) is the default; :class:`FileAddressSpace` (plain reads) stands in where mapping is not wanted or not had.
Which one is decided when a data set is opened. Both decode compressed shards into memory, frame by frame.
"""

from __future__ import annotations

import itertools
import os
import resource
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from neurofm_shards._process import after_fork
from neurofm_shards._typing import Bytes, Ints
from neurofm_shards.errors import ClosedError, ConfigError, FormatError
from neurofm_shards.reading.address_range import AddressRange, most_maps, places
from neurofm_shards.reading.frames_cache import FrameCache, FrameDecoder, ShardFile
from neurofm_shards.reading.row_copy import RowCopy, make_row_copy
from neurofm_shards.reading.scratch import Scratch

if TYPE_CHECKING:
    from typing_extensions import Self

#: Files that all data sets of a process together keep open, and the share of its descriptors that these may be.
_MOST_OPEN = 256
_SHARE = 8
IO: TypeAlias = Literal["auto", "mmap", "pread"]


class AddressSpace(ABC):
    """Where the shards of a data set lie.

    Parameters
    ----------
    name : str
        The data set's folder, for messages.
    tar_bytes : array of int64
        Decoded size of each shard.
    cache_bytes : int
        Decoded bytes of compressed shards to keep in memory.

    Attributes
    ----------
    bases : numpy.ndarray of int64, shape (shards + 1,)
        Address of each shard's first byte. A payload never has address 0: a tar begins with a header.
    frames : FrameCache
        The decoded frames of compressed shards.
    compressed : bool
        Whether any shard that was looked at is compressed.
    copy : RowCopy
        Copies rows from addresses.
    maps_files : bool
        Whether files are mapped, or read only.
    """

    copy: RowCopy
    maps_files: ClassVar[bool] = True

    def __init__(self, name: str, tar_bytes: Ints, cache_bytes: int) -> None:
        self.name = name
        self.bases: Ints = places(np.asarray(tar_bytes, np.int64))
        self.frames = FrameCache(cache_bytes, self._drop)
        self.compressed = False
        self._scratch: Scratch | None = None
        self._bounds: dict[int, Ints] = {}
        self._first_frames = np.full(len(tar_bytes), -1, np.int64)
        self._changed = threading.Condition()
        self._readers: set[AddressReader] = set()
        self._closed = False
        after_fork(self._forget_readers)

    def spill_to(self, folder: str | None) -> None:
        """Decode shards that are looked at from now on into a file in this folder; None: into memory.

        Raises
        ------
        ConfigError
            No file can be made there.
        """
        self._scratch = None if folder is None else Scratch(folder, int(self.bases[-1]))

    @property
    def spills(self) -> bool:
        """Whether shards that are looked at from now on are decoded into a file."""
        return self._scratch is not None

    def attach(self, shard: int, file: ShardFile) -> None:
        """Make a shard readable."""
        if not file.compressed:
            self._attach_plain(shard, file)
            return
        try:
            lasting = self._place(shard, file.tar_bytes)
        except OSError as error:
            raise FormatError(f"{file.path}: no addresses are left for its {file.tar_bytes:,} bytes") from error
        self.compressed = True  # before anybody learns an address in it
        where, offset = self._room(shard, file.tar_bytes)
        source: FrameDecoder = file.frames(where.bytes[offset : offset + file.tar_bytes])
        if lasting and self._scratch is not None:
            source = _DecodedOnce(source, self._scratch, int(self.bases[shard]))
        self._bounds[shard] = source.bounds
        self._first_frames[shard] = self.frames.add(source, int(self.bases[shard]), lasting=lasting)

    def _place(self, shard: int, size: int) -> bool:
        """Make room for a compressed shard's tar; return whether that is in the file."""
        where, offset = self._room(shard, size)
        base = int(self.bases[shard])
        if self._scratch is None or not self._scratch.reserve(base, size):
            where.map_memory(offset, size)
            return False
        where.map_scratch(offset, size, self._scratch.descriptor, base)
        return True

    def stays(self, shard: int) -> bool:  # noqa: ARG002  (bytes that are read into memory do not)
        """Return whether the bytes of an attached shard keep their place in memory until the space is closed."""
        return False

    def forget_pages(self) -> None:  # noqa: B027  (bytes that are read into memory are accounted for elsewhere)
        """Let the pages of mapped files go; the system still caches them, and whoever reads them maps them again."""

    @abstractmethod
    def reading(self) -> AddressReader:
        """Return a context manager that holds the space open, and the frames that are read, for one gather."""

    def enter(self, reader: AddressReader) -> None:
        """Note that somebody reads.

        No lock is taken: a reader first says that it is there and then looks whether the space is closed, and
        ``close`` does the same the other way round, so that one of them sees the other.

        Raises
        ------
        ClosedError
            The data set was closed.
        """
        self._readers.add(reader)
        if self._closed:
            self.leave(reader)
            raise ClosedError(f"the data set {self.name} is closed; open it again to read from it")

    def leave(self, reader: AddressReader) -> None:
        """Unregister a reader."""
        self._readers.discard(reader)
        if self._closed:
            with self._changed:
                self._changed.notify_all()

    def close(self) -> None:
        """Wait for running gathers, then release maps, files and memory. Doing it twice is fine."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.wait_for(lambda: not self._readers)
        self.frames.close()
        self._release()
        if self._scratch is not None:
            self._scratch.close()

    def _forget_readers(self) -> None:
        """Forget who was reading or closing: threads that a forked child does not have."""
        self._readers.clear()
        self._changed = threading.Condition()

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
    def _room(self, shard: int, size: int) -> tuple[AddressRange, int]:
        """Return the range, and the place in it, where a compressed shard's tar is to be."""

    @abstractmethod
    def _drop(self, start: int, stop: int) -> None:
        """Give the memory of decoded bytes back."""

    @abstractmethod
    def _release(self) -> None:
        """Give everything back."""


class _DecodedOnce:
    """Frames that are decoded into memory which several processes share."""

    def __init__(self, source: FrameDecoder, scratch: Scratch, base: int) -> None:
        self._source = source
        self._scratch = scratch
        self._base = base
        self.bounds = source.bounds

    def decode(self, frame: int) -> None:
        with self._scratch.claim(self._base + int(self.bounds[frame])) as is_needed:
            if is_needed:
                self._source.decode(frame)


class AddressReader(ABC):
    """Reads from a space for one gather in one thread; made by ``AddressSpace.reading``.

    Attributes
    ----------
    copy : RowCopy
        Copies rows from addresses, those of compressed shards after ``need``.
    """

    def __init__(self, space: AddressSpace) -> None:
        self.copy = space.copy
        self._opened = space
        self._pinned: list[Ints] | None = None

    def __enter__(self) -> Self:
        self._opened.enter(self)
        return self

    def __exit__(self, *error: object) -> None:
        for frames in self._pinned or ():
            self._opened.frames.unpin(frames)
        self._opened.leave(self)

    def need(self, offsets: Ints, sizes: Ints | int) -> None:
        """Make these byte ranges readable until the reader ends."""
        if self._opened.compressed:
            frames = self._opened.frames_of(offsets, sizes)
            self._opened.frames.pin(frames)
            self._pinned = [*(self._pinned or ()), frames]
            self._opened.frames.load(frames)

    @abstractmethod
    def slices(self, offsets: Ints, sizes: Ints | int) -> list[Bytes]:
        """Return one array of bytes per range; to be copied from at once, never to be kept."""


class MappedAddressSpace(AddressSpace):
    """All shards in one address range: files mapped into their places, compressed shards decoded into theirs.

    Raises
    ------
    OSError
        The platform does not give so many addresses.
    """

    def __init__(self, name: str, tar_bytes: Ints, cache_bytes: int) -> None:
        super().__init__(name, tar_bytes, cache_bytes)
        self._range = AddressRange(int(self.bases[-1]))
        self.copy = make_row_copy(self.everything)

    @property
    def everything(self) -> Bytes:
        """The whole range of addresses."""
        return self._range.bytes

    def stays(self, shard: int) -> bool:
        """See :meth:`AddressSpace.stays`; frames of compressed shards come and go."""
        return bool(self._first_frames[shard] < 0)

    def _attach_plain(self, shard: int, file: ShardFile) -> None:
        with file.open() as fd:
            self._range.map_file(int(self.bases[shard]), fd, file.file_bytes)

    def _room(self, shard: int, size: int) -> tuple[AddressRange, int]:  # noqa: ARG002  (it has its place already)
        return self._range, int(self.bases[shard])

    def _drop(self, start: int, stop: int) -> None:
        self._range.drop(start, stop)

    def forget_pages(self) -> None:
        """See :meth:`AddressSpace.forget_pages`; decoded frames stay, whose memory has a limit of its own."""
        if sys.platform == "linux" and not self.compressed:
            self._range.drop(0, self._range.size)

    def reading(self) -> AddressReader:
        """See :meth:`AddressSpace.reading`."""
        return _MappedReader(self)

    def _release(self) -> None:
        self._range.close()
        self.copy = make_row_copy(self.everything)


class _MappedReader(AddressReader):
    def __init__(self, space: MappedAddressSpace) -> None:
        super().__init__(space)
        self._space = space

    def slices(self, offsets: Ints, sizes: Ints | int) -> list[Bytes]:
        everything = self._space.everything
        stops = (offsets + sizes).tolist()
        return [everything[start:stop] for start, stop in zip(offsets.tolist(), stops, strict=True)]


def _numbers(first: Ints, last: Ints) -> Ints:
    """Return every number of the ranges ``first`` to ``last`` (inclusive), once, sorted."""
    low = int(first.min())
    change = np.zeros(int(last.max()) - low + 2, np.int64)
    np.add.at(change, first - low, 1)
    np.add.at(change, last + 1 - low, -1)
    return np.flatnonzero(np.cumsum(change[:-1])) + low


class FileAddressSpace(AddressSpace):
    """Plain shards read by ``preadv`` straight into the output; compressed ones decoded into memory of their own."""

    maps_files: ClassVar[bool] = False

    def __init__(self, name: str, tar_bytes: Ints, cache_bytes: int) -> None:
        super().__init__(name, tar_bytes, cache_bytes)
        self.copy = _FileRows(self)
        self._files: dict[int, ShardFile] = {}
        self._decoded: dict[int, AddressRange] = {}
        self._open = _open_files()
        self._number = self._open.new_owner()
        self._close_files = weakref.finalize(self, self._open.close, self._number)

    def shards_of(self, offsets: Ints) -> Ints:
        """Return the number of the shard that each address lies in."""
        return np.searchsorted(self.bases, offsets, side="right").astype(np.int64) - 1

    def read(self, shard: int, start: int, out: Bytes) -> None:
        """Copy decoded bytes of a shard, from ``start`` on, into ``out``."""
        decoded = self._decoded.get(shard)
        if decoded is not None:
            out[:] = decoded.bytes[start : start + len(out)]
            return
        file = self._files[shard]
        opened, done = self._open.get((self._number, shard), file), 0
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
        self._open.get((self._number, shard), file)

    def _room(self, shard: int, size: int) -> tuple[AddressRange, int]:
        if shard not in self._decoded:
            self._decoded[shard] = AddressRange(size)
        return self._decoded[shard], 0

    def _drop(self, start: int, stop: int) -> None:
        shard = int(self.shards_of(np.array([start]))[0])
        base = int(self.bases[shard])
        self._decoded[shard].drop(start - base, stop - base)

    def reading(self) -> AddressReader:
        """See :meth:`AddressSpace.reading`."""
        return _FileReader(self)

    def _release(self) -> None:
        self._close_files()
        for decoded in self._decoded.values():
            decoded.close()


class _FileReader(AddressReader):
    def __init__(self, space: FileAddressSpace) -> None:
        super().__init__(space)
        self._space = space

    def slices(self, offsets: Ints, sizes: Ints | int) -> list[Bytes]:
        parts = [np.empty(size, np.uint8) for size in np.broadcast_to(sizes, offsets.shape).tolist()]
        self._space.read_all(offsets, parts)
        return parts


class _FileRows(RowCopy):
    def __init__(self, space: FileAddressSpace) -> None:
        self._space = weakref.proxy(space)  # which owns this

    def rows_into(self, offsets: Ints, size: int, out: npt.NDArray[Any]) -> None:
        rows = out.reshape(-1).view(np.uint8).reshape(-1, size)
        self._space.read_all(offsets, list(rows))


class _OpenFile:
    """A descriptor that is closed after its last reader."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class _OpenFiles:
    """At most ``most`` files, kept open while recently used; one that falls out is closed after its last reader."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._files: OrderedDict[tuple[int, int], _OpenFile] = OrderedDict()
        self._owners = itertools.count()
        self._lock = threading.Lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def new_owner(self) -> int:
        """Return a number for one more data set."""
        return next(self._owners)

    def get(self, key: tuple[int, int], file: ShardFile) -> _OpenFile:
        """Return a file by its owner and its number there."""
        with self._lock:
            found = self._files.pop(key, None)
            if found is None:
                found = _OpenFile(file.descriptor())
            self._files[key] = found
            if len(self._files) > self._most:
                self._files.popitem(last=False)
            return found

    def close(self, owner: int) -> None:
        """Close all files of an owner, who asks for none again."""
        with self._lock:
            for key in [key for key in self._files if key[0] == owner]:
                del self._files[key]


@cache
def _open_files() -> _OpenFiles:
    """Return the open files of this process: one budget for all data sets."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _OpenFiles(max(1, min(_MOST_OPEN, allowed // _SHARE)))


def open_address_space(name: str, tar_bytes: Ints, io: IO, cache_bytes: int) -> AddressSpace:
    """Return the space that ``io`` asks for; ``auto``: maps, unless the platform cannot hold as many.

    Raises
    ------
    ConfigError
        Maps were asked for, and are not to be had.
    """
    if io == "pread" or (io == "auto" and len(tar_bytes) > most_maps()):
        return FileAddressSpace(name, tar_bytes, cache_bytes)
    try:
        return MappedAddressSpace(name, tar_bytes, cache_bytes)
    except OSError as error:
        if io == "mmap":
            raise ConfigError(f"{name}: cannot reserve addresses for a map ({error}); use io='pread'") from error
        return FileAddressSpace(name, tar_bytes, cache_bytes)
