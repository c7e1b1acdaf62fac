"""The stretch of tar that is being laid out: records are put in, hashed, and leave in large pieces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from neurofm_shards.shards.sinks import Sink
from neurofm_shards.types import Buffer


class RecordBuffer:
    """Collects whole records, one at a time or many of one length, and passes them on.

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
        self._take()
        self.position = 0

    def _take(self) -> None:
        self._bytes = self._sink.borrow()
        self._view = memoryview(self._bytes)
        self._array = np.frombuffer(self._bytes, np.uint8)
        self._used = 0

    def append(self, pieces: Sequence[Buffer], size: int) -> int:
        """Put one record in; return its digest."""
        if size > len(self._view) - self._used:
            self.flush()
            if size > len(self._view):
                return self._pass_through(pieces, size)
        start = end = self._used
        view = self._view
        for piece in pieces:
            view[end : (end := end + len(piece))] = piece
        self._used = end
        self.position += size
        return xxhash.xxh3_64_intdigest(view[start:end])

    def _pass_through(self, pieces: Sequence[Buffer], size: int) -> int:
        digest = xxhash.xxh3_64()
        for piece in pieces:
            digest.update(piece)
        self._sink.write_through(pieces)
        self.position += size
        return digest.intdigest()

    def room(self, size: int) -> int:
        """Return how many records of one length fit; none fit only when one is larger than a whole buffer."""
        if len(self._view) - self._used < size:
            self.flush()
        return (len(self._view) - self._used) // size

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

    def flush(self) -> None:
        """Pass on what is there."""
        if self._used:
            buffer, used = self._bytes, self._used
            self._view.release()
            self._sink.submit(buffer, used)
            self._take()

    def finish(self, tail: bytes) -> None:
        """Put the end of the archive behind everything and pass it on."""
        self.flush()
        self._sink.write_through([tail])
        self.position += len(tail)
