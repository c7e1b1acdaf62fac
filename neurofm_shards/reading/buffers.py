"""Output arrays that are used again once nobody holds them."""

from __future__ import annotations

import math
import sys
import sysconfig
import threading

import numpy as np
import numpy.typing as npt

#: Smaller arrays are left to malloc, which keeps them. Larger ones it returns to the system each time (in threads even
#: sooner than in the main one), and getting fresh pages costs as much as the copy.
POOLED_BYTES = 128 << 10
_KEPT = 8
#: Buffers of small batches are many at once, when several workers prefetch.
_MOST_KEPT = 32
_KEPT_BYTES = 96 << 20


class BufferPool:
    """Hands out uninitialised arrays; recycles the memory of those that nobody refers to any more.

    A batch that the caller keeps (the array, a view of it, a tensor made of it) holds its memory, so no later batch can
    change an earlier one. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buffers: list[npt.NDArray[np.uint8]] = []
        self._idle = _holders([np.empty(0, np.uint8)], 0)
        # without the GIL a reference count is spread over threads and says nothing
        self._counts = not sysconfig.get_config_var("Py_GIL_DISABLED")

    def __reduce__(self) -> tuple[type[BufferPool], tuple[()]]:
        return BufferPool, ()

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """Return an array of this shape and type with undefined content."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if size < POOLED_BYTES or not self._counts:
            return np.empty(shape, kind)
        with self._lock:
            buffer = self._free(size)
            return buffer[:size].view(kind).reshape(shape)

    def _free(self, size: int) -> npt.NDArray[np.uint8]:
        """Return an idle buffer of nearly this size, or a new one; called with the lock held."""
        for i in reversed(range(len(self._buffers))):  # the one used last may still be in the processor's cache
            if size <= self._buffers[i].size <= 2 * size and _holders(self._buffers, i) == self._idle:
                self._buffers.append(self._buffers.pop(i))
                return self._buffers[-1]
        kept = max(_KEPT, min(_MOST_KEPT, _KEPT_BYTES // size))
        self._buffers = self._buffers[-(kept - 1) :]
        self._buffers.append(np.empty(size, np.uint8))
        return self._buffers[-1]


def _holders(buffers: list[npt.NDArray[np.uint8]], i: int) -> int:
    """Count the references to a buffer; compared only with what this very function says of an idle one."""
    return sys.getrefcount(buffers[i])
