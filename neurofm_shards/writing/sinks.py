"""Where the bytes of a growing shard go: records are put into a buffer, hashed, and leave in large pieces."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from neurofm_shards._typing import Bytes
from neurofm_shards.compression.frames import FrameTable, FrameWriter
from neurofm_shards.errors import EncodeError
from neurofm_shards.format.files import HUGE_PAGE
from neurofm_shards.limits import most_decoded
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.types import Buffer

#: Bytes written at once. Small enough to stay in a core's cache, more or less, from layout to writing;
#: large enough for the calls to be few, because each waits for the GIL.
PIECE_BYTES = HUGE_PAGE
#: A piece, and the rest of a record that begins in it. Memory that is never touched is none.
BUFFER_BYTES = 2 * PIECE_BYTES


class Sink(ABC):
    """Takes buffers of a shard, in order.

    A buffer is borrowed with ``borrow``, filled, and given back with ``submit``.
    """

    @abstractmethod
    def borrow(self) -> Bytes:
        """Return a buffer to fill, waiting for one where need be."""

    @abstractmethod
    def submit(self, buffer: Bytes, used: int) -> None:
        """Hand a filled buffer over."""

    @abstractmethod
    def write_through(self, pieces: Iterable[Buffer]) -> None:
        """Write pieces that fit no buffer, behind everything that was submitted."""

    @abstractmethod
    def finish(self) -> FrameTable | None:
        """Write what is left; return the file's frames where it has such."""

    @abstractmethod
    def close(self, *, durable: bool) -> None:
        """Sync the finished file if durable, and close it."""

    @abstractmethod
    def abort(self) -> None:
        """Close the file, whatever state it is in."""


def write_all(descriptor: int, data: Buffer) -> None:
    """Write all bytes; ``os.write`` may write fewer (2 GiB at most, or until the disk is full)."""
    view = memoryview(data).cast("B")
    while len(view):
        view = view[os.write(descriptor, view) :]


class FileSink(Sink):
    """Writes in the calling thread.

    Parameters
    ----------
    descriptor : int
        Of the file, which is closed in the end.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = np.empty(BUFFER_BYTES, np.uint8)

    def borrow(self) -> Bytes:
        """Return the one buffer."""
        return self._buffer

    def submit(self, buffer: Bytes, used: int) -> None:
        """Write the buffer."""
        write_all(self._descriptor, buffer.data[:used])

    def write_through(self, pieces: Iterable[Buffer]) -> None:
        """Write the pieces."""
        for piece in pieces:
            write_all(self._descriptor, piece)

    def finish(self) -> FrameTable | None:
        """Return no frames."""
        return None

    def close(self, *, durable: bool) -> None:
        """Sync if durable, and close."""
        if durable:
            os.fsync(self._descriptor)
        self.abort()

    def abort(self) -> None:
        """Close."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class NoSink(Sink):
    """Keeps nothing: for content of which only the checksum is wanted."""

    def __init__(self) -> None:
        self._buffer = np.empty(BUFFER_BYTES, np.uint8)

    def borrow(self) -> Bytes:
        """Return the one buffer."""
        return self._buffer

    def submit(self, buffer: Bytes, used: int) -> None:
        """Do nothing."""

    def write_through(self, pieces: Iterable[Buffer]) -> None:
        """Do nothing."""

    def finish(self) -> FrameTable | None:
        """Return no frames."""
        return None

    def close(self, *, durable: bool) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""


class CompressedSink(Sink):
    """Compresses frame by frame, in threads.

    Parameters
    ----------
    descriptor : int
        Of the file, which is closed in the end.
    compression : Compression
        What compresses.
    threads : int, optional
        Frames compressed at once.
    """

    def __init__(self, descriptor: int, compression: Compression, threads: int | None) -> None:
        self._file = os.fdopen(descriptor, "wb")
        self._frames = FrameWriter(self._file, compression, threads)
        self._buffer = np.empty(BUFFER_BYTES, np.uint8)

    def borrow(self) -> Bytes:
        """Return the one buffer."""
        return self._buffer

    def submit(self, buffer: Bytes, used: int) -> None:
        """Compress the buffer."""
        self._frames.write(buffer.data[:used])

    def write_through(self, pieces: Iterable[Buffer]) -> None:
        """Compress the pieces."""
        for piece in pieces:
            self._frames.write(piece)

    def finish(self) -> FrameTable | None:
        """Compress what is left; return the frame table."""
        table = self._frames.close()
        self._file.flush()
        _check_expansion(self._frames.raw_bytes, self._file.tell())
        return table

    def close(self, *, durable: bool) -> None:
        """Sync if durable, and close."""
        if durable:
            os.fsync(self._file.fileno())
        self._file.close()

    def abort(self) -> None:
        """Stop compressing, and close."""
        self._frames.abort()
        with contextlib.suppress(OSError):  # what is still buffered need not fit: the file is about to be deleted
            self._file.close()


def _check_expansion(raw_bytes: int, file_bytes: int) -> None:
    """Refuse a shard that readers would take for a bomb."""
    if raw_bytes > most_decoded(file_bytes):
        raise EncodeError(
            f"a shard of {raw_bytes:,} bytes shrinks to {file_bytes:,}, which every reader would take for a bomb: make "
            "smaller shards (shard_size), or do not compress them"
        )


class BackgroundSink(Sink):
    """Hands buffers to another sink in a thread of its own; an error there is raised at the next call.

    Parameters
    ----------
    sink : Sink
        Does the writing.
    """

    _BUFFERS = 3

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._free: queue.SimpleQueue[Bytes] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[Bytes, int] | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._made = 0

    def borrow(self) -> Bytes:
        """Return a free buffer."""
        if self._made < self._BUFFERS and self._free.empty():
            self._made += 1
            return np.empty(BUFFER_BYTES, np.uint8)
        return self._free.get()

    def submit(self, buffer: Bytes, used: int) -> None:
        """Queue the buffer."""
        self._raise()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="shard-writer", daemon=True)
            self._thread.start()
        self._full.put((buffer, used))

    def write_through(self, pieces: Iterable[Buffer]) -> None:
        """Wait until the queue is empty, then write."""
        self._join()
        self._raise()
        self._sink.write_through(pieces)

    def finish(self) -> FrameTable | None:
        """Wait until the queue is empty, and finish."""
        self._join()
        self._raise()
        return self._sink.finish()

    def close(self, *, durable: bool) -> None:
        """Sync if durable, and close."""
        self._sink.close(durable=durable)

    def abort(self) -> None:
        """Drop what is queued, and close."""
        if self._error is None:
            self._error = RuntimeError("this shard was given up")
        self._join()
        self._sink.abort()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _join(self) -> None:
        if self._thread is not None:
            self._full.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (item := self._full.get()) is not None:
            buffer, used = item
            if self._error is None:
                try:
                    self._sink.submit(buffer, used)
                except BaseException as error:  # noqa: BLE001  (raised again in the thread that writes the shard)
                    self._error = error
            self._free.put(buffer)


class RecordBuffer:
    """Collects whole records, one at a time or many of one length, and passes them on.

    What is passed on ends, where records are smaller than a piece, at a multiple of ``PIECE_BYTES`` in the tar: the
    system then keeps the file in huge pages, which are written faster, and read faster when they are mapped.

    Parameters
    ----------
    sink : Sink
        Takes the bytes.

    Attributes
    ----------
    position : int
        Bytes of tar so far.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.position = 0
        self._take()

    def _take(self) -> None:
        self._array = self._sink.borrow()
        self._view = self._array.data
        self._used = 0
        self._full = PIECE_BYTES - self.position % PIECE_BYTES

    def append(self, pieces: Sequence[Buffer], size: int) -> int:
        """Put one record in; return its digest."""
        if size > PIECE_BYTES:
            return self._pass_through(pieces, size)
        if self._used >= self._full:
            self._pass_on()
        start = end = self._used
        view = self._view
        for piece in pieces:
            view[end : (end := end + len(piece))] = piece
        self._used = end
        self.position += size
        return xxhash.xxh3_64_intdigest(view[start:end])

    def _pass_through(self, pieces: Sequence[Buffer], size: int) -> int:
        self.flush()
        digest = xxhash.xxh3_64()
        for piece in pieces:
            digest.update(piece)
        self._sink.write_through(pieces)
        self.position += size
        return digest.intdigest()

    def room(self, size: int) -> int:
        """Return how many records of one length are to be put in next; none when one is larger than a piece."""
        if size > PIECE_BYTES:
            return 0
        if self._used >= self._full:
            self._pass_on()
        return -(-(self._full - self._used) // size)

    def reserve(self, count: int, size: int) -> npt.NDArray[np.uint8]:
        """Return the place of the next records, (count, size), with old content; ``commit`` it when it is filled."""
        return self._array[self._used : self._used + count * size].reshape(count, size)

    def commit(self, count: int, size: int) -> list[int]:
        """Take the reserved records in; return their digests."""
        start = self._used
        self._used += count * size
        self.position += count * size
        digest, view = xxhash.xxh3_64_intdigest, self._view
        return [digest(view[at : at + size]) for at in range(start, self._used, size)]

    def _pass_on(self) -> None:
        """Pass on whole pieces; what is left of the last record begins the next buffer."""
        view, whole, used = self._view, self._full, self._used
        self._sink.submit(self._array, whole)
        self._take()  # it may be the same buffer
        self._used = used - whole
        self._view[: self._used] = view[whole:used]
        self._full = PIECE_BYTES

    def flush(self) -> None:
        """Pass on what is there."""
        if self._used:
            self._sink.submit(self._array, self._used)
            self._take()

    def finish(self, tail: bytes) -> None:
        """Put the end of the archive behind everything and pass it on."""
        self.flush()
        self._sink.write_through([tail])
        self.position += len(tail)
