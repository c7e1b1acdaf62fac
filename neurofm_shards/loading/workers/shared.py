"""Memory that two processes share and that has no name: nothing is left of it once both are gone."""

from __future__ import annotations

import io
import mmap
import os
import pickle
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

_ALIGNMENT = 64

#: Which tensor of a package it is, and what lies where: number, offset, dtype, shape.
_TensorId: TypeAlias = "tuple[int, int, str, tuple[int, ...]]"


def anonymous_memory(size: int) -> tuple[mmap.mmap, int]:
    """Return writeable shared memory and the descriptor by which another process can map it too (raises OSError)."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("neurofm-shards", os.MFD_CLOEXEC)
    else:  # macOS: a file that loses its name at once
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        os.ftruncate(fd, size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        return mmap.mmap(fd, size), fd
    except BaseException:
        os.close(fd)
        raise


@dataclass(frozen=True)
class Packed:
    """An object whose tensors are to be laid into shared memory.

    Attributes
    ----------
    skeleton : bytes
        The object, pickled, with a number in place of each tensor.
    tensors : tuple of torch.Tensor
        What those numbers stand for.
    offsets : tuple of int
        Where each tensor goes; the skeleton comes last.
    """

    skeleton: bytes
    tensors: tuple[torch.Tensor, ...]
    offsets: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes needed."""
        return self.offsets[-1] + len(self.skeleton)

    def write(self, memory: mmap.mmap) -> tuple[int, int]:
        """Lay everything into memory; return where the skeleton lies and how long it is."""
        import torch  # noqa: PLC0415  (loading alone needs torch)

        space = torch.frombuffer(memory, dtype=torch.uint8)
        for tensor, offset in zip(self.tensors, self.offsets, strict=False):
            place = space[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            place.copy_(tensor)
        start = self.offsets[-1]
        memory[start : start + len(self.skeleton)] = self.skeleton
        return start, len(self.skeleton)


def pack(value: Any) -> Packed:
    """Take the tensors out of an object; what is not a plain CPU tensor is pickled as it is."""
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    pickler.dump(value)
    return Packed(stream.getvalue(), tuple(pickler.tensors), tuple(pickler.offsets))


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=5)
        import torch  # noqa: PLC0415  (loading alone needs torch)

        self._plain = torch.Tensor
        self._strided = torch.strided
        self.tensors: list[torch.Tensor] = []
        self.offsets = [0]
        self._numbers: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> _TensorId | None:
        """Return the persistent id of a tensor; one that comes again keeps its own (nested ones share offsets)."""
        if type(obj) is not self._plain or obj.layout is not self._strided or obj.device.type != "cpu":
            return None
        if obj.requires_grad or obj.is_nested or obj.is_quantized or obj.is_conj() or obj.is_neg():
            return None
        number = self._numbers.setdefault(id(obj), len(self.tensors))
        if number == len(self.tensors):
            self.tensors.append(obj)
            self.offsets.append(self.offsets[-1] + -(-obj.nbytes // _ALIGNMENT) * _ALIGNMENT)
        return number, self.offsets[number], str(obj.dtype).removeprefix("torch."), tuple(obj.shape)


def unpack(memory: mmap.mmap, skeleton: tuple[int, int], released: Callable[[], object], *, copy: bool = False) -> Any:
    """Rebuild an object whose tensors are views of the memory.

    Parameters
    ----------
    memory : mmap.mmap
        What :meth:`Packed.write` wrote to.
    skeleton : (int, int)
        What it returned.
    released : callable
        Called once nobody holds any of the tensors, or views of them, any more; from whatever thread let go last.
    copy : bool
        Make the tensors copies; the memory is released at once then.
    """
    root = np.frombuffer(memory, np.uint8)
    # every tensor's storage refers to this one array, so its end is the end of them all
    weakref.finalize(root, released).atexit = False
    start, length = skeleton
    return _Unpickler(io.BytesIO(memory[start : start + length]), root, copy=copy).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, root: np.ndarray[Any, np.dtype[np.uint8]], *, copy: bool) -> None:
        super().__init__(stream)
        self._copy = copy
        self._root = root
        self._tensors: dict[int, torch.Tensor] = {}

    def persistent_load(self, pid: _TensorId) -> torch.Tensor:
        """Return a tensor of the package, the same one whenever it is asked for."""
        number, offset, name, shape = pid
        if number not in self._tensors:
            self._tensors[number] = self._made(offset, name, shape)
        return self._tensors[number]

    def _made(self, offset: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        import torch  # noqa: PLC0415  (loading alone needs torch)

        dtype: torch.dtype = getattr(torch, name)
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        tensor = torch.from_numpy(self._root[offset : offset + size]).view(dtype).view(shape)
        return tensor.clone() if self._copy else tensor
