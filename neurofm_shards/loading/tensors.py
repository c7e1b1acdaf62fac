"""From gathered columns to tensors, without a copy where the columns are arrays; collating samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from neurofm_shards.blocks import MISSING, is_count
from neurofm_shards.errors import ConfigError
from neurofm_shards.types import ColumnData, ColumnSpec, Metadata, Ragged

RaggedAs: TypeAlias = Literal["list", "pad", "packed", "nested"]
Batch: TypeAlias = dict[str, Any]


def count_dtypes(
    columns: Mapping[str, ColumnSpec], counts: Literal["float32", "stored"] = "float32"
) -> dict[str, npt.DTypeLike]:
    """Say which columns are converted while they are gathered.

    Spike counts are stored in a small unsigned type; a Linear layer takes no uint8, and torch has no arithmetic for
    uint16. So unsigned columns with the unit ``"count"``, and unsigned ones called ``spikes``, become float32.
    All other columns keep their type.

    Parameters
    ----------
    columns : mapping of str to ColumnSpec
        The data set's columns.
    counts : {"float32", "stored"}
        ``stored`` leaves counts as they are stored.

    Returns
    -------
    dict of str to dtype
        For ``ShardCollection.gather(dtypes=...)``.
    """
    if counts not in ("float32", "stored"):
        raise ConfigError(f"counts={counts!r}: choose 'float32' or 'stored'")
    if counts == "stored":
        return {}
    return {name: np.dtype(np.float32) for name, spec in columns.items() if is_count(spec)}


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
    """Say whether torch has this numpy type (in this machine's byte order)."""
    try:
        torch.from_numpy(np.empty(0, dtype))
    except (TypeError, ValueError):
        return False
    return True


def batch_to_tensors(
    gathered: Mapping[str, ColumnData],
    metadata: Sequence[Metadata] | None = None,
    *,
    ragged: RaggedAs = "list",
    pad_value: float = 0.0,
    columns: Mapping[str, ColumnSpec] | None = None,
) -> Batch:
    """Turn gathered columns into a batch.

    Parameters
    ----------
    gathered : mapping of str to ColumnData
        What ``ShardCollection.gather`` returned; arrays are shared with the batch, not copied.
    metadata : sequence of dict, optional
        Given as ``batch["metadata"]``.
    ragged, pad_value, columns
        See :func:`~neurofm_shards.loading.tensors.collate_webdataset`.

    Returns
    -------
    dict
        A tensor for each column of one shape; see ``ragged`` for those whose lengths differ; lists for all else, with
        None where a sample lacks the field.
    """
    batch: Batch = {}
    specs = columns or {}
    for name, data in gathered.items():
        if isinstance(data, np.ndarray):
            batch[name] = to_tensor(data)
        elif isinstance(data, Ragged):
            batch |= ragged_to_tensors(name, data, ragged, pad_value)
        else:
            batch |= list_to_tensors(name, data, ragged, pad_value, specs.get(name))
    if metadata is not None:
        batch["metadata"] = metadata
    return batch


def ragged_to_tensors(name: str, data: Ragged, ragged: RaggedAs, pad_value: float) -> Batch:
    """Turn arrays that differ in their first length into what ``ragged`` says."""
    values, offsets = to_tensor(data.values), torch.from_numpy(data.offsets)
    if not isinstance(values, torch.Tensor):
        return {name: [data[i] for i in range(len(data))]}
    if ragged == "list":
        return {name: list(values.split_with_sizes(offsets.diff().tolist()))}
    if ragged == "packed":
        return {name: values, f"{name}_offsets": offsets}
    if ragged == "nested":
        return {name: torch.nested.nested_tensor_from_jagged(values, offsets)}
    if ragged == "pad":
        mask = _mask(offsets.diff())
        padded = values.new_full((*mask.shape, *values.shape[1:]), _fill(values, pad_value))
        padded[mask] = values
        return {name: padded, f"{name}_mask": mask}
    raise ConfigError(f"ragged={ragged!r}: choose 'list', 'pad', 'packed' or 'nested'")


def list_to_tensors(
    name: str, values: Sequence[Any], ragged: RaggedAs, pad_value: float, spec: ColumnSpec | None = None
) -> Batch:
    """Turn one value per sample into a tensor where they are all numbers or all of one shape.

    Arrays whose shapes differ are what ``ragged`` says when the same axes are there; everything else stays a list.
    """
    values = [None if value is MISSING else _as_value(value) for value in values]
    if values and all(isinstance(value, torch.Tensor) for value in values):
        return _tensors(name, values, ragged, pad_value, _ragged_axes(spec))
    return {name: numbers(values)}


def _ragged_axes(spec: ColumnSpec | None) -> list[int]:
    shape = () if spec is None or spec.shape is None else spec.shape
    return [axis for axis, length in enumerate(shape) if length is None]


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
        array = np.asarray(value)
        return to_tensor(array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")))
    return value


def _tensors(
    name: str, values: Sequence[torch.Tensor], ragged: RaggedAs, pad_value: float, axes: Sequence[int]
) -> Batch:
    shapes = {tuple(value.shape) for value in values}
    if len({value.dtype for value in values}) > 1 or len({len(shape) for shape in shapes}) > 1:
        return {name: list(values)}
    lengths = list(zip(*shapes, strict=True))
    differing = sorted({*axes, *(axis for axis, found in enumerate(lengths) if len(set(found)) > 1)})
    if not differing:
        return {name: torch.stack(list(values))}
    if differing == [0]:
        return ragged_to_tensors(name, joined(values), ragged, pad_value)
    return _padded(name, values, pad_value, differing) if ragged == "pad" else {name: list(values)}


def joined(values: Sequence[torch.Tensor]) -> Ragged:
    """Put tensors that differ in their first length end to end."""
    lengths = [len(value) for value in values]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Ragged(torch.cat(list(values)).detach().numpy(), offsets)


def _padded(name: str, values: Sequence[torch.Tensor], pad_value: float, axes: Sequence[int]) -> Batch:
    """Pad every axis to its longest; the mask has the axes that differ."""
    longest = [max(lengths) for lengths in zip(*(value.shape for value in values), strict=True)]
    padded = values[0].new_full((len(values), *longest), _fill(values[0], pad_value))
    mask = torch.zeros((len(values), *(longest[axis] for axis in axes)), dtype=torch.bool, device="cpu")
    for value, room, there in zip(values, padded, mask, strict=True):
        room[tuple(slice(length) for length in value.shape)] = value
        there[tuple(slice(value.shape[axis]) for axis in axes)] = True
    return {name: padded, f"{name}_mask": mask}


def _mask(lengths: torch.Tensor) -> torch.Tensor:
    longest = int(lengths.max()) if len(lengths) else 0
    return torch.arange(longest, device="cpu") < lengths[:, None]


def _fill(values: torch.Tensor, pad_value: float) -> float | int | bool:
    """Return the pad value as the tensor's type has it; ConfigError when it has not."""
    if values.dtype.is_floating_point or values.dtype.is_complex:
        return pad_value
    if values.dtype == torch.bool:
        return bool(pad_value)
    limits = torch.iinfo(values.dtype)
    if pad_value != int(pad_value) or not limits.min <= pad_value <= limits.max:
        raise ConfigError(f"pad_value={pad_value} does not fit values of type {values.dtype}")
    return int(pad_value)


def collate_webdataset(
    samples: Sequence[Mapping[str, Any]],
    *,
    ragged: RaggedAs = "list",
    pad_value: float = 0.0,
    columns: Mapping[str, ColumnSpec] | None = None,
) -> Batch:
    """Make a batch of samples; a ``collate_fn`` for :class:`torch.utils.data.DataLoader`.

    Parameters
    ----------
    samples : sequence of dict
        One dict per sample. A field that only some of them have becomes a list with None in the gaps.
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

    Returns
    -------
    dict
        Arrays and tensors of equal shape are stacked; numbers become tensors (bool, int64, float64); strings, dicts,
        lists and mixed values become lists; ``batch["metadata"]`` is the list of the samples' dicts.

    Raises
    ------
    ConfigError
        There are no samples, or ``ragged`` is none of the four.

    Examples
    --------
    >>> import numpy as np
    >>> batch = collate_webdataset([{"x": np.ones((2, 3))}, {"x": np.ones((4, 3))}], ragged="pad")
    >>> tuple(batch["x"].shape), batch["x_mask"].sum(1).tolist()
    ((2, 4, 3), [2, 4])
    """
    if not samples:
        raise ConfigError("a batch needs at least one sample")
    if ragged not in ("list", "pad", "packed", "nested"):
        raise ConfigError(f"ragged={ragged!r}: choose 'list', 'pad', 'packed' or 'nested'")
    batch: Batch = {}
    specs = columns or {}
    for name in dict.fromkeys(name for sample in samples for name in sample):
        values = [sample.get(name, MISSING) for sample in samples]
        if name == "metadata":
            batch[name] = [{} if value is MISSING else value for value in values]
        else:
            batch |= list_to_tensors(name, values, ragged, pad_value, specs.get(name))
    return batch
