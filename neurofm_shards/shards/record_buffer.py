"""The stretch of tar that is being laid out: records are put in, hashed, and leave in large pieces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from neurofm_shards.types import Buffer
from neurofm_shards.writing.sinks import PIECE_BYTES, Sink


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
