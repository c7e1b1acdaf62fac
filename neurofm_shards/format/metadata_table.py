"""The metadata table: the samples' scalar metadata by column, so that filters need not read the shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from neurofm_shards._typing import AnyArray, Bools, Ints
from neurofm_shards.errors import ConfigError, FormatError
from neurofm_shards.format.index import ShardIndex
from neurofm_shards.format.index_io import keep, sidecar
from neurofm_shards.format.sidecar import read_arrays, write_arrays
from neurofm_shards.shards.metadata_columns import (
    MetadataColumn,
    column_of,
    constant_column,
    joined_texts,
    load_column,
    store_column,
)
from neurofm_shards.shards.metadata_members import metadata_of_shard
from neurofm_shards.shards.packing import Arrays

METADATA_SUFFIX = ".meta"
METADATA_VERSION = 1


@dataclass(frozen=True)
class TablePart:
    """The table of one shard.

    Attributes
    ----------
    num_rows : int
        Samples.
    columns : mapping of str to MetadataColumn
        Scalars by name.
    omitted : tuple of str
        Names whose values are lists or dicts, which stay in the metadata members.
    """

    num_rows: int
    columns: Mapping[str, MetadataColumn]
    omitted: tuple[str, ...] = ()


class MetadataTable:
    """Scalar metadata of one or many shards, row by row in the order of the samples.

    Parameters
    ----------
    parts : sequence of TablePart
        One per shard; columns are joined when they are asked for.
    """

    def __init__(self, parts: Sequence[TablePart]) -> None:
        self.parts = tuple(parts)
        self.num_rows = sum(part.num_rows for part in self.parts)

    @classmethod
    def of(cls, metadata: Sequence[Mapping[str, Any]]) -> MetadataTable:
        """Make a table of metadata dicts."""
        return cls([part_of(metadata)])

    @classmethod
    def concat(cls, tables: Sequence[MetadataTable]) -> MetadataTable:
        """Join tables end to end; what one of them lacks is missing there."""
        return cls(list(chain.from_iterable(table.parts for table in tables)))

    @property
    def names(self) -> list[str]:
        """Names of all columns, in the order of their first appearance."""
        return list(dict.fromkeys(chain.from_iterable(part.columns for part in self.parts)))

    @property
    def omitted(self) -> list[str]:
        """Names whose values are lists or dicts and so are not in the table."""
        return list(dict.fromkeys(chain.from_iterable(part.omitted for part in self.parts)))

    def kind(self, name: str) -> str:
        """Return a column's kind: ``int``, ``float``, ``bool``, ``text``, or ``json`` (mixed)."""
        kinds = {column.kind for column, _ in self._columns(name) if column is not None and not _blank(column)}
        if kinds <= {"int", "float"}:
            return "float" if "float" in kinds else "int"
        return kinds.pop() if len(kinds) == 1 else "json"

    def values(self, name: str) -> AnyArray:
        """Return a column.

        Returns
        -------
        numpy.ndarray, shape (n,)
            int64, float64 (NaN where missing; also for integers with gaps), bool, or objects (texts, None where
            missing; truth values with gaps; mixed types). Whole numbers beside fractions in one shard are float64,
            and rounded to that beyond 2**53.

        Raises
        ------
        ConfigError
            There is no such column; the message lists those there are.
        """
        kind, missing = self.kind(name), self.nulls(name)
        if kind in ("text", "json"):
            return self._objects(name, kind)
        numbers = self._numbers(name)
        if kind == "bool":
            return self._objects(name, kind) if missing.any() else numbers.astype(np.bool_)
        if kind == "int" and not missing.any():
            return numbers.astype(np.int64)
        return np.where(missing, np.nan, numbers)

    def nulls(self, name: str) -> Bools:
        """Return where a column says nothing, shape (n,)."""
        parts = [np.ones(n, np.bool_) if column is None else column.missing() for column, n in self._columns(name)]
        return np.concatenate(parts) if parts else np.empty(0, np.bool_)

    def codes(self, name: str) -> tuple[Ints, list[str]]:
        """Return a text column as numbers into a list of different texts; -1 where missing."""
        if self.kind(name) not in ("text", "int") or any(
            c and c.texts is None and not _blank(c) for c, _ in self._columns(name)
        ):
            raise ConfigError(f"metadata {name!r} is not a column of texts but of kind {self.kind(name)}")
        return joined_texts(self._columns(name))

    def _columns(self, name: str) -> list[tuple[MetadataColumn | None, int]]:
        found = [(part.columns.get(name), part.num_rows) for part in self.parts]
        if found and all(column is None for column, _ in found):
            hint = " (its values are lists or dicts)" if name in self.omitted else ""
            raise ConfigError(f"there is no metadata column {name!r}{hint}; there are: {', '.join(self.names)}")
        return found

    def _numbers(self, name: str) -> AnyArray:
        parts = [np.zeros(n) if c is None or c.texts is not None else c.array() for c, n in self._columns(name)]
        used = [
            part for part, (c, _) in zip(parts, self._columns(name), strict=True) if c is not None and not _blank(c)
        ]
        dtype = np.result_type(*used) if used else np.dtype(np.float64)
        return np.concatenate([part.astype(dtype) for part in parts]) if parts else np.empty(0)

    def _objects(self, name: str, kind: str) -> npt.NDArray[np.object_]:
        columns = self._columns(name)
        if kind == "text":
            codes, texts = joined_texts(columns)
            return np.array([*texts, None], object)[codes]
        return np.concatenate([_mixed(column, n) for column, n in columns])


def _blank(column: MetadataColumn) -> bool:
    return bool(column.missing().all())


def _mixed(column: MetadataColumn | None, length: int) -> npt.NDArray[np.object_]:
    out = np.full(length, None, object)
    if column is None:
        return out
    if column.texts is None:
        values = column.array().astype(np.bool_) if column.kind == "bool" else column.array()
        said = ~column.missing()
        out[said] = np.array(values.tolist(), object)[said]
        return out
    texts = column.texts.texts()
    known = [_scalar(text) for text in texts] if column.kind == "json" else texts
    out[:] = [None if code < 0 else known[code] for code in column.array().tolist()]
    return out


def _scalar(text: str) -> Any:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = []
    if isinstance(value, (list, dict)):
        raise FormatError(f"a metadata sidecar is damaged ({text[:40]!r} is no JSON scalar); delete it, it is remade")
    return value


def part_of(metadata: Sequence[Mapping[str, Any]]) -> TablePart:
    """Make one shard's table of its metadata dicts."""
    first = metadata[0] if metadata else {}
    if all(entry is first for entry in metadata):
        made = {name: constant_column(value, len(metadata)) for name, value in first.items()}
    else:
        names = dict.fromkeys(chain.from_iterable(metadata))
        made = {name: column_of([entry.get(name) for entry in metadata]) for name in names}
    kept = {str(name): column for name, column in made.items() if column is not None}
    return TablePart(len(metadata), kept, tuple(str(name) for name, column in made.items() if column is None))


def save_part(part: TablePart, fingerprint: str, path: Path, *, durable: bool = False) -> None:
    """Write one shard's table to a sidecar."""
    arrays: Arrays = {}
    columns = [store_column(name, i, column, arrays) for i, (name, column) in enumerate(part.columns.items())]
    header = {
        "kind": "metadata",
        "version": METADATA_VERSION,
        "fingerprint": fingerprint,
        "rows": part.num_rows,
        "columns": columns,
        "omitted": list(part.omitted),
    }
    write_arrays(path, header, arrays, durable)


def read_part(path: Path, fingerprint: str, num_rows: int) -> TablePart:
    """Read one shard's table.

    Raises
    ------
    InputNotFoundError
        There is no such sidecar.
    FormatError
        It is damaged, hostile, of another version, or of another shard.
    """
    header, arrays = read_arrays(path)
    match header:
        case {"kind": "metadata", "version": 1, "fingerprint": str(mark), "rows": int(rows), "columns": [*columns],
              "omitted": [*omitted]} if mark == fingerprint and rows == num_rows:  # fmt: skip
            loaded = dict(load_column(column, rows, arrays) for column in columns)
            return TablePart(rows, loaded, tuple(str(name) for name in omitted))
    raise FormatError(f"metadata sidecar {path.name} is of another version of its shard")


def load_table(shard_path: Path | str, index: ShardIndex) -> MetadataTable:
    """Return the table of one shard: its sidecar where that matches, else made from the metadata members, and kept.

    Raises
    ------
    FormatError
        The shard's metadata members are damaged.
    """
    path = Path(shard_path)
    mark, rows = index.fingerprint, index.num_samples
    part = sidecar(path, mark, METADATA_SUFFIX, lambda place: read_part(place, mark, rows))
    if part is not None:
        return MetadataTable([part])
    made = part_of(list(metadata_of_shard(path, index)))
    keep(path, METADATA_SUFFIX, lambda target: save_part(made, mark, target))
    return MetadataTable([made])
