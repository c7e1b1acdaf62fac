"""One reserved range of addresses, in which a whole data set lies as one array of bytes.

Shards are mapped into their places when they are first touched, so that one fancy index gathers rows of any number of
shards. Nothing but ``mmap``, ``munmap`` and ``madvise`` of the C library is called; Linux and macOS have all three.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Bytes
from neurofm_shards.errors import FormatError
from neurofm_shards.format.files import HUGE_PAGE
from neurofm_shards.values import starts_of

PAGE = mmap.PAGESIZE
_PROT_NONE = 0
_MAP_FIXED = 0x10  # the same on Linux and macOS
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0x40
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
_FAILED = ctypes.c_void_p(-1).value
#: Maps that other parts of the process (libraries, thread stacks) are left with.
_SPARE_MAPS = 4096


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    libc.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_int64]
    libc.mmap.restype = pointer
    libc.munmap.argtypes = [pointer, size]
    libc.madvise.argtypes = [pointer, size, number]
    return libc


def _mmap(address: int | None, size: int, protection: int, flags: int, fd: int = -1, start: int = 0) -> int:
    found: int | None = _libc().mmap(address, size, protection, flags, fd, start)
    if found is None or found == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found


def page_ceil(size: int) -> int:
    """Round up to whole pages."""
    return -(-size // PAGE) * PAGE


def places(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return offsets for files of these sizes, one behind the other, and where the last one ends.

    Each begins at the edge of a huge page where one of them fills such a page: only there can the system use the huge
    pages that it keeps files in. That costs addresses, and no memory.
    """
    unit = HUGE_PAGE if len(sizes) and sizes.max() >= HUGE_PAGE else PAGE
    return starts_of(-(-sizes // unit) * unit)


def most_maps() -> int:
    """Return how many files one process may map at once, with some left for others."""
    try:
        limit = int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))
    except (OSError, ValueError):  # not Linux: there is no such limit
        return sys.maxsize
    return max(0, limit - _SPARE_MAPS)


class _Memory:
    """What numpy asks for an array over an address."""

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__: dict[str, Any] = {
            "data": (address, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }


class AddressRange:
    """A range of addresses; parts of it are files or memory, the rest may not be touched.

    Parameters
    ----------
    size : int
        Bytes to reserve. Reserving costs no memory.

    Attributes
    ----------
    bytes : numpy.ndarray of uint8, shape (size,)
        The whole range. Reading a part that holds nothing is a crash: callers keep account of what is there. No
        view of it may outlive ``close``.

    Raises
    ------
    OSError
        The platform does not give such a range (an address-space limit, say).
    """

    def __init__(self, size: int) -> None:
        self.size = page_ceil(max(size, 1))
        reserved = self.size + HUGE_PAGE
        start = _mmap(None, reserved, _PROT_NONE, _ANONYMOUS)
        self._address = -(-start // HUGE_PAGE) * HUGE_PAGE
        self.bytes: Bytes = np.asarray(_Memory(self._address, self.size))
        self._release = weakref.finalize(self, _libc().munmap, start, reserved)
        self._release.atexit = False  # the system does it then, when no thread can be reading any more

    def map_file(self, offset: int, fd: int, size: int) -> None:
        """Put a file, read-only, at ``offset`` (a multiple of the page size)."""
        self._check(offset, size)
        _mmap(self._address + offset, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, fd)

    def map_memory(self, offset: int, size: int) -> None:
        """Put empty writeable memory at ``offset``; it takes no room until it is written to."""
        self._check(offset, size)
        _mmap(self._address + offset, page_ceil(size), mmap.PROT_READ | mmap.PROT_WRITE, _ANONYMOUS | _MAP_FIXED)

    def map_scratch(self, offset: int, size: int, fd: int, start: int) -> None:
        """Put bytes of a file that only this process has, which may be written to, at ``offset``."""
        self._check(offset, size)
        protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED
        _mmap(self._address + offset, page_ceil(size), protection, flags, fd, start)

    def _check(self, offset: int, size: int) -> None:
        if not 0 <= offset <= self.size - size:  # a fixed map elsewhere would replace somebody else's memory
            raise FormatError(f"{size:,} bytes at {offset:,} do not fit into the {self.size:,} of the data set")

    def drop(self, start: int, stop: int) -> None:
        """Give the memory of all whole pages in a range back; they read as zero afterwards."""
        start, stop = page_ceil(start), stop // PAGE * PAGE
        if stop <= start:
            return
        if sys.platform == "linux":
            _libc().madvise(self._address + start, stop - start, mmap.MADV_DONTNEED)
        else:  # elsewhere the advice is only a hint: new memory in the same place is not
            self.map_memory(start, stop - start)

    def close(self) -> None:
        """Give the whole range back."""
        self.bytes = np.empty(0, np.uint8)
        self._release()
