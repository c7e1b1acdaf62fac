"""One shard's file, as the read side sees it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import FormatError, InputNotFoundError
from neurofm_shards.format.files import open_regular

if TYPE_CHECKING:
    from neurofm_shards._typing import Bytes
    from neurofm_shards.compression.frames import FrameTable
    from neurofm_shards.plugins.interfaces import Compression
    from neurofm_shards.reading.frames_cache import FrameSource


@dataclass(frozen=True)
class ShardFile:
    """A shard, plain or compressed.

    Attributes
    ----------
    path : Path
        The file.
    file_bytes : int
        Its size, which must still be that when it is opened.
    tar_bytes : int
        Size of the decoded tar.
    compression : Compression or None
        None for a plain tar.
    table : FrameTable or None
        Where its frames lie; None when it can only be decoded from its beginning.
    """

    path: Path
    file_bytes: int
    tar_bytes: int
    compression: Compression | None = None
    table: FrameTable | None = None

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
        """Open the file and return its descriptor, which the caller closes.

        Raises
        ------
        InputNotFoundError
            The file is gone.
        FormatError
            The file's size is not what the index says: it was truncated or replaced.
        """
        try:
            fd = open_regular(self.path)
        except InputNotFoundError:
            raise InputNotFoundError(f"{self.path}: this shard of the data set is gone; bring it back") from None
        size = os.fstat(fd).st_size
        if size != self.file_bytes:
            os.close(fd)
            raise FormatError(
                f"{self.path}: {size} bytes, but its index says {self.file_bytes}: the shard was truncated or "
                "changed; restore it, or run `neurofm-shards repair`"
            )
        return fd

    def frames(self, out: Bytes) -> FrameSource:
        """Return what decodes this shard, frame by frame, into ``out`` (its whole decoded tar)."""
        if self.compression is None:
            raise FormatError(f"{self.path}: not compressed, so it has no frames")
        if self.table is None or not self.compression.random_access:
            return _Whole(self, self.compression, out)
        return _Frames(self, self.compression, self.table, out)


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
