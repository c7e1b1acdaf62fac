"""Which rows to load: by metadata, by key, by named split; without reading any data.

Splits are kept with a data set under their names, for ``split="train"`` in any program that loads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Rows
from neurofm_shards._wording import counted, html_table, listed
from neurofm_shards.errors import ConfigError, FormatError
from neurofm_shards.expressions import Columns, compile_expression, unknown_name
from neurofm_shards.format.card import our_cards, write_cards
from neurofm_shards.format.files import SIDECAR_DIR, SPLITS_NAME
from neurofm_shards.format.keys import RECORDING_FIELD
from neurofm_shards.format.manifest import read_manifest, write_manifest
from neurofm_shards.format.metadata_table import split_of_part
from neurofm_shards.format.sidecar import read_arrays, write_arrays
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.reading.samples import SampleCollection
from neurofm_shards.recordings.group_splits import sample_shares
from neurofm_shards.values import sorted_unique
from neurofm_shards.writing.lock import OutputLock

SPLITS_VERSION = 1


@dataclass(frozen=True)
class Splits:
    """Who belongs where.

    Attributes
    ----------
    rows : mapping of str to numpy.ndarray of int64
        Rows of each split, ascending.
    dropped : mapping of str to int
        Samples in no split, counted by reason.
    groups : mapping of str to int
        Number of sessions, subjects, trials or stretches of time in each split.
    notes : tuple of str
        What the reader should know.
    fractions : mapping of str to float
        Share of the samples that was asked for; :meth:`shares` returns what came of it.
    """

    rows: Mapping[str, Rows]
    dropped: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fractions: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        shares = self.shares()
        parts = [f"{name}={count:,} ({shares[name]:.1%})" for name, count in self.counts().items()]
        parts += [f"{count:,} dropped ({reason})" for reason, count in self.dropped.items()]
        return f"Splits({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """Return samples and groups of each split as a table, for notebooks."""
        shares = self.shares()
        rows: list[tuple[object, ...]] = [
            (name, n, f"{shares[name]:.1%}", self.groups.get(name)) for name, n in self.counts().items()
        ]
        rows += [(f"in no split: {reason}", count, "", None) for reason, count in self.dropped.items()]
        return html_table("Splits", rows, ("split", "samples", "share", "groups"))

    def counts(self) -> dict[str, int]:
        """Return the number of samples of each split."""
        return {name: len(rows) for name, rows in self.rows.items()}

    def shares(self) -> dict[str, float]:
        """Return each split's share of the samples that are in one."""
        return sample_shares(self.counts())


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
        check_has_samples(collection)
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
        folder, manifest = Path(collection.catalog.folder), collection.manifest
        shards = _splits_of_shards(collection, codes, list(rows))
    path.parent.mkdir(exist_ok=True)
    write_arrays(path, header, {"split": codes}, durable=True)
    if manifest is not None:
        _note_splits(folder, {name: int((codes == code).sum()) for code, name in enumerate(rows)}, shards)
    return path


def check_has_samples(collection: ShardCollection) -> None:
    """Refuse a data set of recordings, whose samples are known only when they are cut.

    Raises
    ------
    ConfigError
        It is one.
    """
    if RECORDING_FIELD in collection.columns:
        raise ConfigError(
            f"{collection.catalog.folder} stores recordings, whose windows are cut when they are read: say how to "
            'split them, windows={"split": {"by": "time"}}, or give their rows to where= or mix'
        )


def known_splits(collection: SampleCollection) -> dict[str, Rows]:
    """Return the rows of each split that ``split=`` selects: saved ones, or those that the metadata names."""
    saved = saved_splits(collection)
    columns = TableColumns(collection.metadata_table())
    if saved or "split" not in columns:
        return saved
    names = split_names(columns["split"])
    return {name: np.flatnonzero(names == name).astype(np.int64) for name in np.unique(names).tolist() if name}


def split_names(values: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
    """Return the split that metadata name of each sample, as text (folds may be numbers); empty where there is none."""
    whole = (int(x) if isinstance(x, float) and x.is_integer() else x for x in values.tolist())
    return np.array(["" if value is None or value != value else str(value) for value in whole], np.str_)  # noqa: PLR0124


def _splits_of_shards(
    collection: ShardCollection, codes: npt.NDArray[np.int16], names: Sequence[str]
) -> dict[str, str | None]:
    """Return the split of each shard: empty where none of its samples is in one, None where they are in several."""
    if not names:  # what the samples say counts again
        parts = collection.metadata_table().parts
        return {shard: split_of_part(part) for shard, part in zip(collection.shard_names, parts, strict=True)}
    found: dict[str, str | None] = {}
    for shard, start, stop in zip(collection.shard_names, collection.starts[:-1], collection.starts[1:], strict=True):
        here = sorted_unique(codes[start:stop]).tolist()
        found[shard] = None if len(here) > 1 else names[here[0]] if here[0] >= 0 else ""
    return found


def _note_splits(folder: Path, counts: Mapping[str, int], of_shards: Mapping[str, str | None]) -> None:
    """Let manifest and card know of the splits, so that a copy without them is noticed, and which shard holds which."""
    with OutputLock(folder):
        manifest = read_manifest(folder)
        if manifest is None:
            return
        shards = [entry.model_copy(update={"split": of_shards.get(entry.shard_name)}) for entry in manifest.shards]
        noted = manifest.model_copy(update={"splits": dict(counts), "shards": shards})
        if noted != manifest:
            write_cards(folder, noted, our_cards(folder), durable=True)
            write_manifest(folder, noted, durable=True)


def saved_splits(collection: SampleCollection) -> dict[str, Rows]:
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
        if collection.manifest is not None and collection.manifest.splits:
            raise FormatError(
                f"the splits of {collection.catalog.folder} ({', '.join(collection.manifest.splits)}) are gone: they "
                f"lie in {path}. Copy the hidden folder along with the shards, or save splits again"
            ) from None
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


def _path(collection: SampleCollection) -> Path:
    return Path(collection.catalog.folder) / SIDECAR_DIR / SPLITS_NAME


def _place(codes: npt.NDArray[np.int16], code: int, name: str, rows: Rows) -> None:
    """Note which rows are in one split, in place."""
    if rows.ndim != 1 or (len(rows) and (rows.min() < 0 or rows.max() >= len(codes))):
        raise ConfigError(f"split {name!r} has rows outside of the data set's {counted(len(codes), 'sample')}")
    twice = int((codes[rows] != -1).sum())
    if twice:
        shared = counted(twice, "sample")
        raise ConfigError(f"split {name!r} shares {shared} with another split; splits must not overlap")
    codes[rows] = code


Where: TypeAlias = "str | Callable[[Columns], Any]"


class TableColumns(Mapping[str, npt.NDArray[Any]]):
    """The columns of a metadata table as a mapping; each is read when it is asked for.

    Parameters
    ----------
    table : MetadataTable
        See :mod:`neurofm_shards.format.metadata_table`.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self._names = list(table.names)
        self._read: dict[str, npt.NDArray[Any]] = {}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            self._read[name] = self._table.values(name)
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


#: Distinct values that a message lists.
_LISTED = 12


def distinct(values: npt.NDArray[Any]) -> str:
    """Return the distinct values of a column, or their range where they are many numbers, for messages."""
    found = {value for value in values.tolist() if value is not None and value == value}  # noqa: PLR0124  (NaN)
    if not found:
        return "no values"
    numbers = all(isinstance(value, (int, float)) for value in found)
    if len(found) > _LISTED and numbers:
        return f"{min(found)} to {max(found)}"
    return listed([repr(value) for value in (sorted(found) if numbers else sorted(map(str, found)))], _LISTED)


def select(
    collection: SampleCollection,
    *,
    where: Where | None = None,
    keys: Iterable[str] | None = None,
    split: str | None = None,
) -> Rows | None:
    """Return the rows that satisfy all conditions, ascending; None when there is no condition.

    Parameters
    ----------
    collection : ShardCollection
        The data.
    where : str or callable, optional
        An expression over metadata (:mod:`neurofm_shards.expressions`), or a function of a mapping of columns, arrays
        of shape (n,), that returns a boolean array of shape (n,).
    keys : iterable of str, optional
        Sample keys, in any order; each is taken once, in storage order.
    split : str, optional
        Name of a split that was saved (:mod:`neurofm_shards.loading.subsets`), or, where none were, that the
        metadata column ``split`` names.

    Raises
    ------
    ConfigError
        There is no such column or split, or a function returned something else than a mask.
    SampleNotFoundError
        There is no such key.
    """
    masks = []
    if where is not None:
        masks.append(where_mask(where, TableColumns(collection.metadata_table()), collection.num_samples))
    if split is not None:
        masks.append(split_mask(split, collection))
    mask = np.logical_and.reduce(masks) if masks else None
    if keys is None:
        return None if mask is None else np.flatnonzero(mask).astype(np.int64)
    rows = sorted_unique(np.array([collection.find(key) for key in keys], dtype=np.int64))
    return rows if mask is None else rows[mask[rows]]


def group_rows(collection: SampleCollection, by: str | Sequence[str], subset: Rows | None = None) -> dict[str, Rows]:
    """Return the rows of each group, ascending; groups in the order of their names.

    Parameters
    ----------
    collection : ShardCollection
        The data.
    by : str or sequence of str
        Metadata columns; samples belong together when all of them agree.
    subset : numpy.ndarray of int64 or None
        Rows to consider.

    Raises
    ------
    ConfigError
        A column is not there, or some samples have no value of it.
    """
    columns = TableColumns(collection.metadata_table())
    names = [by] if isinstance(by, str) else list(by)
    rows = np.arange(collection.num_samples, dtype=np.int64) if subset is None else subset
    parts = []
    for name in names:
        if name not in columns:
            raise ConfigError(f"cannot group by {name!r}: {unknown_name('metadata column', name, columns)}")
        values = columns[name][rows].tolist()
        missing = sum(value is None or value != value for value in values)  # noqa: PLR0124  (NaN)
        if missing:
            raise ConfigError(
                f"cannot group by {name!r}: {counted(missing, 'sample')} without a value of it; leave them out by "
                "where="
            )
        parts.append(values)
    labels = np.array([" / ".join(map(str, each)) for each in zip(*parts, strict=True)], dtype=np.str_)
    distinct, group = np.unique(labels, return_inverse=True)
    turn = np.argsort(group.reshape(-1), kind="stable")
    edges = np.cumsum(np.bincount(group.reshape(-1), minlength=len(distinct)))[:-1]
    return dict(zip(distinct.tolist(), np.split(rows[turn], edges), strict=True))


def where_mask(where: Where, columns: Columns, num_samples: int) -> npt.NDArray[np.bool_]:
    """Return which samples an expression or a function chooses, bool of shape (num_samples,)."""
    found = compile_expression(where)(columns) if isinstance(where, str) else where(columns)
    mask = np.asarray(found)
    if mask.dtype != np.bool_ or mask.shape != (num_samples,):
        raise ConfigError(
            f"where= gave {mask.dtype} of shape {mask.shape}; a boolean array of shape ({num_samples},) was expected, "
            "one value per sample"
        )
    return mask


def split_mask(split: str, collection: SampleCollection) -> npt.NDArray[np.bool_]:
    """Return which samples are in this split: a saved one, or one that the metadata names."""
    known = known_splits(collection)
    if not known and "split" not in TableColumns(collection.metadata_table()):
        raise ConfigError(
            f"split={split!r}: no splits are saved with the data, and the samples have no metadata column 'split'; "
            "make splits with `neurofm-shards split` or neurofm_shards.split and save_splits, or convert with split "
            "options"
        )
    mask = np.zeros(collection.num_samples, dtype=np.bool_)
    mask[known.get(split, [])] = True
    if not mask.any():
        raise ConfigError(f"there is no split {split!r}; the samples have: {', '.join(sorted(known)) or 'none'}")
    return mask
