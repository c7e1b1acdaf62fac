"""Z-score per channel, from numbers given or from the data set's own statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError
from neurofm_shards.plugins.interfaces import Transform
from neurofm_shards.types import Block, ColumnData, Metadata, Ragged, Sample
from neurofm_shards_transforms.base import Array, FieldsConfig

Numbers = tuple[float, ...]
#: Mean and standard deviation, one per channel (last axis).
Moments = tuple[Array, Array]
#: What an empty value is scaled with.
_NOTHING: Moments = (np.zeros(1), np.ones(1))


class ZScoreConfig(FieldsConfig):
    """Options of ``zscore``."""

    kind: Literal["zscore"] = "zscore"
    by: Literal["dataset", "session"] = Field(
        "dataset", description="whose statistics: of the whole data set, or of each sample's own session"
    )
    mean: Numbers | None = Field(None, min_length=1, description="means per channel (one for all); none: data set's")
    std: Numbers | None = Field(None, min_length=1, description="standard deviations per channel; none: data set's")

    @model_validator(mode="after")
    def _both_or_none(self) -> ZScoreConfig:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both mean and std, or neither (then the data set's statistics are used)")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


class ZScore(Transform):
    """Subtracts the mean and divides by the standard deviation of each channel (last axis).

    Statistics come from the manifest, which has those of the training split only. A channel that never changes is
    divided by 1. The result is float32; float64 stays.
    """

    holds_gil: ClassVar[bool] = False

    def __init__(self, config: ZScoreConfig) -> None:
        self.fields = config.fields
        self.by = config.by
        self._whole: dict[str, Moments] = {}
        self._sessions: dict[str, dict[str, Moments]] = {}
        if config.mean is not None and config.std is not None:
            moments = np.asarray(config.mean), np.asarray(config.std)
            self.by = "dataset"
            self._whole = dict.fromkeys(self.fields, moments)

    def bind(self, manifest: Mapping[str, Any]) -> ZScore:
        """Return the transform with the data set's statistics, unless numbers were given."""
        if self._whole:
            return self
        statistics = manifest.get("statistics") or {}
        bound = copy(self)
        if self.by == "session":
            bound._sessions = self._per_session(statistics.get("sessions", {}))  # noqa: SLF001
        else:
            bound._whole = self._pick(statistics.get("columns", {}), "this data set")  # noqa: SLF001
        return bound

    def __call__(self, sample: Sample, metadata: Metadata) -> Sample:
        """Change one sample."""
        values = {name: np.asarray(_get(sample, name)) for name in self.fields}
        changed = {name: _scale(value, *self._moments(name, metadata, value)) for name, value in values.items()}
        return {**sample, **changed}

    def apply_block(self, block: Block) -> Block:
        """Change a whole block."""
        columns = dict(block.columns)
        for name in self.fields:
            columns[name] = self._change(name, _get(block.columns, name), block.metadata)
        return replace(block, columns=columns)

    def _change(self, name: str, column: ColumnData, metadata: Sequence[Metadata]) -> ColumnData:
        if self.by == "dataset" and isinstance(column, np.ndarray):
            return _scale(column, *self._moments(name, {}, None))
        if self.by == "dataset" and isinstance(column, Ragged):
            return Ragged(_scale(column.values, *self._moments(name, {}, None)), column.offsets)
        moments = [self._moments(name, one, column[i]) for i, one in enumerate(metadata)]
        if isinstance(column, np.ndarray):
            return _scale_rows(column, moments)
        if isinstance(column, Ragged):
            parts = [_scale(column[i], *moments[i]) for i in range(len(column))]
            offsets = column.offsets - column.offsets[0]
            return Ragged(np.concatenate(parts) if parts else column.values, offsets)
        return [_scale(np.asarray(value), *pair) for value, pair in zip(column, moments, strict=True)]

    def _moments(self, name: str, metadata: Mapping[str, Any], value: Any) -> Moments:
        if self.by == "dataset":
            if name not in self._whole:
                raise ConfigError("zscore: give mean and std, or use it on a data set that has statistics (at load)")
            return self._whole[name]
        session = metadata.get("session_id")
        moments = self._sessions.get(str(session), {}).get(name)
        if moments is None and np.size(value):
            raise ConfigError(
                f"zscore: no statistics for session {session!r} of {name!r}: they are made from samples for training, "
                "and it has none of them; use by='dataset', or split within sessions (by time or trial)"
            )
        return _NOTHING if moments is None else moments

    def _per_session(self, sessions: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Moments]]:
        """Return what each session knows of the fields; one that lacks a modality knows nothing of it."""
        if not sessions:
            raise ConfigError("zscore: this data set has no statistics per session; use by='dataset' or give mean, std")
        known = {field for columns in sessions.values() for field in columns}
        missing = [field for field in self.fields if field not in known]
        if missing:
            raise ConfigError(
                f"zscore: no session has statistics of {missing[0]!r} (there are: {', '.join(sorted(known))})"
            )
        return {
            name: {field: _usable(columns[field]) for field in self.fields if field in columns}
            for name, columns in sessions.items()
        }

    def _pick(self, columns: Mapping[str, Any], whose: str) -> dict[str, Moments]:
        missing = [name for name in self.fields if name not in columns]
        if missing:
            raise ConfigError(
                f"zscore: {whose} has no statistics of {missing[0]!r} "
                f"(there are: {', '.join(sorted(columns)) or 'none'}); use by='session' where "
                "sessions have different channels, or give mean and std"
            )
        return {name: _usable(columns[name]) for name in self.fields}


def _usable(numbers: Mapping[str, Any]) -> Moments:
    # None stands for NaN: a channel without a single finite value.
    mean = np.array([0.0 if value is None else value for value in numbers["mean"]])
    std = np.array([value or 1.0 for value in numbers["std"]])
    return np.nan_to_num(mean), np.where(np.isfinite(std), std, 1.0)


def _scale(array: Array, mean: Array, std: Array) -> Array:
    channels = array.shape[-1] if array.ndim else 1
    if len(mean) not in (1, channels) or len(std) not in (1, channels):
        raise ConfigError(f"zscore: {max(len(mean), len(std))} means or deviations for {counted(channels, 'channel')}")
    dtype = np.float64 if array.dtype == np.float64 else np.float32
    scaled: Array = (array.astype(dtype, copy=False) - mean.astype(dtype)) / std.astype(dtype)
    return scaled


def _scale_rows(column: Array, moments: Sequence[Moments]) -> Array:
    dtype = np.float64 if column.dtype == np.float64 else np.float32
    between = [1] * (column.ndim - 2)
    mean, std = (np.stack([pair[i] for pair in moments]).astype(dtype) for i in (0, 1))
    if mean.shape[1] not in (1, column.shape[-1]):
        raise ConfigError(f"zscore: statistics of {mean.shape[1]} channels for {column.shape[-1]}")
    shape = (len(moments), *between, mean.shape[1])
    scaled: Array = (column.astype(dtype, copy=False) - mean.reshape(shape)) / std.reshape(shape)
    return scaled


def _get(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise ConfigError(f"zscore: no field {name!r} in the samples; there are: {', '.join(sorted(fields))}")
    return fields[name]
