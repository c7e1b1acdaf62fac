"""From gathered columns to tensors, without a copy where the columns are arrays; collating samples."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch

from neurofm_shards.blocks import MISSING, is_count
from neurofm_shards.errors import ConfigError
from neurofm_shards.types import ColumnData, ColumnSpec, Metadata, Ragged
from neurofm_shards.values import native, starts_of

RaggedAs: TypeAlias = Literal["list", "pad", "packed", "nested"]
Batch: TypeAlias = dict[str, Any]
Counts: TypeAlias = Literal["float32", "stored"]
Floats: TypeAlias = Literal["float32", "stored"]


def delivered_dtypes(
    columns: Mapping[str, ColumnSpec], counts: Counts = "float32", floats: Floats = "stored"
) -> dict[str, npt.DTypeLike]:
    """Return the types that columns are converted to while they are gathered.

    Spike counts are stored in a small unsigned type; a Linear layer takes no uint8, and torch has no arithmetic for
    uint16. So unsigned columns with the unit ``"count"``, and unsigned ones called ``spikes``, become float32.

    Parameters
    ----------
    columns : mapping of str to ColumnSpec
        The data set's columns.
    counts : {"float32", "stored"}
        ``stored`` leaves counts as they are stored.
    floats : {"float32", "stored"}
        ``float32`` converts columns of float64, the type that NumPy makes and layers do not have.

    Returns
    -------
    dict of str to dtype
        For ``ShardCollection.gather(dtypes=...)``; columns that keep their type are not named.
    """
    for name, chosen in (("counts", counts), ("floats", floats)):
        if chosen not in ("float32", "stored"):
            raise ConfigError(f"{name}={chosen!r}: choose 'float32' or 'stored'")
    converted = {
        name
        for name, spec in columns.items()
        if (counts == "float32" and is_count(spec)) or (floats == "float32" and _is_double(spec))
    }
    return {name: np.dtype(np.float32) for name in columns if name in converted}


def _is_double(spec: ColumnSpec) -> bool:
    return spec.dtype is not None and np.dtype(spec.dtype) == np.float64


def to_tensor(array: npt.NDArray[Any]) -> torch.Tensor | npt.NDArray[Any]:
    """Return a tensor that shares the array's memory; an array whose type torch lacks stays an array."""
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError):
        if has_torch_type(array.dtype):
            raise
        return array


@cache
def has_torch_type(dtype: np.dtype[Any]) -> bool:
    """Return whether torch has this numpy type (in this machine's byte order)."""
    try:
        torch.from_numpy(np.empty(0, dtype))
    except (TypeError, ValueError):
        return False
    return True


@dataclass(frozen=True)
class TensorOptions:
    """How columns become tensors; see :func:`collate_webdataset` for each.

    Attributes
    ----------
    ragged : str
        What becomes of arrays whose shapes differ.
    pad_value : float
        What padding, and the place of a number that is not there, is filled with.
    columns : mapping of str to ColumnSpec
        What is known of the columns, as they are delivered.
    optional : set of str
        Those of them that some samples lack.
    """

    ragged: RaggedAs = "list"
    pad_value: float = 0.0
    columns: Mapping[str, ColumnSpec] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.ragged not in get_args(RaggedAs):
            raise ConfigError(f"ragged={self.ragged!r}; choose one of {', '.join(get_args(RaggedAs))}")
        if self.ragged == "nested":  # torch imports much for the first one; in a thread, a fork beside it would hang
            torch.nested.nested_tensor_from_jagged(torch.zeros(1, device="cpu"), torch.tensor([0, 1], device="cpu"))


#: Types of numbers that JSON holds.
NUMBERS = (bool, int, float)
#: Types of the same size as those that torch cannot assign by a mask; by name, because early versions lack the latter.
_SIGNED = {"torch.uint16": torch.int16, "torch.uint32": torch.int32, "torch.uint64": torch.int64}
#: Lists where shapes differ; nothing is known of the columns.
PLAIN = TensorOptions()


class BatchBuilder:
    """Puts columns into a batch, each with the mask or the offsets that belong to it.

    Parameters
    ----------
    options : TensorOptions
        What becomes of them.

    Attributes
    ----------
    batch : dict
        What was put together so far.
    """

    def __init__(self, options: TensorOptions) -> None:
        self._options = options
        self._offsets: list[tuple[npt.NDArray[np.int64], torch.Tensor]] = []
        self.batch: Batch = {}

    def put(self, name: str, value: Any, of: str | None = None) -> None:
        """Add an entry; ``of`` names the column that it says something about (raises ConfigError)."""
        if name in self.batch:
            column = name.rpartition("_")[0] if of is None else of
            raise ConfigError(
                f"{name!r} is a stored field, and also what a batch has beside {column!r}: leave "
                f"one of them out with columns=, or choose another ragged= than {self._options.ragged!r}"
            )
        self.batch[name] = value

    def add(self, name: str, data: ColumnData) -> None:
        """Add a column: an array or tensor of one row per sample, ragged arrays, or a list with MISSING in the gaps."""
        if isinstance(data, np.ndarray):
            self.put(name, to_tensor(data))
        elif isinstance(data, Ragged):
            self._add_ragged(name, data)
        elif name in self._options.optional:
            self._add_gappy(name, [value if value is MISSING else _as_value(value) for value in data])
        else:
            self._add_list(name, [None if value is MISSING else _as_value(value) for value in data])

    def _add_gappy(self, name: str, values: list[Any]) -> None:
        """Add a field that some samples lack: in every batch a tensor and a mask, or in every batch a list."""
        shape = self._shape_of_numbers(name)
        there = [value for value in values if value is not MISSING]
        dtype = np.dtype(None if shape is None else self._options.columns[name].dtype).newbyteorder("=")
        if shape is None or not all(_is_one_of(value, dtype, shape) for value in there):
            self.put(name, [None if value is MISSING else value for value in values])
            return
        column = torch.from_numpy(np.empty((len(values), *shape), dtype))
        column.fill_(_fill(name, column.dtype, self._options.pad_value))
        valid = _known(values)
        if there:
            given = torch.stack([torch.as_tensor(value, dtype=column.dtype, device="cpu") for value in there])
            _assign(column, valid, given)
        self.put(name, column)
        self.put(f"{name}_valid", valid, of=name)

    def _shape_of_numbers(self, name: str) -> tuple[int, ...] | None:
        """Return the one shape of a column of numbers; None for any other column."""
        spec = self._options.columns.get(name)
        if spec is None or spec.dtype is None or spec.shape is None or not has_torch_type(np.dtype(spec.dtype)):
            return None
        shape = tuple(length for length in spec.shape if length is not None)
        return shape if len(shape) == len(spec.shape) else None

    def _add_list(self, name: str, values: list[Any]) -> None:
        """Add values as a tensor where they are all numbers or all of one shape; else as ``ragged`` says, or a list."""
        if values and all(isinstance(value, torch.Tensor) for value in values):
            self._add_tensors(name, values)
        else:
            self.put(name, numbers(values))

    def _add_tensors(self, name: str, values: Sequence[torch.Tensor]) -> None:
        shapes = {tuple(value.shape) for value in values}
        if len({value.dtype for value in values}) > 1 or len({len(shape) for shape in shapes}) > 1:
            self.put(name, list(values))
            return
        lengths = list(zip(*shapes, strict=True))
        found = {axis for axis, of_axis in enumerate(lengths) if len(set(of_axis)) > 1}
        differing = sorted(found.union(self._ragged_axes(name)))
        if not differing:
            self.put(name, torch.stack(list(values)))
        elif differing == [0]:
            self._add_ragged(name, joined(values))
        elif self._options.ragged == "pad":
            self._add_padded(name, values, differing)
        else:
            self.put(name, list(values))

    def _ragged_axes(self, name: str) -> list[int]:
        spec = self._options.columns.get(name)
        shape = () if spec is None or spec.shape is None else spec.shape
        return [axis for axis, length in enumerate(shape) if length is None]

    def _add_ragged(self, name: str, data: Ragged) -> None:
        """Add arrays that differ in their first length as ``ragged`` says."""
        values = to_tensor(data.values)
        if not isinstance(values, torch.Tensor):
            self.put(name, [data[i] for i in range(len(data))])
            return
        match self._options.ragged:
            case "list":
                self.put(name, list(values.split_with_sizes(np.diff(data.offsets).tolist())))
            case "packed":
                self.put(name, values)
                self.put(f"{name}_offsets", torch.from_numpy(data.offsets), of=name)
            case "nested":
                self.put(name, torch.nested.nested_tensor_from_jagged(values, self._shared(data.offsets)))
            case "pad":
                mask = _mask(torch.from_numpy(data.offsets).diff())
                padded = values.new_full((*mask.shape, *values.shape[1:]), self._filling(name, values))
                _assign(padded, mask, values)
                self.put(name, padded)
                self.put(f"{name}_mask", mask, of=name)

    def _shared(self, offsets: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return one tensor for equal offsets: torch combines nested tensors that share theirs."""
        for known, tensor in self._offsets:
            if np.array_equal(known, offsets):
                return tensor
        tensor = torch.from_numpy(offsets)
        self._offsets.append((offsets, tensor))
        return tensor

    def _add_padded(self, name: str, values: Sequence[torch.Tensor], axes: Sequence[int]) -> None:
        """Pad every axis to its longest; the mask has the axes that differ."""
        longest = [max(lengths) for lengths in zip(*(value.shape for value in values), strict=True)]
        padded = values[0].new_full((len(values), *longest), self._filling(name, values[0]))
        mask = torch.zeros((len(values), *(longest[axis] for axis in axes)), dtype=torch.bool, device="cpu")
        for value, room, there in zip(values, padded, mask, strict=True):
            room[tuple(slice(length) for length in value.shape)] = value
            there[tuple(slice(value.shape[axis]) for axis in axes)] = True
        self.put(name, padded)
        self.put(f"{name}_mask", mask, of=name)

    def _filling(self, name: str, values: torch.Tensor) -> float | int | bool:
        return _fill(name, values.dtype, self._options.pad_value)


def batch_to_tensors(
    gathered: Mapping[str, ColumnData], metadata: Sequence[Metadata] | None = None, options: TensorOptions = PLAIN
) -> Batch:
    """Turn gathered columns into a batch.

    Parameters
    ----------
    gathered : mapping of str to ColumnData
        What ``ShardCollection.gather`` returned; arrays are shared with the batch, not copied.
    metadata : sequence of dict, optional
        Given as ``batch["metadata"]``.
    options : TensorOptions
        What becomes of them.

    Returns
    -------
    dict
        A tensor for each column of one shape; see ``ragged`` for those whose lengths differ; lists for all else. A
        column that some samples lack has ``NAME_valid`` beside it, or is a list with None in the gaps.
    """
    builder = BatchBuilder(options)
    batch = builder.batch
    for name, data in gathered.items():
        if isinstance(data, np.ndarray) and name not in batch:  # nearly always: small batches feel each call
            batch[name] = to_tensor(data)
        else:
            builder.add(name, data)
    if metadata is not None:
        builder.put("metadata", metadata)
    return builder.batch


def _assign(target: torch.Tensor, mask: torch.Tensor, values: torch.Tensor) -> None:
    """Assign where the mask says; larger unsigned types as their bits, because torch assigns none of them so."""
    bits = _SIGNED.get(str(target.dtype))
    if bits is not None:
        target, values = target.view(bits), values.view(bits)
    target[mask] = values


def numbers(values: Sequence[Any]) -> Any:
    """Return a tensor of plain numbers (bool, int64 or float64); any other list as it is."""
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return torch.tensor(values, dtype=torch.bool, device="cpu")
    if kinds == {int} and all(-(1 << 63) <= value < 1 << 63 for value in values):
        return torch.tensor(values, dtype=torch.int64, device="cpu")
    if kinds and kinds <= {int, float} and float in kinds:
        return torch.tensor(values, dtype=torch.float64, device="cpu")
    return list(values)


def _as_value(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return to_tensor(native(np.asarray(value)))
    return value


def joined(values: Sequence[torch.Tensor]) -> Ragged:
    """Put tensors that differ in their first length end to end."""
    lengths = [len(value) for value in values]
    offsets = starts_of(lengths)
    return Ragged(torch.cat(list(values)).detach().numpy(), offsets)


def _is_one_of(value: Any, dtype: np.dtype[Any], shape: tuple[int, ...] | None) -> bool:
    """Return whether a tensor or a Python number goes into a column."""
    if type(value) in NUMBERS:
        return shape == () and np.dtype(type(value)) == dtype
    return isinstance(value, torch.Tensor) and tuple(value.shape) == shape


def _known(values: Sequence[Any]) -> torch.Tensor:
    """Return which samples have a value."""
    return torch.tensor([value is not MISSING for value in values], dtype=torch.bool, device="cpu")


def _mask(lengths: torch.Tensor) -> torch.Tensor:
    longest = int(lengths.max()) if len(lengths) else 0
    return torch.arange(longest, device="cpu") < lengths[:, None]


def _fill(name: str, dtype: torch.dtype, pad_value: float) -> float | int | bool:
    """Return the pad value as a column's type has it; ConfigError when it has not."""
    if dtype.is_floating_point or dtype.is_complex:
        return pad_value
    if dtype == torch.bool:
        return bool(pad_value)
    limits = torch.iinfo(dtype)
    if not math.isfinite(pad_value) or pad_value != int(pad_value) or not limits.min <= pad_value <= limits.max:
        raise ConfigError(
            f"pad_value={pad_value} does not fit values of type {dtype}, which column {name!r} has: choose a whole "
            f"number from {limits.min} to {limits.max}"
        )
    return int(pad_value)


def collate_webdataset(
    samples: Sequence[Mapping[str, Any]],
    *,
    ragged: RaggedAs = "list",
    pad_value: float = 0.0,
    columns: Mapping[str, ColumnSpec] | None = None,
    optional: Collection[str] = (),
) -> Batch:
    """Make a batch of samples; a ``collate_fn`` for :class:`torch.utils.data.DataLoader`.

    Parameters
    ----------
    samples : sequence of dict
        One dict per sample. A field that only some of them have becomes a list with None in the gaps; see ``optional``.
    ragged : {"list", "pad", "packed", "nested"}
        What arrays become whose shapes differ between the samples:

        - ``list``: a list of tensors.
        - ``pad``: one tensor, filled up with ``pad_value``, and ``<name>_mask``, True where there is a value. The mask
          has the batch axis and the axes that differ: (n, time) for lengths, (n, unit) for numbers of units.
        - ``packed``: one tensor with all samples' rows end to end, and ``<name>_offsets`` (n + 1): sample ``i`` is
          ``batch[name][offsets[i]:offsets[i + 1]]``. Only where the first length alone differs; else a list.
        - ``nested``: a ``torch.nested`` tensor of jagged layout. Only where the first length alone differs; else a
          list.
    pad_value : float
        What padding is filled with.
    columns : mapping of str to ColumnSpec, optional
        The data set's columns. With it, a column whose shape differs between samples is treated by ``ragged`` in every
        batch, also in one whose samples happen to be equally long; without it, such a batch is stacked.
    optional : collection of str
        Columns that some samples of the data set lack. Numbers of one shape become, in every batch, a tensor with
        ``pad_value`` in the gaps, and ``<name>_valid``; all else a list with None in the gaps.

    Returns
    -------
    dict
        Arrays and tensors of equal shape are stacked; numbers become tensors (bool, int64, float64); strings, dicts,
        lists and mixed values become lists; ``batch["metadata"]`` is the list of the samples' dicts.

    Raises
    ------
    ConfigError
        There are no samples, ``ragged`` is none of the four, ``pad_value`` does not fit a column, or a field has the
        name of what is made beside another.

    Examples
    --------
    >>> import numpy as np
    >>> batch = collate_webdataset([{"x": np.ones((2, 3))}, {"x": np.ones((4, 3))}], ragged="pad")
    >>> tuple(batch["x"].shape), batch["x_mask"].sum(1).tolist()
    ((2, 4, 3), [2, 4])
    """
    return collate(samples, TensorOptions(ragged, pad_value, columns or {}, frozenset(optional)))


def collate(samples: Sequence[Mapping[str, Any]], options: TensorOptions) -> Batch:
    """Make a batch of samples; see :func:`collate_webdataset`."""
    if not samples:
        raise ConfigError("a batch needs at least one sample")
    builder = BatchBuilder(options)
    absent = (name for name in options.columns if name in options.optional)
    for name in dict.fromkeys([*(name for sample in samples for name in sample), *absent]):
        values = [sample.get(name, MISSING) for sample in samples]
        if name == "metadata":
            builder.put(name, [{} if value is MISSING else value for value in values])
        else:
            builder.add(name, values)
    return builder.batch
