"""Cutting a tar into compressed frames, and saying where they lie."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from neurofm_shards._process import usable_cpus
from neurofm_shards.errors import FormatError
from neurofm_shards.values import starts_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from neurofm_shards.plugins.interfaces import Compression
    from neurofm_shards.types import Buffer

#: Bytes of tar in one frame (the last one is shorter).
FRAME_BYTES = 1 << 20
#: No frame of a table may decode to more.
MAX_FRAME_BYTES = 1 << 24


@dataclass(frozen=True)
class FrameTable:
    """Where the frames of a compressed shard lie.

    Attributes
    ----------
    raw_bounds : numpy.ndarray of int64, shape (frames + 1,)
        Frame ``i`` holds the bytes ``raw_bounds[i]`` to ``raw_bounds[i + 1]`` of the decoded tar.
    file_offsets : numpy.ndarray of int64, shape (frames,)
        Where the frame's compressed bytes begin in the file.
    file_sizes : numpy.ndarray of int64, shape (frames,)
        How many compressed bytes it has.
    """

    raw_bounds: npt.NDArray[np.int64]
    file_offsets: npt.NDArray[np.int64]
    file_sizes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.file_offsets)

    def to_arrays(self) -> dict[str, npt.NDArray[np.int64]]:
        """Return the three arrays by name."""
        return {"raw_bounds": self.raw_bounds, "file_offsets": self.file_offsets, "file_sizes": self.file_sizes}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], *, tar_bytes: int, file_bytes: int) -> FrameTable:
        """Rebuild a table that came from outside.

        Parameters
        ----------
        arrays : mapping of str to numpy.ndarray
            What :meth:`to_arrays` gave.
        tar_bytes, file_bytes : int
            Sizes of the decoded tar and of the file, which the frames may not leave.

        Raises
        ------
        FormatError
            An array is missing or of another kind, or the frames leave the tar or the file, overlap or have holes.
        """
        try:
            raw, offsets, sizes = (_int64(arrays[name], name) for name in ("raw_bounds", "file_offsets", "file_sizes"))
        except KeyError as error:
            raise FormatError(f"the frame table lacks {error.args[0]!r}") from error
        if len(raw) != len(offsets) + 1 or len(sizes) != len(offsets):
            raise FormatError(f"the frame table has {len(raw)} bounds, {len(offsets)} offsets and {len(sizes)} sizes")
        _check_raw(raw, tar_bytes)
        _check_file(offsets, sizes, file_bytes)
        return cls(raw, offsets, sizes)


def _int64(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.int64]:
    if array.dtype != np.int64 or array.ndim != 1:
        raise FormatError(f"the frame table's {name} is {array.dtype}, {array.ndim}-dimensional, not a row of int64")
    return array


def _check_raw(raw: npt.NDArray[np.int64], tar_bytes: int) -> None:
    if raw[0] != 0 or raw[-1] != tar_bytes or bool((raw[1:] <= raw[:-1]).any()):
        raise FormatError(f"the frame table's raw bounds do not run from 0 to {tar_bytes}")
    if len(raw) > 1 and int(np.diff(raw).max()) > MAX_FRAME_BYTES:
        raise FormatError(f"a frame decodes to {int(np.diff(raw).max())} bytes, more than {MAX_FRAME_BYTES}")


def _check_file(offsets: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], file_bytes: int) -> None:
    inside = (offsets >= 0) & (sizes > 0) & (offsets <= file_bytes) & (sizes <= file_bytes)
    if not bool(inside.all()) or bool((offsets > file_bytes - sizes).any()):
        raise FormatError(f"the frame table leaves its file of {file_bytes} bytes")
    if bool((offsets[1:] < offsets[:-1] + sizes[:-1]).any()):
        raise FormatError("frames of the frame table overlap")


class FrameWriter:
    """Compresses what is written to it, frame by frame, in threads, with bounded memory.

    The bytes of the file are the same for every number of threads.

    Parameters
    ----------
    file : binary file
        Where the compressed bytes go; written from the calling thread only.
    compression : Compression
        What compresses.
    threads : int, optional
        How many frames are compressed at once; by default the number of processors, at most 4. At most twice as many
        frames are held in memory.
    """

    def __init__(self, file: BinaryIO, compression: Compression, threads: int | None = None) -> None:
        self._file = file
        self._compress = compression.compress_frame
        self._random_access = compression.random_access
        self._assembler = compression.assembler()
        self._threads = max(1, min(4, usable_cpus()) if threads is None else threads)
        self._pool = ThreadPoolExecutor(self._threads, "compress") if self._threads > 1 else None
        self._running: deque[tuple[bytearray, Future[bytes]]] = deque()
        self._frame = bytearray(FRAME_BYTES)
        self._filled = 0
        self._raw_sizes: list[int] = []
        self._file_sizes: list[int] = []
        start = self._assembler.start()
        self._first = len(start)
        file.write(start)

    def write(self, data: Buffer) -> None:
        """Add bytes of the tar; they are copied, so the caller may reuse its buffer."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            room = min(FRAME_BYTES - self._filled, len(view) - done)
            self._frame[self._filled : self._filled + room] = view[done : done + room]
            self._filled += room
            done += room
            if self._filled == FRAME_BYTES:
                self._submit(self._frame)
                self._frame, self._filled = bytearray(FRAME_BYTES), 0

    @property
    def raw_bytes(self) -> int:
        """Bytes of tar that were compressed so far."""
        return sum(self._raw_sizes)

    def close(self) -> FrameTable | None:
        """Write what is left and the end of the file; does not close the file.

        Returns
        -------
        FrameTable or None
            None when the compression has no random access.
        """
        try:
            if self._filled:
                self._submit(self._frame[: self._filled])
            while self._running:
                self._finish_one()
            self._file.write(self._assembler.finish())
        finally:
            self.abort()
        return self._table() if self._random_access else None

    def abort(self) -> None:
        """Stop the threads and drop what is not written; harmless after ``close``."""
        self._running.clear()
        self._frame, self._filled = bytearray(), 0
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()

    def _submit(self, frame: bytearray) -> None:
        if self._pool is None:
            self._add(frame, self._compress(frame))
            return
        self._running.append((frame, self._pool.submit(self._compress, frame)))
        if len(self._running) >= 2 * self._threads:
            self._finish_one()

    def _finish_one(self) -> None:
        frame, future = self._running.popleft()
        self._add(frame, future.result())

    def _add(self, frame: bytearray, compressed: bytes) -> None:
        part = self._assembler.add(frame, compressed)
        self._file.write(part)
        self._raw_sizes.append(len(frame))
        self._file_sizes.append(len(part))

    def _table(self) -> FrameTable:
        sizes = np.array(self._file_sizes, np.int64)
        return FrameTable(
            starts_of(self._raw_sizes),
            self._first + np.cumsum(sizes, dtype=np.int64) - sizes,
            sizes,
        )
