"""HDF5 files: an error of its own for every way in which one fails to open, and reads by time whatever the chunks."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import InputNotFoundError, SourceError
from neurofm_shards_nwb.content import StoredArray

SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: Decoded chunks that are kept per dataset: a row of chunks of a 384-channel recording fits.
CHUNK_CACHE_BYTES = 64 << 20
_CHUNK_CACHE_SLOTS = 100_003
_ZARR_MARKERS = (".zgroup", ".zattrs", "zarr.json", ".zmetadata")


def is_zarr_store(path: str) -> bool:
    """Return whether a path is a Zarr folder."""
    return any((Path(path) / marker).exists() for marker in _ZARR_MARKERS)


def open_hdf5(path: str) -> Any:
    """Open an HDF5 file for reading.

    Parameters
    ----------
    path : str
        The file.

    Returns
    -------
    h5py.File
        With a chunk cache that suits reading a recording block by block.

    Raises
    ------
    InputNotFoundError
        There is no such file.
    SourceError
        It is a pointer of git-lfs or git-annex, empty, not HDF5, truncated, being written, or unreadable.
    """
    import h5py  # noqa: PLC0415  (only when a file is opened)

    check_content(path)
    try:
        return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES, rdcc_nslots=_CHUNK_CACHE_SLOTS)
    except OSError as error:
        raise SourceError(_open_problem(path, error)) from error


def check_content(path: str) -> None:
    """Refuse what cannot be HDF5 by looking at its first bytes; see :func:`open_hdf5`."""
    head = _head(path)
    if head.startswith(b"version https://git-lfs"):
        raise SourceError(
            f"{path} is a git-lfs pointer, not the recording itself: fetch it with 'git lfs pull' in its repository"
        )
    if b"annex/objects/" in head[:1024]:
        raise SourceError(_annex_problem(path))
    if not head:
        raise SourceError(f"{path} is empty (0 bytes): its download or copy never finished; get it again")
    if not head.startswith(SIGNATURE) and not _has_user_block(path):
        raise SourceError(
            f"{path} is not an HDF5 file, so it is not NWB (it begins with {head[:8]!r}): say its format with "
            "format=NAME, or get the file again"
        )


def _head(path: str) -> bytes:
    if os.path.islink(path) and not os.path.exists(path):  # noqa: PTH110, PTH114  (one system call each)
        target = os.readlink(path)  # noqa: PTH115
        if "annex/objects/" in target:
            raise SourceError(_annex_problem(path))
        raise InputNotFoundError(f"{path} is a symbolic link to {target}, which does not exist")
    try:
        with Path(path).open("rb") as file:
            return file.read(2048)
    except FileNotFoundError as error:
        raise InputNotFoundError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise SourceError(
            f"{path} is a folder and not a Zarr store, so it is no NWB file; give files or a glob"
        ) from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error


def _annex_problem(path: str) -> str:
    return f"{path} is a git-annex pointer, not the recording itself: fetch it with 'datalad get' or 'git annex get'"


def _has_user_block(path: str) -> bool:
    """Return whether the signature follows a user block (HDF5 allows 512 bytes, doubled any number of times)."""
    size = Path(path).stat().st_size
    offset = 512
    with Path(path).open("rb") as file:
        while offset < size:
            file.seek(offset)
            if file.read(8) == SIGNATURE:
                return True
            offset *= 2
    return False


def _open_problem(path: str, error: OSError) -> str:
    text = str(error)
    if isinstance(error, BlockingIOError) or "unable to lock file" in text:
        return (
            f"{path} is locked by a program that is writing it: wait until it is closed (on file systems without "
            f"locks set HDF5_USE_FILE_LOCKING=FALSE)"
        )
    if "already open for write" in text or "file consistency flags" in text:
        return f"{path} was not closed by the program that wrote it: close it there, or run 'h5clear -s' on a copy"
    if "truncated file" in text:
        return f"{path} is truncated ({_sizes(text)}): its download or copy never finished; get it again"
    return f"{path} is a damaged HDF5 file ({text}): get it again"


def _sizes(text: str) -> str:
    start = text.find("eof = ")
    return text[start:].rstrip(")") if start >= 0 else "shorter than its header says"


#: Rows of chunks that are kept: windows on the border of two need both.
_KEPT = 2


def time_reader(stored: StoredArray) -> Callable[[int, int], npt.NDArray[Any]]:
    """Return the best ``read(start, stop)`` along the first axis: the plain one, or one through a temporary file."""
    return SpooledReader(stored) if needs_spooling(stored) else stored.read


def needs_spooling(stored: StoredArray) -> bool:
    """Return whether the chunks that hold one instant do not fit the cache and have to be decoded as a whole."""
    chunks = stored.chunks
    if not chunks or not getattr(stored.data, "compression", None) or not stored.dtype.itemsize:
        return False
    wide = math.prod(-(-size // chunk) * chunk for size, chunk in zip(stored.shape[1:], chunks[1:], strict=True))
    return chunks[0] * wide * stored.dtype.itemsize > CHUNK_CACHE_BYTES


class SpooledReader:
    """Reads ranges of time through decoded copies of the last rows of chunks.

    Memory holds one chunk and the values asked for; the temporary file (in ``TMPDIR``) two rows of chunks.

    Parameters
    ----------
    stored : StoredArray
        A chunked HDF5 dataset, time along the first axis.
    """

    def __init__(self, stored: StoredArray) -> None:
        self._stored = stored
        self._rows: dict[int, _ChunkRow] = {}

    def __call__(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the values ``start`` to ``stop``."""
        length = (self._stored.chunks or (1,))[0]
        stop = min(stop, len(self._stored))
        if start >= stop:
            return self._stored.read(start, start)
        parts = [
            self._row(number).read(max(start, number * length), min(stop, (number + 1) * length))
            for number in range(start // length, (stop - 1) // length + 1)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _row(self, number: int) -> _ChunkRow:
        if number not in self._rows:
            while len(self._rows) >= _KEPT:
                self._rows.pop(next(iter(self._rows))).close()
            self._rows[number] = _ChunkRow(self._stored, number)
        return self._rows[number]


class _ChunkRow:
    """The decoded chunks that hold one stretch of time, one after the other in a temporary file."""

    def __init__(self, stored: StoredArray, number: int) -> None:
        chunks = stored.chunks or (1,)
        self._dtype, self._shape = stored.dtype, stored.shape[1:]
        self._start = number * chunks[0]
        self._stop = min(len(stored), self._start + chunks[0])
        axes = [
            [slice(at, min(at + chunk, size)) for at in range(0, size, chunk)]
            for size, chunk in zip(self._shape, chunks[1:], strict=True)
        ]
        self._places = list(itertools.product(*axes))
        self._file = tempfile.TemporaryFile(prefix="neurofm-shards-")  # noqa: SIM115  (lives as long as this object)
        self.close = weakref.finalize(self, self._file.close)
        for place in self._places:
            self._write(stored.part(self._start, self._stop, place), stored.where)
        self._file.flush()

    def _write(self, values: npt.NDArray[Any], where: str) -> None:
        try:
            self._file.write(np.ascontiguousarray(values).data.cast("B"))
        except OSError as error:
            raise SourceError(
                f"{where} has chunks of a whole stretch of time, which are decoded into {tempfile.gettempdir()}: "
                f"{error.strerror or error}; set TMPDIR to a folder with more room"
            ) from error

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the values ``start`` to ``stop``, which lie in this row."""
        out = np.empty((stop - start, *self._shape), dtype=self._dtype)
        offset = 0
        for place in self._places:
            shape = tuple(part.stop - part.start for part in place)
            width = math.prod(shape) * self._dtype.itemsize
            raw = os.pread(self._file.fileno(), (stop - start) * width, offset + (start - self._start) * width)
            where = (slice(None), *place)
            out[where] = np.frombuffer(raw, dtype=self._dtype).reshape(stop - start, *shape)
            offset += (self._stop - self._start) * width
        return out
