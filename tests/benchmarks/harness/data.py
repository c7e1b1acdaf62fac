"""The data of the benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from contenders.source import Source


def quick_reference(count: int) -> Source:
    """Return the quick reference's samples: 78.4 KB each."""
    rng = np.random.default_rng(0)
    return Source({"spikes": rng.standard_normal((count, 100, 96)), "behavior": rng.standard_normal((count, 100, 2))})


def single_precision(count: int) -> Source:
    """Return the same in float32: 39.2 KB each."""
    rng = np.random.default_rng(1)
    shapes = {"spikes": (count, 100, 96), "behavior": (count, 100, 2)}
    return Source({name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()})


def counts(count: int) -> Source:
    """Return spike counts of 9.6 KB each."""
    return Source({"spikes": np.random.default_rng(2).poisson(0.3, (count, 100, 96)).astype("u1")})


def small(count: int) -> Source:
    """Return samples of 1 KB."""
    return Source({"x": np.random.default_rng(3).standard_normal((count, 256), dtype=np.float32)})


def large(count: int) -> Source:
    """Return samples of 1 MB."""
    return Source({"x": np.random.default_rng(4).standard_normal((count, 1000, 131))})


def ragged(count: int) -> Source:
    """Return samples of 4 to 12 KB that differ in length."""
    rng = np.random.default_rng(5)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(500, 1500, count))])
    return Source({"x": (rng.standard_normal((int(offsets[-1]), 2), dtype=np.float32), offsets)})


def tiny(count: int) -> Source:
    """Return samples of 32 bytes, for data sets of many."""
    return Source({"x": np.random.default_rng(6).standard_normal((count, 8), dtype=np.float32)})


MAKERS = {
    "quick": quick_reference,
    "single": single_precision,
    "counts": counts,
    "small": small,
    "large": large,
    "ragged": ragged,
    "tiny": tiny,
}


def make(name: str, count: int, folder: Path) -> Path:
    """Write the arrays of one data set; return their folder."""
    place = folder / f"source-{name}"
    if not place.exists():
        MAKERS[name](count).save(place)
    return place


def count(place: Path) -> int:
    """Return how many samples a data set has."""
    return Source.load(place).count
