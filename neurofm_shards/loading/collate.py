"""From samples to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neurofm_shards.blocks import MISSING
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.tensors import Batch, RaggedAs, list_to_tensors
from neurofm_shards.types import ColumnSpec


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
