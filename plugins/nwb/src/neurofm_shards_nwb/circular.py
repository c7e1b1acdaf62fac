"""Finds variables that live on a circle, and the range they wrap in."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from neurofm_shards.types import Problem
from neurofm_shards_nwb.content import Series

_RADIANS = re.compile(r"^rad(ian)?s?$", re.IGNORECASE)
_DEGREES = re.compile(r"^(deg(ree)?s?|°)$", re.IGNORECASE)
_NAMES = re.compile(r"head.?dir|heading|orientation|compass|azimuth|yaw|phase", re.IGNORECASE)
#: Values looked at to tell [0, 2 pi) from [-pi, pi).
_LOOK_AT = 1_000_000


@dataclass(frozen=True)
class Circle:
    """The range of a circular variable, or None."""

    range: tuple[float, float] | None
    problems: tuple[Problem, ...] = ()


def circular_range(series: Series) -> Circle:
    """Decide whether a series is circular.

    A spatial series is when it lies in CompassDirection, or is named like an angle, and its unit is radians or degrees
    (an angle without a unit is judged by its values). The range starts at 0, or at minus half a turn where there are
    values below 0; values beyond one turn are an unwrapped angle, which is not circular.
    """
    compass = any(kind == "CompassDirection" for _, kind in series.containers)
    named = "SpatialSeries" in series.types and _NAMES.search(series.path.rpartition("/")[2]) is not None
    if series.data is None or not (compass or named) or series.data.dtype.kind not in "fiu":
        return Circle(None)
    low, high = _extremes(series)
    turn = _turn(series.unit, high - low) if compass or _has_angle_unit(series.unit) else None
    if turn is None:
        return Circle(None)
    start = 0.0 if low >= 0 else -turn / 2
    if high > start + turn * 1.001 or low < start - turn * 0.001:
        what = f"an angle from {low:.4g} to {high:.4g}, more than a turn of {turn:.4g}"
        return Circle(None, (Problem(series.path, what, "taken as unwrapped: interpolated as it is", "info"),))
    return Circle((start, start + turn))


def _has_angle_unit(unit: str) -> bool:
    return bool(_RADIANS.match(unit) or _DEGREES.match(unit))


def _turn(unit: str, extent: float) -> float | None:
    if _RADIANS.match(unit):
        return math.tau
    if _DEGREES.match(unit):
        return 360.0
    if unit and unit.lower() not in ("unknown", "n/a", "a.u.", "na"):
        return None
    return math.tau if extent <= math.tau * 1.001 else 360.0


def _extremes(series: Series) -> tuple[float, float]:
    """Return the smallest and largest finite value of the beginning of a series, in physical units."""
    assert series.data is not None  # noqa: S101  (the caller has looked)
    values = series.data.read(0, min(len(series.data), _LOOK_AT)).astype(np.float64) * series.conversion + series.offset
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
