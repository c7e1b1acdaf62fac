"""Which parts of an HDF5 dataset hold no values: HDF5 gives zeros for them, as if they were data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards_nwb.outside import candidates, without_folders

#: H5D_SPACE_STATUS_ALLOCATED: all of a dataset has its place in the file.
_ALLOCATED = 2
_SHOWN = 3


def unwritten(data: Any, inside: frozenset[tuple[str, str]] = frozenset()) -> str:
    """Return which part of an HDF5 dataset was never written; empty for whole ones and for other arrays.

    Not-a-number as fill value says as much itself. ``inside`` are the virtual datasets that this one is a source of.
    """
    status = getattr(getattr(data, "id", None), "get_space_status", None)
    if status is None or (status() == _ALLOCATED and data.id.get_storage_size()) or not data.size or data.external:
        return ""
    if data.is_virtual:
        own = (data.file.filename, data.name)
        return "it is put together of itself" if own in inside else _missing_sources(data, inside | {own})
    if _says_so_itself(data):
        return ""
    if data.chunks is None:
        return "its values were never written"
    want = math.prod(-(-size // chunk) for size, chunk in zip(data.shape, data.chunks, strict=True))
    return f"{want - data.id.get_num_chunks()} of its {want} chunks were never written"


def unwritten_rows(data: Any) -> npt.NDArray[np.bool_]:
    """Return which rows of an array hold values that were never written; all where that cannot be told apart."""
    missing = np.zeros(int(data.shape[0]) if np.ndim(data) else 0, dtype=bool)
    if not unwritten(data):
        return missing
    if data.is_virtual or data.chunks is None:
        return ~missing
    length, *across = (-(-size // chunk) for size, chunk in zip(data.shape, data.chunks, strict=True))
    offsets = [data.id.get_chunk_info(i).chunk_offset[0] for i in range(data.id.get_num_chunks())]
    written = np.bincount(np.array(offsets, dtype=np.int64) // data.chunks[0], minlength=length)
    return np.repeat(written < math.prod(across), data.chunks[0])[: len(missing)]


def _says_so_itself(data: Any) -> bool:
    return bool(data.dtype.kind == "f" and np.isnan(data.fillvalue))


def _missing_sources(data: Any, inside: frozenset[tuple[str, str]]) -> str:
    """Return what a virtual dataset lacks: files, datasets in them, values of those, or a source for some values."""
    sources = data.virtual_sources()
    files = {source.file_name: _found(data, source.file_name) for source in sources}
    if lost := sorted(without_folders(name) for name, path in files.items() if path is None):
        return f"it is put together of other files, and {', '.join(lost[:_SHOWN])} cannot be found"
    for name, place in sorted({(source.file_name, source.dset_name) for source in sources}):
        if what := _missing_in(data.file if name == "." else None, files[name], place, inside):
            return f"it is put together of other datasets, and of {place} in {without_folders(name)}: {what}"
    bare = data.size - sum(_points(source.vspace, data.size) for source in sources)
    if bare > 0 and not _says_so_itself(data):
        return f"it is put together of other datasets, and {bare} of its {data.size} values come from none"
    return ""


def _found(data: Any, named: str) -> Path | None:
    """Return the file that a virtual dataset names."""
    path = Path(data.file.filename)
    return path if named == "." else next((place for place in candidates(named, path) if place.is_file()), None)


def _missing_in(file: Any, path: Path | None, place: str, inside: frozenset[tuple[str, str]]) -> str:
    """Return what a source of a virtual dataset lacks, in an open file or in one at a path."""
    import h5py  # noqa: PLC0415  (only when a file is opened)

    if file is None:
        with h5py.File(path, "r") as other:
            return _missing_in(other, path, place, inside)
    source = file.get(place)
    return unwritten(source, inside) if isinstance(source, h5py.Dataset) else "there is no such dataset"


def _points(space: Any, most: int) -> int:
    """Return how many values a selection holds; all where it grows with its source."""
    import h5py  # noqa: PLC0415  (only when a file is opened)

    if space.get_select_type() == h5py.h5s.SEL_HYPERSLABS and space.is_regular_hyperslab():
        _, _, count, block = space.get_regular_hyperslab()
        if h5py.h5s.UNLIMITED in (*count, *block):
            return most
    return int(space.get_select_npoints())
