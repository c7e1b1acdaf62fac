"""Single samples out of columns, as dicts of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from neurofm_shards.loading.tensors import to_tensor
from neurofm_shards.types import ColumnData, Metadata, Ragged


def split_samples(columns: Mapping[str, ColumnData], metadata: Sequence[Metadata] | None) -> Iterator[dict[str, Any]]:
    """Yield each sample as a dict: arrays as tensors (views of the columns), other values as they are.

    Parameters
    ----------
    columns : mapping of str to ColumnData
        At least one, all of the same number of samples.
    metadata : sequence of dict or None
        Put under ``metadata`` of each sample; None leaves it out.
    """
    names = list(columns)
    values: list[Sequence[Any]] = [_items(columns[name]) for name in names]
    if metadata is not None:
        names.append("metadata")
        values.append(metadata)
    for items in zip(*values, strict=True):
        yield dict(zip(names, items, strict=True))


def _items(data: ColumnData) -> Sequence[Any]:
    if isinstance(data, np.ndarray):
        tensor = to_tensor(data)
        return tuple(tensor.unbind(0)) if isinstance(tensor, torch.Tensor) else list(tensor)
    if isinstance(data, Ragged):
        values, bounds = to_tensor(data.values), data.offsets.tolist()
        return [values[start:stop] for start, stop in pairwise(bounds)]
    return [_value(value) for value in data]


def _value(value: Any) -> Any:
    return to_tensor(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic)) else value
