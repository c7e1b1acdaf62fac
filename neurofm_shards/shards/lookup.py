"""From a sample's key to its row."""

from __future__ import annotations

import re
from typing import Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from neurofm_shards._typing import Ints
from neurofm_shards.errors import SampleNotFoundError

_NUMBER = re.compile(r"(\d{1,18})$")


class Keys(Protocol):
    """Where keys are to be had: a collection."""

    @property
    def num_samples(self) -> int:
        """All samples."""

    @property
    def shard_names(self) -> list[str]:
        """All shards."""

    def key(self, row: int) -> str:
        """Return the key of a row."""

    def shard_keys(self, shard: int) -> list[str]:
        """Return all keys of a shard."""


class KeyLookup:
    """Finds keys: automatic ones by their number, others in a sorted table of hashes that is made when first needed."""

    def __init__(self) -> None:
        self._table: tuple[npt.NDArray[np.uint64], Ints] | None = None

    def find(self, keys: Keys, key: str) -> int:
        """Return the first row with this key; SampleNotFoundError when there is none."""
        guess = _guess(key, keys.num_samples)
        if guess is not None and keys.key(guess) == key:
            return guess
        if self._table is None:
            self._table = _hashes(keys)
        hashes, rows = self._table
        low, high = (int(np.searchsorted(hashes, np.uint64(_hash(key)), side)) for side in ("left", "right"))
        for row in rows[low:high].tolist():
            if keys.key(row) == key:
                return int(row)
        example = repr(keys.key(0)) if keys.num_samples else "nothing: there are no samples"
        raise SampleNotFoundError(f"no sample has the key {key!r}; keys look like {example}")


def _guess(key: str, num_samples: int) -> int | None:
    """Return the row that an automatic key, counted from 1 without gaps, would have."""
    match = _NUMBER.search(key)
    row = int(match[1]) - 1 if match else -1
    return row if 0 <= row < num_samples else None


def _hashes(keys: Keys) -> tuple[npt.NDArray[np.uint64], Ints]:
    every = (_hash(key) for shard in range(len(keys.shard_names)) for key in keys.shard_keys(shard))
    hashes = np.fromiter(every, np.uint64, keys.num_samples)
    rows = np.argsort(hashes, kind="stable")
    return hashes[rows], rows


def _hash(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))
