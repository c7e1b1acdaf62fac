"""Batches that each come from one session (or another group)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xxhash

from neurofm_shards._typing import Rows
from neurofm_shards.loading.division import Division
from neurofm_shards.loading.order.bijection import Permutation, derive_key
from neurofm_shards.loading.order.shuffle import ORDER_VERSION
from neurofm_shards.loading.plans.block_plan import BlockPlan, Blocks, starts_of


class SessionBlocks(Blocks):
    """Each group's samples in a keyed random order, cut into blocks of ``size``; all blocks in a keyed random order.

    A group's last block may be shorter. Where those are follows from the inverse of the blocks' order, so the number of
    samples before any block is known without looking at the others.
    """

    def __init__(self, groups: list[Rows], size: int, key: int, *, shuffle: bool) -> None:
        self._groups = groups
        self._size = size
        self._key = key
        self._shuffle = shuffle
        lengths = np.array([len(rows) for rows in groups], dtype=np.int64)
        self._first = starts_of(-(-lengths // size))
        self._order = Permutation(int(self._first[-1]), derive_key("blocks", key)) if shuffle else None
        lacking = -lengths % size
        short = np.flatnonzero(lacking)
        places = self._first[short + 1] - 1
        if self._order is not None and len(places):
            places = self._order.inverse(places)
        turn = np.argsort(places)
        self._short = places[turn]
        self._lacking = starts_of(lacking[short][turn])

    def __len__(self) -> int:
        return int(self._first[-1])

    def before(self, number: int) -> int:
        """See :meth:`Blocks.before`."""
        return number * self._size - int(self._lacking[np.searchsorted(self._short, number)])

    def rows(self, numbers: Rows) -> list[Rows]:
        """See :meth:`Blocks.rows`."""
        blocks = numbers if self._order is None else self._order(numbers)
        owners = np.searchsorted(self._first, blocks, side="right") - 1
        found: list[Rows] = [np.empty(0, np.int64)] * len(numbers)
        for owner in np.unique(owners).tolist():
            rows = self._groups[owner]
            mine = np.flatnonzero(owners == owner)
            first = (blocks[mine] - self._first[owner]) * self._size
            places = [np.arange(at, min(at + self._size, len(rows))) for at in first.tolist()]
            drawn = rows[self._drawn(owner, np.concatenate(places))]
            for i, part in zip(mine.tolist(), np.split(drawn, np.cumsum([len(p) for p in places])[:-1]), strict=True):
                found[i] = part
        return found

    def _drawn(self, owner: int, places: Rows) -> Rows:
        if not self._shuffle:
            return places
        return Permutation(len(self._groups[owner]), derive_key("group", self._key, owner))(places)


class OneSessionPlan(BlockPlan):
    """See :class:`~neurofm_shards.loading.plans.batching.OneSession`."""

    def __init__(
        self, collection: Any, groups: Mapping[str, Rows], division: Division, size: int, seed: int, mode: bool | str
    ) -> None:
        super().__init__(collection)
        self.division = division
        self._groups = list(groups.values())
        self._size = size
        self._seed = seed
        self._mode = mode

    def make_blocks(self, epoch: int) -> Blocks:
        """See :meth:`BlockPlan.make_blocks`."""
        key = derive_key("one session", ORDER_VERSION, self._seed, epoch)
        return SessionBlocks(self._groups, self._size, key, shuffle=bool(self._mode))

    def identity(self) -> dict[str, Any]:
        """Return fingerprint, grouping, block size and seed."""
        digest = xxhash.xxh3_64()
        for rows in self._groups:
            digest.update(len(rows).to_bytes(8, "little") + rows.astype("<i8").tobytes())
        return {
            "dataset": str(self.collection.fingerprint)[:32],
            "shards": len(self.collection.starts) - 1,
            "samples": sum(map(len, self._groups)),
            "groups": digest.hexdigest(),
            "block": self._size,
            "shuffle": bool(self._mode),
            "seed": self._seed,
            "order_version": ORDER_VERSION,
        }
