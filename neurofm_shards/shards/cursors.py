"""Going through the bytes of a tar once, from memory or from a stream, hashing samples on the way."""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from typing import BinaryIO

import xxhash

from neurofm_shards.errors import FormatError

_BLOCK = 512
_CHUNK = 1 << 20
#: Most zeros behind the end of an archive (tar programs pad to their record size).
MAX_TAIL_BYTES = 1 << 20


class Cursor(ABC):
    """A position in a tar that only moves forward."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name = name
        self.total = total
        self.position = 0

    @abstractmethod
    def peek(self, size: int) -> memoryview | bytes:
        """Return the next bytes, which ``skip_to`` then passes; FormatError where there are fewer."""

    @abstractmethod
    def skip_to(self, position: int) -> None:
        """Move forward; FormatError beyond the end."""

    @abstractmethod
    def rest(self) -> bytes:
        """Return everything that is left: the end of the archive, zeros only."""

    def hold(self) -> None:  # noqa: B027  (only a stream has to remember)
        """Note that a member's headers begin here, which may begin a new record."""

    def release(self) -> None:  # noqa: B027
        """Note that what was held belongs to the current record."""

    def begin(self) -> None:  # noqa: B027
        """Note that what was held begins a new record."""

    @abstractmethod
    def digest(self, start: int, stop: int) -> int:
        """Return xxh3_64 of a record that has just ended."""

    def header(self) -> bytes | None:
        """Return the next header; None at the end of the archive."""
        if self.total == 0:
            raise self.error("the file is empty")
        block = bytes(self.peek(_BLOCK))
        if block.count(0) == _BLOCK:
            return None
        self.skip_to(self.position + _BLOCK)
        return block

    def error(self, what: str) -> FormatError:
        """Return an error that names shard and offset."""
        return FormatError(f"{self.name}, byte {self.position:,}: {what}")

    def truncated(self) -> FormatError:
        """Return the error for an archive that ends too early."""
        return self.error("the shard is truncated: it stops inside a member or has no end-of-archive blocks")

    def check_tail(self, tail: bytes, length: int) -> bytes:
        """Return what follows the last member once it is known to be an end of archive and nothing else."""
        if length > MAX_TAIL_BYTES:
            raise self.error(f"more than {MAX_TAIL_BYTES:,} bytes follow the end of the archive")
        if tail.count(0) != len(tail):
            raise self.error("something follows the end of the archive: two archives in one file, or hidden data")
        if length < 2 * _BLOCK:
            raise self.truncated()
        return tail


class BufferCursor(Cursor):
    """A whole tar in memory (or mapped)."""

    def __init__(self, buffer: memoryview, name: str, limit: int | None) -> None:
        super().__init__(name, buffer.nbytes)
        self._buffer = buffer.cast("B")
        if limit is not None and buffer.nbytes > limit:
            raise self.error(f"the archive has {buffer.nbytes:,} bytes; at most {limit:,} were expected")

    def peek(self, size: int) -> memoryview:
        """Return a view of the next bytes."""
        part = self._buffer[self.position : self.position + size]
        if len(part) < size:
            raise self.truncated()
        return part

    def skip_to(self, position: int) -> None:
        """Move forward."""
        if position > len(self._buffer):
            raise self.truncated()
        self.position = position

    def rest(self) -> bytes:
        """Return what is left."""
        left = len(self._buffer) - self.position
        tail = bytes(self._buffer[self.position : self.position + MAX_TAIL_BYTES])
        self.position = len(self._buffer)
        return self.check_tail(tail, left)

    def digest(self, start: int, stop: int) -> int:
        """Hash a record."""
        return xxhash.xxh3_64_intdigest(self._buffer[start:stop])


class StreamCursor(Cursor):
    """A tar that comes out of a stream (a decompressor, say), in bounded memory."""

    def __init__(self, file: BinaryIO, name: str, limit: int | None) -> None:
        super().__init__(name, None)
        self._file = file
        self._limit = limit
        self._ahead = b""
        self._hash = xxhash.xxh3_64()
        self._held: list[bytes] = []
        self._holding = True
        self._read_bytes = 0

    def peek(self, size: int) -> bytes:
        """Return the next bytes."""
        while len(self._ahead) < size:
            more = self._read(size - len(self._ahead))
            if not more:
                raise self.error("the file is empty") if self._read_bytes == 0 else self.truncated()
            self._ahead += more
        return self._ahead[:size]

    def skip_to(self, position: int) -> None:
        """Move forward, hashing what is passed."""
        while self.position < position:
            if not self._ahead:
                self.peek(min(position - self.position, _CHUNK))
            passed = self._ahead[: position - self.position]
            self._ahead = self._ahead[len(passed) :]
            self.position += len(passed)
            if self._holding:
                self._held.append(passed)
            else:
                self._hash.update(passed)

    def hold(self) -> None:
        """Keep what is passed from here on out of the running hash: it may begin the next record."""
        self._holding = True

    def release(self) -> None:
        """Count what was held as part of the current record."""
        self._hash.update(b"".join(self._held))
        self._held.clear()
        self._holding = False

    def begin(self) -> None:
        """Start the hash of a new record."""
        self._hash.reset()

    def digest(self, start: int, stop: int) -> int:  # noqa: ARG002  (the running hash knows)
        """Return the running hash."""
        return self._hash.intdigest()

    def rest(self) -> bytes:
        """Return what is left."""
        tail = self._ahead
        while len(tail) <= MAX_TAIL_BYTES and (more := self._read(_CHUNK)):
            tail += more
        self.position += len(tail)
        return self.check_tail(tail[:MAX_TAIL_BYTES], len(tail))

    def _read(self, size: int) -> bytes:
        more = self._file.read(size)
        self._read_bytes += len(more)
        if self._limit is not None and self._read_bytes > self._limit:
            raise self.error(f"the shard decompresses to more than {self._limit:,} bytes, which is taken for a bomb")
        return more


def cursor_over(source: bytes | memoryview | BinaryIO, name: str, limit: int | None) -> Cursor:
    """Return the cursor for a buffer or a file."""
    if isinstance(source, (bytes, bytearray, memoryview, mmap.mmap)):
        return BufferCursor(memoryview(source), name, limit)
    return StreamCursor(source, name, limit)
