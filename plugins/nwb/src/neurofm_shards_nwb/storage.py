"""Opening files: every way in which an NWB file can fail to open has an error of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from neurofm_shards.errors import InputNotFoundError, SourceError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: Decoded chunks that are kept per dataset: a row of chunks of a 384-channel recording fits.
CHUNK_CACHE_BYTES = 64 << 20
_CHUNK_CACHE_SLOTS = 100_003
_ZARR_MARKERS = (".zgroup", ".zattrs", "zarr.json", ".zmetadata")


def is_zarr_store(path: str) -> bool:
    """Say whether a path is a Zarr folder."""
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
            f"{path} is not an HDF5 file, so it is not NWB (it begins with {head[:8]!r}): give its format with "
            "--format, or get the file again"
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
    """Say whether the signature follows a user block (HDF5 allows 512 bytes, doubled any number of times)."""
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
