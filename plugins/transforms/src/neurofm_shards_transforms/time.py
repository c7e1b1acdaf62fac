"""Transforms along time: crop and Gaussian smoothing."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError
from neurofm_shards_transforms.base import Array, FieldsConfig, FieldTransform


class CropConfig(FieldsConfig):
    """Options of ``crop``."""

    kind: Literal["crop"] = "crop"
    start: int = Field(0, ge=0, description="first time bin kept")
    stop: int | None = Field(None, ge=1, description="first time bin left out; none: to the end")

    @model_validator(mode="after")
    def _ordered(self) -> CropConfig:
        if self.stop is not None and self.stop <= self.start:
            raise ValueError("stop must be after start")
        return self


class Crop(FieldTransform):
    """Keeps a range of time bins; asking for bins that are not there is an error."""

    elementwise: ClassVar[bool] = False

    def __init__(self, config: CropConfig) -> None:
        super().__init__(config)
        self.start, self.stop = config.start, config.stop

    def change(self, array: Array, lead: int) -> Array:
        """Return the range."""
        length = array.shape[lead]
        stop = length if self.stop is None else self.stop
        if self.start >= length or stop > length:
            raise ConfigError(f"crop: bins {self.start} to {stop} of a sample with {counted(length, 'bin')}")
        return array[(slice(None),) * lead + (slice(self.start, stop),)]


class SmoothConfig(FieldsConfig):
    """Options of ``smooth``."""

    kind: Literal["smooth"] = "smooth"
    sigma_bins: float = Field(2.0, gt=0, le=1000, description="standard deviation of the kernel in bins")
    truncate: float = Field(4.0, gt=0, le=10, description="half-width of the kernel in standard deviations")
    causal: bool = Field(False, description="use past bins only (half a kernel), for decoders that run live")


class Smooth(FieldTransform):
    """Smooths along time with a Gaussian kernel.

    At the edges the kernel is cut and renormalised, so that a constant stays constant and no value from outside the
    window is made up.
    """

    elementwise: ClassVar[bool] = False

    def __init__(self, config: SmoothConfig) -> None:
        super().__init__(config)
        self.radius = max(1, int(config.truncate * config.sigma_bins + 0.5))
        lag = np.arange(-self.radius, self.radius + 1)
        kernel = np.exp(-0.5 * (lag / config.sigma_bins) ** 2)
        # kernel[radius + lag] weighs the bin `lag` bins earlier; a causal kernel looks at no later bin.
        self.kernel = np.where(lag >= 0, kernel, 0.0) if config.causal else kernel

    def change(self, array: Array, lead: int) -> Array:
        """Return the smoothed array: float64 stays, everything else becomes float32."""
        dtype = np.float64 if array.dtype == np.float64 else np.float32
        values = np.moveaxis(array, lead, 0).astype(dtype, copy=False)
        smoothed = np.zeros_like(values)
        weight_sum = np.zeros(len(values), dtype)
        for lag, weight in zip(range(-self.radius, self.radius + 1), self.kernel.astype(dtype), strict=True):
            into = slice(max(lag, 0), max(len(values) + min(lag, 0), 0))
            smoothed[into] += weight * values[max(-lag, 0) : max(len(values) - max(lag, 0), 0)]
            weight_sum[into] += weight
        smoothed /= weight_sum.reshape(-1, *[1] * (values.ndim - 1))
        return np.ascontiguousarray(np.moveaxis(smoothed, 0, lead))
