"""Decoded frames of compressed shards: made when first needed, kept while used, given back under a budget."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from neurofm_shards._process import after_fork, usable_cpus
from neurofm_shards._typing import Ints
from neurofm_shards.errors import FormatError, InputNotFoundError
from neurofm_shards.format.files import open_error, open_regular
from neurofm_shards.format.index_io import fingerprint_of, load_index

if TYPE_CHECKING:
    from neurofm_shards._typing import Bytes
    from neurofm_shards.compression.frames import FrameTable
    from neurofm_shards.plugins.interfaces import Compression

_ABSENT, _LOADING, _READY = 0, 1, 2
_MOST_THREADS = 8


class FrameDecoder(Protocol):
    """Decodes one compressed shard, frame by frame."""

    @property
    def bounds(self) -> Ints:
        """Where each frame starts in the decoded tar, and where the last ends; shape (frames + 1,)."""

    def decode(self, frame: int) -> None:
        """Decompress a frame into its place. Called from several threads, for different frames."""


class FrameCache:
    """Keeps account of the decoded frames of all compressed shards of a data set.

    A frame is decoded once however many threads ask for it at the same time, is never dropped while a reader has it
    pinned, and the least recently used ones go first when more than ``budget`` bytes are there. One batch alone may
    need more than the budget; it gets it.

    Parameters
    ----------
    budget : int
        Bytes of decoded frames to keep in memory.
    drop : callable
        A method; ``drop(start, stop)`` gives the memory of an address range back.
    """

    def __init__(self, budget: int, drop: Callable[[int, int], None]) -> None:
        self.budget = budget
        self._drop = weakref.WeakMethod(drop)  # its owner owns this cache
        self._changed = threading.Condition()
        after_fork(self._forget_other_threads)
        self._shards: list[tuple[FrameDecoder, int]] = []  # with the number of its first frame
        self._state = np.zeros(0, np.uint8)
        self._lasting = np.zeros(0, np.bool_)
        self._pins = np.zeros(0, np.int32)
        self._used = np.zeros(0, np.int64)
        self._start = np.zeros(0, np.int64)
        self._stop = np.zeros(0, np.int64)
        self._tick = 0
        self.held = 0
        self._threads: ThreadPoolExecutor | None = None

    def add(self, source: FrameDecoder, base: int, *, lasting: bool = False) -> int:
        """Add a shard whose first byte lies at address ``base``; return the number of its first frame.

        Frames of a ``lasting`` one are decoded into memory that is not counted, and never dropped.
        """
        count = len(source.bounds) - 1
        with self._changed:
            first = len(self._state)
            self._shards.append((source, first))
            self._state = np.append(self._state, np.zeros(count, np.uint8))
            self._lasting = np.append(self._lasting, np.full(count, lasting))
            self._pins = np.append(self._pins, np.zeros(count, np.int32))
            self._used = np.append(self._used, np.zeros(count, np.int64))
            self._start = np.append(self._start, source.bounds[:-1] + base)
            self._stop = np.append(self._stop, source.bounds[1:] + base)
        return first

    def pin(self, frames: Ints) -> None:
        """Keep these frames (without repeats) until ``unpin``; does not decode them."""
        with self._changed:
            self._tick += 1
            self._pins[frames] += 1
            self._used[frames] = self._tick

    def unpin(self, frames: Ints) -> None:
        """Allow these frames to be dropped."""
        with self._changed:
            self._pins[frames] -= 1

    def load(self, frames: Ints) -> None:
        """Return when all these frames, pinned before, are decoded."""
        condition = self._changed
        while True:
            with condition:
                mine = frames[self._state[frames] == _ABSENT]
                if len(mine) == 0:
                    if (self._state[frames] == _READY).all():
                        return
                    condition.wait()
                    continue
                self._make_room(int(self._sizes(mine).sum()))
                self._state[mine] = _LOADING
            self._decode(mine)

    def close(self) -> None:
        """Stop the threads."""
        if self._threads is not None:
            self._threads.shutdown()

    def _decode(self, frames: Ints) -> None:
        """Decode frames that this thread has claimed; those that fail may be claimed again."""
        condition = self._changed

        def one(frame: int) -> None:
            done = False
            try:
                source, first = self._shard_of(frame)
                source.decode(frame - first)
                done = True
            finally:
                with condition:
                    self._state[frame] = _READY if done else _ABSENT
                    self.held += int(self._sizes(frame)) if done else 0
                    condition.notify_all()

        self._run(one, frames.tolist())

    def _run(self, job: Callable[[int], None], frames: Sequence[int]) -> None:
        """Decode one frame here, several in threads; all are done or given up when this returns."""
        if len(frames) == 1:
            job(frames[0])
            return
        futures = [self._pool().submit(job, frame) for frame in frames]
        wait(futures)
        for future in futures:
            future.result()

    def _pool(self) -> ThreadPoolExecutor:
        with self._changed:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(min(_MOST_THREADS, usable_cpus()), "neurofm-shards-frames")
            return self._threads

    def _shard_of(self, frame: int) -> tuple[FrameDecoder, int]:
        low, high = 0, len(self._shards)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._shards[middle][1] <= frame else (low, middle)
        return self._shards[low]

    def _make_room(self, size: int) -> None:
        """Drop least recently used frames until ``size`` more bytes fit the budget; called with the lock held."""
        excess = self.held + size - self.budget
        if excess <= 0:
            return
        drop = self._drop()
        idle = np.flatnonzero((self._state == _READY) & (self._pins == 0) & ~self._lasting)
        idle = idle[np.argsort(self._used[idle], kind="stable")]
        sizes = np.cumsum(self._sizes(idle))
        for frame in idle[: int(np.searchsorted(sizes, excess)) + 1].tolist():
            self._state[frame] = _ABSENT
            self.held -= int(self._sizes(frame))
            if drop is not None:
                drop(int(self._start[frame]), int(self._stop[frame]))

    def _sizes(self, frames: Any) -> Any:
        """Return how much of the budget frames take."""
        return np.where(self._lasting[frames], 0, self._stop[frames] - self._start[frames])

    def _forget_other_threads(self) -> None:
        self._changed = threading.Condition()
        self._threads = None
        self._pins[:] = 0
        self._state[self._state == _LOADING] = _ABSENT


#: Device, number, size and times of a file.
Identity: TypeAlias = "tuple[int, ...]"


def identity_of(path: Path) -> Identity:
    """Return the identity of a file, which changes when it is replaced, and for harmless reasons too."""
    try:
        return _identity(os.stat(path))  # noqa: PTH116  (on a hot path)
    except OSError as error:
        raise open_error(path, error) from error


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@dataclass
class ShardFile:
    """A shard, plain or compressed.

    Attributes
    ----------
    path : path-like
        The file.
    file_bytes, tar_bytes : int
        Size of the file, and of the decoded tar.
    fingerprint, checksum : str
        What the file holds; it must still be that whenever it is opened.
    compression : Compression or None
        None for a plain tar.
    table : FrameTable or None
        Frames of a compressed shard that can be read at random.
    identity : tuple of int, optional
        Which file it was when its index was read (see :func:`identity_of`); by default, when it is first opened.
    """

    path: Path | str
    file_bytes: int
    tar_bytes: int
    fingerprint: str
    checksum: str
    compression: Compression | None = None
    table: FrameTable | None = None
    identity: Identity | None = None

    @property
    def compressed(self) -> bool:
        """Whether the bytes have to be decoded."""
        return self.compression is not None

    @contextmanager
    def open(self) -> Iterator[int]:
        """Open the file for a while; gives its descriptor. Raises what ``descriptor`` raises."""
        fd = self.descriptor()
        try:
            yield fd
        finally:
            os.close(fd)

    def descriptor(self) -> int:
        """Open the file and return its descriptor, which the caller closes (raises InputNotFoundError, FormatError)."""
        try:
            fd = open_regular(self.path)
        except InputNotFoundError:
            raise InputNotFoundError(f"{self.path}: this shard of the data set is gone; bring it back") from None
        try:
            self._check(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check(self, fd: int) -> None:
        found = os.fstat(fd)
        if found.st_size != self.file_bytes:
            raise FormatError(
                f"{self.path}: {found.st_size} bytes, but its index says {self.file_bytes}: the shard was truncated or "
                "changed; restore it, or run `neurofm-shards repair`"
            )
        identity = _identity(found)
        if identity == self.identity:
            return
        if fingerprint_of(fd) != self.fingerprint:
            raise FormatError(
                f"{self.path}: another file has taken its place since the data set was opened; open the data set again"
            )
        if self.identity is None:
            self.identity = identity
        else:  # the same at its ends, and in its middle
            load_index(self.path, self.checksum, mapped=False)

    def frames(self, out: Bytes) -> FrameDecoder:
        """Return the decoder of this shard, frame by frame, into ``out`` (its whole decoded tar)."""
        if self.compression is None:
            raise FormatError(f"{self.path}: not compressed, so it has no frames")
        table = self.table
        if table is None or not self.compression.random_access:
            return _Whole(self, self.compression, out)
        return _Frames(self, self.compression, table, out)


class _Frames:
    """Frames that are decoded one by one."""

    def __init__(self, file: ShardFile, compression: Compression, table: FrameTable, out: Bytes) -> None:
        self._file = file
        self._compression = compression
        self._out = out
        self._stored = np.asarray(table.file_offsets, np.int64)
        self._sizes = np.asarray(table.file_sizes, np.int64)
        self.bounds: npt.NDArray[np.int64] = np.asarray(table.raw_bounds, np.int64)

    def decode(self, frame: int) -> None:
        start, size = int(self._stored[frame]), int(self._sizes[frame])
        with self._file.open() as fd:
            data = os.pread(fd, size, start)
        low, high = int(self.bounds[frame]), int(self.bounds[frame + 1])
        try:
            self._compression.decompress_frame(memoryview(data), self._out[low:high].data)
        except FormatError as error:
            raise type(error)(f"{self._file.path}: frame {frame} (bytes {start} to {start + size}): {error}") from error


class _Whole:
    """A shard that can only be decoded from its beginning: one frame."""

    def __init__(self, file: ShardFile, compression: Compression, out: Bytes) -> None:
        self._file = file
        self._compression = compression
        self._out = out
        self.bounds: npt.NDArray[np.int64] = np.array([0, len(out)], np.int64)

    def decode(self, frame: int) -> None:  # noqa: ARG002  (there is only one)
        with self._file.open() as fd, os.fdopen(os.dup(fd), "rb") as raw, self._compression.open(raw) as stream:
            done = _read_into(stream, self._out)
            more = bool(stream.read(1)) if done == len(self._out) else False
        if done != len(self._out) or more:
            raise FormatError(
                f"{self._file.path}: decodes to {'more than' if more else 'only'} {done} bytes, but its index says "
                f"{len(self._out)}; rebuild it with `neurofm-shards index`"
            )


def _read_into(stream: Any, out: Bytes) -> int:
    """Fill ``out`` from a stream; return how many bytes there were."""
    done, view = 0, out.data
    while done < len(view):
        part = stream.read(min(1 << 20, len(view) - done))
        if not part:
            break
        view[done : done + len(part)] = part
        done += len(part)
    return done
