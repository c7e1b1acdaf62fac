"""Which shards make up a data set, found out without opening them where a manifest says it."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neurofm_shards._typing import Ints
from neurofm_shards.errors import FormatError, InputNotFoundError, NoShardsError
from neurofm_shards.format.files import names_in
from neurofm_shards.format.index_io import load_index
from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.format.manifest import MANIFEST_NAME
from neurofm_shards.shards.manifest import read_manifest
from neurofm_shards.shards.unfinished import why_unfinished
from neurofm_shards.types import ColumnSpec

if TYPE_CHECKING:
    from neurofm_shards.format.index import ShardIndex
    from neurofm_shards.format.manifest import Manifest


DEFAULT_PATTERN = "shard_*.tar*"
#: Endings of files that are still being written, or that lie beside shards.
_NOT_SHARDS = (".tmp", ".part", ".partial", ".incomplete", ".lock", ".idx", ".index", ".json", "~")


@dataclass(frozen=True)
class CatalogColumn:
    """One field of the data set.

    Attributes
    ----------
    spec : ColumnSpec
        As stored.
    everywhere : bool
        Whether every sample has it.
    codecs : tuple of str
        Names of the codecs that wrote it.
    """

    spec: ColumnSpec
    everywhere: bool
    codecs: tuple[str, ...]


@dataclass(frozen=True)
class Catalog:
    """The shards of a data set, in order.

    Attributes
    ----------
    folder : Path
        Where they lie.
    names : tuple of str
        File names.
    num_samples, file_bytes, tar_bytes : numpy.ndarray of int64, shape (shards,)
        Samples, size of the file, size of the decoded tar.
    checksums : tuple of str
        One per shard; a shard's identity.
    columns : mapping of str to CatalogColumn
        All fields but the metadata, in the order of the members.
    manifest : Manifest or None
        None for shards from elsewhere.
    indexes : mapping of int to ShardIndex
        Those that had to be read already.
    """

    folder: Path
    names: tuple[str, ...]
    num_samples: Ints
    file_bytes: Ints
    tar_bytes: Ints
    checksums: tuple[str, ...]
    columns: Mapping[str, CatalogColumn]
    manifest: Manifest | None = None
    indexes: Mapping[int, ShardIndex] = field(default_factory=dict)


def read_catalog(shard_dir: Path | str, pattern: str | None = None, num_shards: int | None = None) -> Catalog:
    """Find the shards of a folder.

    Parameters
    ----------
    shard_dir : path-like
        A folder, or one shard.
    pattern : str or None
        Names to take. None: all that the manifest lists, or ``shard_*.tar*`` where there is none.
    num_shards : int or None
        Take the first so many only.

    Raises
    ------
    InputNotFoundError
        There is no such folder.
    NoShardsError
        No shard matches.
    FormatError
        The conversion was never finished, a listed shard is missing, or manifest or index is damaged.
    """
    path = Path(shard_dir)
    if os.path.isfile(path):  # noqa: PTH113  (Path raises where a folder above may not be searched)
        return _from_indexes(path.parent, [path.name])
    if not os.path.isdir(path):  # noqa: PTH112
        raise InputNotFoundError(f"there is no folder {path}; check shard_dir")
    manifest = read_manifest(path)
    if manifest is not None:
        return _from_manifest(path, manifest, pattern, num_shards)
    unfinished = why_unfinished(path)
    if unfinished is not None:
        raise FormatError(unfinished)
    pattern = pattern or DEFAULT_PATTERN
    names = sorted(name for name in names_in(path) if fnmatch.fnmatchcase(name, pattern) and _is_shard(name))
    if not names:
        raise NoShardsError(f"No shards found in {path} matching {pattern}")
    return _from_indexes(path, names[:num_shards])


def _is_shard(name: str) -> bool:
    return not name.startswith((".", "_")) and not name.endswith(_NOT_SHARDS)


def _from_manifest(folder: Path, manifest: Manifest, pattern: str | None, num_shards: int | None) -> Catalog:
    shards = [shard for shard in manifest.shards if pattern is None or fnmatch.fnmatchcase(shard.shard_name, pattern)]
    if not shards:
        raise NoShardsError(f"No shards found in {folder} matching {pattern or DEFAULT_PATTERN}")
    shards = shards[:num_shards]
    there = set(names_in(folder))
    missing = [shard.shard_name for shard in shards if shard.shard_name not in there]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FormatError(
            f"{folder}: {MANIFEST_NAME} lists shards that are not there: {', '.join(missing[:3])}{more}. Bring them "
            "back, or run `neurofm-shards repair`"
        )
    columns = {
        column.name: CatalogColumn(column.spec, not column.optional, (column.codec,))
        for column in manifest.columns
        if column.name != METADATA_FIELD
    }
    return Catalog(
        folder=folder,
        names=tuple(shard.shard_name for shard in shards),
        num_samples=np.array([shard.num_samples for shard in shards], np.int64),
        file_bytes=np.array([shard.shard_bytes for shard in shards], np.int64),
        tar_bytes=np.array([shard.tar_bytes for shard in shards], np.int64),
        checksums=tuple(shard.checksum for shard in shards),
        columns=columns,
        manifest=manifest,
    )


def _from_indexes(folder: Path, names: Sequence[str]) -> Catalog:
    """Describe shards from elsewhere: each index is read, or made and kept, now."""
    indexes = [load_index(folder / name) for name in names]
    return Catalog(
        folder=folder,
        names=tuple(names),
        num_samples=np.array([index.num_samples for index in indexes], np.int64),
        file_bytes=np.array([index.shard_bytes for index in indexes], np.int64),
        tar_bytes=np.array([index.tar_bytes for index in indexes], np.int64),
        checksums=tuple(index.checksum for index in indexes),
        columns=_merged_columns(indexes),
        indexes=dict(enumerate(indexes)),
    )


def _merged_columns(indexes: Sequence[ShardIndex]) -> dict[str, CatalogColumn]:
    names = dict.fromkeys(name for index in indexes for name in index.columns if name != METADATA_FIELD)
    return {name: _merged_column(name, [index for index in indexes if index.num_samples]) for name in names}


def _merged_column(name: str, indexes: Sequence[ShardIndex]) -> CatalogColumn:
    found = [index.columns[name] for index in indexes if name in index.columns]
    dtypes = {column.spec.dtype and np.dtype(column.spec.dtype).newbyteorder("=").str for column in found}
    shapes = {column.spec.shape for column in found}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    shape = _merged_shape(list(shapes)) if dtype is not None else None
    everywhere = len(found) == len(indexes) and all(column.packed_offsets.bounds()[0] >= 0 for column in found)
    return CatalogColumn(ColumnSpec(name, dtype, shape), everywhere, tuple(sorted({c.codec for c in found})))


def _merged_shape(shapes: Sequence[tuple[int | None, ...] | None]) -> tuple[int | None, ...] | None:
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes) or len({len(shape) for shape in known}) != 1:
        return None
    return tuple(axis[0] if len(set(axis)) == 1 else None for axis in zip(*known, strict=True))
