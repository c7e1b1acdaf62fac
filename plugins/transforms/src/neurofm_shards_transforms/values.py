"""Transforms of single values: cast, clip, square root, channel mask."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from neurofm_shards.errors import ConfigError
from neurofm_shards_transforms.base import Array, FieldsConfig, FieldTransform


class CastConfig(FieldsConfig):
    """Options of ``cast``."""

    kind: Literal["cast"] = "cast"
    dtype: str = Field("float32", description="numpy dtype: bool, integer, float or complex")

    @field_validator("dtype")
    @classmethod
    def _plain(cls, value: str) -> str:
        try:
            dtype = np.dtype(value)
        except TypeError:
            dtype = None
        if dtype is None or dtype.kind not in "biufc":
            raise ValueError("not the name of a plain numeric numpy dtype")
        return value


class Cast(FieldTransform):
    """Changes the dtype; a float that is not finite cannot become an integer."""

    def __init__(self, config: CastConfig) -> None:
        super().__init__(config)
        self.dtype = np.dtype(config.dtype)

    def change(self, array: Array, lead: int) -> Array:  # noqa: ARG002
        """Return the array in the new dtype."""
        if self.dtype.kind in "iu" and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ConfigError(f"cast: {array.dtype} values that are NaN or infinite cannot become {self.dtype}")
        return array.astype(self.dtype)


class ClipConfig(FieldsConfig):
    """Options of ``clip``."""

    kind: Literal["clip"] = "clip"
    low: float | None = Field(None, description="smallest value kept")
    high: float | None = Field(None, description="largest value kept")

    @model_validator(mode="after")
    def _ordered(self) -> ClipConfig:
        if self.low is None and self.high is None:
            raise ValueError("give low, high or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low is above high")
        return self


class Clip(FieldTransform):
    """Limits values to a range; the dtype stays."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__(config)
        self.low, self.high = config.low, config.high

    def change(self, array: Array, lead: int) -> Array:  # noqa: ARG002
        """Return the limited array."""
        return np.clip(array, self.low, self.high).astype(array.dtype, copy=False)


class SqrtConfig(FieldsConfig):
    """Options of ``sqrt``."""

    kind: Literal["sqrt"] = "sqrt"


class Sqrt(FieldTransform):
    """Square root: makes the variance of Poisson counts nearly independent of their mean (Anscombe 1948)."""

    def change(self, array: Array, lead: int) -> Array:  # noqa: ARG002
        """Return the root: float64 stays, everything else becomes float32."""
        dtype = np.float64 if array.dtype == np.float64 else np.float32
        if array.size and np.nanmin(array) < 0:
            raise ConfigError("sqrt: there are negative values; it is meant for counts")
        root: Array = np.sqrt(array, dtype=dtype)
        return root


class ChannelMaskConfig(FieldsConfig):
    """Options of ``channel-mask``."""

    kind: Literal["channel-mask"] = "channel-mask"
    channels: tuple[int, ...] = Field(..., min_length=1, description="channels (along the last axis) to mask")
    mode: Literal["fill", "remove"] = Field("fill", description="set them to a value, or leave them out")
    value: float = Field(0.0, description="the value for mode=fill")

    @field_validator("channels")
    @classmethod
    def _not_negative(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 0:
            raise ValueError("channels count from 0")
        return value


class ChannelMask(FieldTransform):
    """Sets channels (last axis) to a value, or removes them."""

    def __init__(self, config: ChannelMaskConfig) -> None:
        super().__init__(config)
        self.channels = list(config.channels)
        self.remove = config.mode == "remove"
        self.value = config.value

    def change(self, array: Array, lead: int) -> Array:  # noqa: ARG002
        """Return the masked array."""
        if max(self.channels) >= array.shape[-1]:
            raise ConfigError(f"channel-mask: channel {max(self.channels)} of {array.shape[-1]} (they count from 0)")
        if self.remove:
            kept: Array = np.delete(array, self.channels, axis=-1)
            return kept
        masked: Array = array.copy()
        masked[..., self.channels] = self.value
        return masked
