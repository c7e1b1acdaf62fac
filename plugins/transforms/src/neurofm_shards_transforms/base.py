"""What the transforms have in common: which fields they change, and how blocks are walked."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from neurofm_shards.errors import ConfigError
from neurofm_shards.plugins.interfaces import PluginConfig, Transform
from neurofm_shards.types import Block, ColumnData, Metadata, Ragged, Sample

Array = npt.NDArray[Any]


class FieldsConfig(PluginConfig):
    """Configuration of a transform that changes some fields."""

    fields: tuple[str, ...] = Field(("spikes",), min_length=1, description="fields to change")


class FieldTransform(Transform):
    """Changes the arrays of the configured fields with one numpy expression.

    Subclasses implement :meth:`change`, which works on one sample's array as on a stack of them.
    """

    holds_gil: ClassVar[bool] = False
    #: Whether each row of an array is changed without looking at its neighbours in time.
    elementwise: ClassVar[bool] = True

    def __init__(self, config: FieldsConfig) -> None:
        self.fields = config.fields

    @abstractmethod
    def change(self, array: Array, lead: int) -> Array:
        """Return the changed array.

        Parameters
        ----------
        array : numpy.ndarray
            Shape ``(time, ...)`` of one sample when ``lead`` is 0, ``(n, time, ...)`` when it is 1.
        lead : int
            Number of axes before the time axis.
        """

    def __call__(self, sample: Sample, metadata: Metadata) -> Sample:  # noqa: ARG002
        """Change one sample."""
        self._check(sample)
        changed = {name: self.change(np.asarray(sample[name]), 0) for name in self.fields}
        return {**sample, **changed}

    def apply_block(self, block: Block) -> Block:
        """Change a whole block."""
        self._check(block.columns)
        changed = {name: self._change_column(block.columns[name]) for name in self.fields}
        return replace(block, columns={**block.columns, **changed})

    def _change_column(self, column: ColumnData) -> ColumnData:
        if isinstance(column, np.ndarray):
            return self.change(column, 1)
        if isinstance(column, Ragged):
            return self._change_ragged(column)
        return [self.change(np.asarray(value), 0) for value in column]

    def _change_ragged(self, column: Ragged) -> ColumnData:
        if self.elementwise:
            return Ragged(self.change(column.values, 0), column.offsets)
        parts = [self.change(column[i], 0) for i in range(len(column))]
        lengths = [len(part) for part in parts]
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        return Ragged(np.concatenate(parts) if parts else column.values[:0], offsets)

    def _check(self, present: Any) -> None:
        missing = [name for name in self.fields if name not in present]
        if missing:
            raise ConfigError(
                f"{type(self).__name__.lower()}: no field {missing[0]!r} in the samples; there are: "
                f"{', '.join(sorted(present))}"
            )
