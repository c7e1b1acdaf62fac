"""Arrays that lie in a file and are read in pieces."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import SourceError


@dataclass(frozen=True)
class StoredArray:
    """An h5py or Zarr dataset (or an array pynwb holds in memory), with its place in the file for messages.

    Attributes
    ----------
    data : object
        Anything with ``shape``, ``dtype`` and slicing, or a list.
    where : str
        ``"FILE: path/in/file"``.
    """

    data: Any
    where: str
    process: int = field(default_factory=os.getpid)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as stored; ``()`` for a dataset without a dataspace, which holds nothing."""
        shape = self.data.shape if hasattr(self.data, "shape") else np.shape(self.data)
        return tuple(int(n) for n in shape or ())

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values as stored; ``object`` for text and references."""
        dtype = getattr(self.data, "dtype", None)
        return dtype if isinstance(dtype, np.dtype) else np.asarray(self.data[:0] if self.shape else self.data).dtype

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Chunk shape, or None where the data are contiguous."""
        return getattr(self.data, "chunks", None)

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def read(self, start: int, stop: int, axis: int = 0) -> npt.NDArray[Any]:
        """Return the values ``start`` to ``stop`` along ``axis``.

        Raises
        ------
        SourceError
            The values cannot be decoded, or another process opened the file.
        """
        return self.part(start, stop, (), axis)

    def part(self, start: int, stop: int, other: tuple[slice, ...], axis: int = 0) -> npt.NDArray[Any]:
        """Return the values ``start`` to ``stop`` along ``axis``, and only those in ``other`` along the axes behind it.

        Raises
        ------
        SourceError
            See :meth:`read`.
        """
        if os.getpid() != self.process:
            raise SourceError(
                f"{self.where} was opened by process {self.process} and is read in {os.getpid()}: HDF5 handles do not "
                "survive a fork; open the file in the process that reads it"
            )
        where: Any = ((slice(None),) * axis) + (slice(start, stop), *other)
        where = where if len(where) > 1 else where[0]
        try:
            return np.asarray(self.data[where])
        except (OSError, RuntimeError, ValueError, KeyError) as error:  # what h5py raises for damaged data
            raise SourceError(self._read_problem(start, stop, error)) from error

    def all(self) -> npt.NDArray[Any]:
        """Return all values."""
        return self.read(0, len(self))

    def _read_problem(self, start: int, stop: int, error: Exception) -> str:
        text = str(error)
        if "required filter" in text or "can't open directory" in text or "plugin" in text:
            return (
                f"{self.where} is stored with an HDF5 filter that is not installed ({text}): install it, for most "
                "with 'pip install hdf5plugin' and 'import hdf5plugin' in a --plugin file"
            )
        return (
            f"{self.where}: values {start} to {stop} cannot be read ({text}): a chunk is damaged; get the file again, "
            "or leave this series out with --modalities"
        )


def text(value: object) -> str:
    """Return stored text, which is bytes in some files and str in others, as str without surrounding blanks."""
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else " ".join(text(part) for part in value.ravel())
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return "" if value is None else str(value).strip()


def plain(value: object) -> Any:
    """Turn one stored value into what JSON can hold: numbers, bools, text, lists; objects become their names."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (np.ndarray, list, tuple)):
        parts = value.tolist() if isinstance(value, np.ndarray) else value
        return [plain(part) for part in parts] if isinstance(parts, (list, tuple)) else plain(parts)
    if isinstance(value, bytes):
        return text(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    return str(getattr(value, "name", None) or type(value).__name__)
