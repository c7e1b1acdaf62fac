"""Equality that knows arrays, and damage to try on readers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from neurofm_shards.types import Block, Ragged


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal to the last bit: arrays with dtype and shape, NaN equal to NaN."""
    if isinstance(a, Ragged) and isinstance(b, Ragged):
        return same(np.diff(a.offsets), np.diff(b.offsets)) and same(_tight(a), _tight(b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(type(a) is type(b) and (a == b or (a != a and b != b)))  # noqa: PLR0124  (NaN)


def _tight(ragged: Ragged) -> np.ndarray[Any, Any]:
    return ragged.values[ragged.offsets[0] : ragged.offsets[-1]]


def same_blocks(a: Block, b: Block) -> bool:
    """Return whether two blocks hold the same columns and metadata."""
    return (
        sorted(a.columns) == sorted(b.columns)
        and all(same(a.columns[name], b.columns[name]) for name in a.columns)
        and same(list(a.metadata), list(b.metadata))
        and same(list(a.keys or ()), list(b.keys or ()))
    )


def damaged(payload: bytes, seed: int = 0, count: int = 200) -> Iterator[bytes]:
    """Give ``count`` damaged versions of a payload: cut short, extended, bytes changed, pieces swapped or repeated."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        data = bytearray(payload)
        if i % 4 == 0:
            del data[int(rng.integers(0, len(data) + 1)) :]
        elif i % 4 == 1:
            data += rng.bytes(int(rng.integers(1, 64)))
        elif i % 4 == 2 and data:
            for at in rng.integers(0, len(data), int(rng.integers(1, 8))):
                data[at] = int(rng.integers(0, 256))
        elif data:
            at, length = int(rng.integers(0, len(data))), int(rng.integers(1, 64))
            data[at:at] = data[at : at + length]
        yield bytes(data)
