"""Output arrays that are used again once nobody holds them."""

from __future__ import annotations

import math
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Bytes

#: Smaller arrays are left to malloc, which keeps them. Larger ones it returns to the system each time (in threads even
#: sooner than in the main one), and getting fresh pages costs as much as the copy.
POOLED_BYTES = 128 << 10
_KEPT = 8
#: Buffers of small batches are many at once, when several workers prefetch.
_MOST_KEPT = 32
_KEPT_BYTES = 96 << 20


#: Whose arrays each thread is given.
_lender = threading.local()


class BufferPool:
    """Hands out uninitialised arrays; recycles the memory of those that nobody refers to any more.

    A batch that the caller keeps (the array, a view of it, a tensor made of it) holds its memory, so no later batch can
    change an earlier one. Thread-safe.

    Parameters
    ----------
    allocate : callable, optional
        Returns so many bytes of new memory.
    """

    def __init__(self, allocate: Callable[[int], Bytes] | None = None) -> None:
        self._lock = threading.Lock()
        self._allocate = _plain if allocate is None else allocate
        self._buffers: list[Bytes] = []
        self._idle = _holders([np.empty(0, np.uint8)], 0)
        # without the GIL a reference count is spread over threads and says nothing
        self._counts = not sysconfig.get_config_var("Py_GIL_DISABLED")

    def __reduce__(self) -> tuple[type[BufferPool], tuple[()]]:
        return BufferPool, ()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let all pools give out this one's arrays, in this thread, until the end of the block."""
        before, _lender.pool = getattr(_lender, "pool", None), self
        try:
            yield
        finally:
            _lender.pool = before

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """Return an array of this shape and type with undefined content."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if size < POOLED_BYTES or not self._counts:
            return np.empty(shape, kind)
        pool = getattr(_lender, "pool", None) or self
        with pool._lock:  # noqa: SLF001  (its own class)
            buffer = pool._free(size)  # noqa: SLF001
            return buffer[:size].view(kind).reshape(shape)

    def _free(self, size: int) -> Bytes:
        """Return an idle buffer of nearly this size, or a new one; called with the lock held."""
        for i in reversed(range(len(self._buffers))):  # the one used last may still be in the processor's cache
            if size <= self._buffers[i].size <= 2 * size and _holders(self._buffers, i) == self._idle:
                self._buffers.append(self._buffers.pop(i))
                return self._buffers[-1]
        kept = max(_KEPT, min(_MOST_KEPT, _KEPT_BYTES // size))
        self._buffers = self._buffers[-(kept - 1) :]
        self._buffers.append(self._allocate(size))
        return self._buffers[-1]


def is_lent() -> bool:
    """Return whether this thread's arrays come from a pool of somebody's own."""
    return getattr(_lender, "pool", None) is not None


def _plain(size: int) -> Bytes:
    return np.empty(size, np.uint8)


def _holders(buffers: list[Bytes], i: int) -> int:
    """Count the references to a buffer; compared only with this function's own count for an idle one."""
    return sys.getrefcount(buffers[i])
