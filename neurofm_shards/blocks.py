"""Blocks: many samples column by column, and back."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError, SourceError
from neurofm_shards.types import Block, ColumnData, ColumnSpec, Metadata, Ragged, Sample
from neurofm_shards.values import as_array, starts_of

#: Where rows of an input's side table stand in that of the data set: the first of them, or each where it is shared.
RowBase: TypeAlias = "int | Sequence[int]"
#: Tables of so named labels are shared: what several inputs say alike is one row.
SHARED_TABLE = "labels-"


class _Missing(enum.Enum):
    """A type with one value, which stays itself through pickling."""

    MISSING = "missing"

    def __repr__(self) -> str:
        return "MISSING"


#: Stands in a list column for a sample that lacks the field.
MISSING: Final = _Missing.MISSING


def block_from_samples(
    samples: Sequence[Sample], metadata: Sequence[Metadata], keys: Sequence[str] | None = None
) -> Block:
    """Put samples into columns.

    Parameters
    ----------
    samples : sequence of dict
        Field name to value. Arrays of one dtype and shape become one array (n, ...); arrays that differ in their first
        length only become :class:`~neurofm_shards.types.Ragged`; everything else, and fields that some samples lack,
        become lists (with ``MISSING`` in the gaps).
    metadata : sequence of dict
        One per sample.
    keys : sequence of str, optional
        The samples' keys.

    Raises
    ------
    ConfigError
        There are not as many metadata or keys as samples.
    """
    if len(metadata) != len(samples) or (keys is not None and len(keys) != len(samples)):
        raise ConfigError(
            f"{counted(len(samples), 'sample')} came with {len(metadata)} metadata and "
            f"{'no' if keys is None else len(keys)} keys: give one per sample"
        )
    fields = dict.fromkeys(chain.from_iterable(samples))
    columns = {field: column_of([sample.get(field, MISSING) for sample in samples]) for field in fields}
    return Block(columns, metadata, keys=keys)


def column_of(values: Sequence[Any]) -> ColumnData:
    """Choose the form for the values of one field; see :func:`block_from_samples`."""
    arrays = [as_array(value) if not isinstance(value, np.generic) else None for value in values]
    whole = [array for array in arrays if array is not None]
    if len(whole) < len(values) or not whole:
        return list(values)
    first = whole[0]
    if any(array.dtype != first.dtype for array in whole):
        return list(values)
    if all(array.shape == first.shape for array in whole):
        return np.stack(whole)
    if first.ndim and all(array.ndim == first.ndim and array.shape[1:] == first.shape[1:] for array in whole):
        return Ragged(np.concatenate(whole), starts_of([len(array) for array in whole]))
    return list(values)


def samples_of(block: Block) -> Iterator[tuple[Sample, Metadata]]:
    """Give the samples of a block one by one; arrays are views of its columns."""
    for i, metadata in enumerate(block.metadata):
        values = ((name, data[i]) for name, data in block.columns.items())
        yield {name: value for name, value in values if value is not MISSING}, metadata


def map_block(transform: Callable[[Sample, Metadata], Sample | None], block: Block) -> Block:
    """Call a per-sample transform on each sample; those for which it returns None are dropped.

    Returns
    -------
    Block
        ``rows`` and ``keys`` are those of the samples that are left. Where something was dropped from a block without
        rows, they count from the block's first sample.
    """
    results = [transform(sample, metadata) for sample, metadata in samples_of(block)]
    kept = [i for i, result in enumerate(results) if result is not None]
    chosen = take(block, np.array(kept, np.int64)) if len(kept) < len(results) else block
    new = block_from_samples([result for result in results if result is not None], chosen.metadata)
    return replace(chosen, columns=new.columns)


def take(block: Block, positions: npt.NDArray[np.int64]) -> Block:
    """Return the samples at these positions of a block, in this order."""
    chosen = positions.tolist()
    return Block(
        {name: _take(data, positions) for name, data in block.columns.items()},
        [block.metadata[i] for i in chosen],
        positions if block.rows is None else block.rows[positions],
        None if block.keys is None else [block.keys[i] for i in chosen],
    )


def _take(data: ColumnData, positions: npt.NDArray[np.int64]) -> ColumnData:
    if isinstance(data, np.ndarray):
        return data[positions]
    if isinstance(data, Ragged):
        parts = [data[i] for i in positions.tolist()]
        offsets = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
        return Ragged(np.concatenate(parts) if parts else data.values[:0], offsets)
    return [data[i] for i in positions.tolist()]


def rows_between(data: ColumnData, start: int, stop: int) -> ColumnData:
    """Return some consecutive rows of a column; arrays share its memory."""
    if isinstance(data, Ragged):
        low, high = data.offsets[start], data.offsets[stop]
        return Ragged(data.values[low:high], data.offsets[start : stop + 1] - low)
    return data[start:stop]


def concat_blocks(blocks: Sequence[Block]) -> Block:
    """Join blocks end to end. Rows and keys survive where every block has them; a column that one lacks has gaps."""
    if len(blocks) == 1:
        return blocks[0]
    fields = dict.fromkeys(chain.from_iterable(block.columns for block in blocks))
    columns = {field: _concat([(block.columns.get(field), len(block)) for block in blocks]) for field in fields}
    rows = [block.rows for block in blocks if block.rows is not None]
    keys = [block.keys for block in blocks if block.keys is not None]
    return Block(
        columns,
        list(chain.from_iterable(block.metadata for block in blocks)),
        np.concatenate(rows) if rows and len(rows) == len(blocks) else None,
        list(chain.from_iterable(keys)) if keys and len(keys) == len(blocks) else None,
    )


def _concat(parts: Sequence[tuple[ColumnData | None, int]]) -> ColumnData:
    arrays = [data for data, _ in parts if isinstance(data, np.ndarray)]
    if len(arrays) == len(parts) and len({(a.dtype, a.shape[1:]) for a in arrays}) == 1:
        return np.concatenate(arrays)
    ragged = [data for data, _ in parts if isinstance(data, Ragged)]
    if len(ragged) == len(parts) and len({(r.values.dtype, r.values.shape[1:]) for r in ragged}) == 1:
        lengths = np.concatenate([np.diff(r.offsets) for r in ragged])
        rows = [r.values[r.offsets[0] : r.offsets[-1]] for r in ragged]
        return Ragged(np.concatenate(rows), starts_of(lengths))
    values: list[Any] = []
    for data, length in parts:
        values.extend([MISSING] * length if data is None else [data[i] for i in range(length)])
    return column_of(values)


def column_spec(name: str, data: ColumnData) -> ColumnSpec:
    """Describe a column by its values."""
    if isinstance(data, np.ndarray):
        return ColumnSpec(name, little_endian(data.dtype), data.shape[1:])
    if isinstance(data, Ragged):
        lengths = np.diff(data.offsets)
        first = int(lengths[0]) if len(lengths) and (lengths == lengths[0]).all() else None
        return ColumnSpec(name, little_endian(data.values.dtype), (first, *data.values.shape[1:]))
    spec: ColumnSpec | None = None
    for value in data:
        if value is not MISSING:
            array = None if isinstance(value, np.generic) else as_array(value)
            one = ColumnSpec(name, *((None, None) if array is None else (little_endian(array.dtype), array.shape)))
            spec = one if spec is None else spec.merge(one)
    return spec or ColumnSpec(name, None, None)


def little_endian(dtype: npt.DTypeLike) -> str:
    """Return a dtype as it is stored."""
    return str(np.dtype(dtype).newbyteorder("<").str)


def native_spec(spec: ColumnSpec) -> ColumnSpec:
    """Return the column as it is delivered: in this machine's byte order."""
    if spec.dtype is None:
        return spec
    return ColumnSpec(spec.name, np.dtype(spec.dtype).newbyteorder("=").str, spec.shape, spec.unit, spec.table)


def shape_text(shape: Iterable[int | None], between: str = " x ") -> str:
    """Return a shape in words; lengths that differ are question marks."""
    return between.join("?" if length is None else str(length) for length in shape)


def fields_of(block: Block) -> Mapping[str, ColumnSpec]:
    """Return the specs of a block's columns."""
    return {name: column_spec(name, data) for name, data in block.columns.items()}


def dtype_name(dtype: str | None) -> str:
    """Return a dtype as people write it (``uint8`` for ``|u1``); ``JSON`` for values that are no arrays."""
    return "JSON" if dtype is None else np.dtype(dtype).name


def is_count(spec: ColumnSpec) -> bool:
    """Return whether a column holds counts of events."""
    unsigned = spec.dtype is not None and np.dtype(spec.dtype).kind == "u"
    return unsigned and (spec.unit == "count" or spec.name == "spikes")


def add_rows(
    name: str, table: list[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], rows_before: int = 0
) -> RowBase:
    """Add an input's rows to a side table of a data set, and return where they stand.

    Parameters
    ----------
    name : str
        The table's.
    table : list of dict
        Added to.
    rows : sequence of dict
        The input's; those of a shared table that are there already are not added again.
    rows_before : int
        Rows of the data set's table ahead of ``table``.
    """
    if not name.startswith(SHARED_TABLE):
        base = rows_before + len(table)
        table.extend(rows)
        return base
    places = {orjson.dumps(row): place for place, row in enumerate(table)}
    for row in rows:
        if places.setdefault(orjson.dumps(row), len(table)) == len(table):
            table.append(row)
    return [rows_before + places[orjson.dumps(row)] for row in rows]


def shifted(data: Any, base: RowBase) -> Any:
    """Turn row numbers of an input's table into those of the data set's; negative ones mean "none" and stay.

    Raises
    ------
    SourceError
        A row number no longer fits the column's type.
    """
    if base == 0:
        return data
    if isinstance(data, Ragged):
        return Ragged(shifted(data.values, base), data.offsets)
    if isinstance(data, list):
        return [shifted(np.asarray(item), base) for item in data]
    last = 0 if not data.size else int(data.max()) + base if isinstance(base, int) else max(base, default=0)
    if last > np.iinfo(data.dtype).max:
        raise SourceError(f"row {last} of a data-set-wide table does not fit {data.dtype}")
    if isinstance(base, int):
        return np.where(data >= 0, data + data.dtype.type(base), data)
    return np.where(data >= 0, np.append(np.asarray(base, dtype=data.dtype), data.dtype.type(-1))[data], data)
