"""Splits that are kept with a data set under their names, for ``split="train"`` in any program that loads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Rows
from neurofm_shards.errors import ConfigError, FormatError
from neurofm_shards.format.manifest import SIDECAR_DIR
from neurofm_shards.format.sidecar import read_arrays, write_arrays
from neurofm_shards.reading.collection import ShardCollection

if TYPE_CHECKING:
    from neurofm_shards.loading.splits import Splits

SPLITS_NAME = "splits"
SPLITS_VERSION = 1


def save_splits(shard_dir: str | os.PathLike[str], splits: Splits | Mapping[str, npt.ArrayLike]) -> Path:
    """Keep splits with a data set; they take the place of those that were kept before.

    Shards stay as they are. ``split="train"`` then means the kept split, also where the samples' metadata names splits.
    Samples that are appended later are in no split until splits are saved again.

    Parameters
    ----------
    shard_dir : path-like
        Folder of shards.
    splits : Splits or mapping of str to rows
        What :func:`~neurofm_shards.loading.splits.split` returned, or rows by name.

    Returns
    -------
    pathlib.Path
        The file, written atomically.

    Raises
    ------
    ConfigError
        A row is not in the data set, or in two splits.
    """
    rows = splits if isinstance(splits, Mapping) else splits.rows
    with ShardCollection.open(os.fspath(shard_dir)) as collection:
        codes = np.full(collection.num_samples, -1, dtype=np.int16)
        for code, (name, found) in enumerate(rows.items()):
            _place(codes, code, name, np.asarray(found, dtype=np.int64))
        header = {
            "kind": "splits",
            "version": SPLITS_VERSION,
            "names": list(rows),
            "shards": len(collection.shard_names),
            "fingerprint": collection.fingerprint,
        }
        path = _path(collection)
    path.parent.mkdir(exist_ok=True)
    write_arrays(path, header, {"split": codes}, durable=True)
    return path


def saved_splits(collection: Any) -> dict[str, Rows]:
    """Return the rows of each split that is kept with a data set, ascending; nothing where none are kept.

    Raises
    ------
    FormatError
        The file is damaged, or was made for other data.
    """
    path = _path(collection)
    try:
        header, arrays = read_arrays(path)
    except FileNotFoundError:
        return {}
    names, codes = header.get("names"), arrays.get("split")
    shards = header.get("shards")
    if header.get("kind") != "splits" or header.get("version") != SPLITS_VERSION or not isinstance(names, list):
        raise FormatError(f"{path} holds no splits that this release can read: remove it, or save splits again")
    if (
        codes is None
        or not isinstance(shards, int)
        or not 0 <= shards <= len(collection.shard_names)
        or collection.prefix_fingerprint(shards) != header.get("fingerprint")
        or codes.shape != (int(collection.starts[shards]),)
    ):
        raise FormatError(f"{path} was made for other samples than the folder has: save splits again, or remove it")
    return {str(name): np.flatnonzero(codes == code).astype(np.int64) for code, name in enumerate(names)}


def _path(collection: Any) -> Path:
    return Path(collection.catalog.folder) / SIDECAR_DIR / SPLITS_NAME


def _place(codes: npt.NDArray[np.int16], code: int, name: str, rows: Rows) -> None:
    """Note which rows are in one split, in place."""
    if rows.ndim != 1 or (len(rows) and (rows.min() < 0 or rows.max() >= len(codes))):
        raise ConfigError(f"split {name!r} has rows outside of the data set's {len(codes):,} samples")
    twice = int((codes[rows] != -1).sum())
    if twice:
        raise ConfigError(f"{twice} samples of split {name!r} are in another split already; splits must not overlap")
    codes[rows] = code
