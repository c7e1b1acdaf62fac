"""Batches of samples of similar length that stay within a budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash

from neurofm_shards._typing import Rows
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.component import Component
from neurofm_shards.loading.division import Division
from neurofm_shards.loading.order.bijection import Permutation, derive_key
from neurofm_shards.loading.order.shuffle import ORDER_VERSION
from neurofm_shards.loading.plans.block_plan import BlockPlan, Blocks, starts_of


class ListedBlocks(Blocks):
    """Blocks that are listed: rows end to end, in an order of their own."""

    def __init__(self, rows: Rows, edges: Rows, order: Rows) -> None:
        self._rows = rows
        self._edges = edges
        self._order = order
        self._before = starts_of(np.diff(edges)[order])

    def __len__(self) -> int:
        return len(self._order)

    def before(self, number: int) -> int:
        """See :meth:`Blocks.before`."""
        return int(self._before[number])

    def rows(self, numbers: Rows) -> list[Rows]:
        """See :meth:`Blocks.rows`."""
        edges = self._edges
        return [self._rows[edges[i] : edges[i + 1]] for i in self._order[numbers].tolist()]


class TokenBudgetPlan(BlockPlan):
    """See :class:`~neurofm_shards.loading.plans.batching.TokenBudget`.

    The epoch's order of samples is cut into buckets, each bucket is sorted by length and cut into batches, and the
    batches of the epoch are put into a keyed random order. Lengths decide, so an epoch is planned as a whole: 16
    bytes per sample and about 1 s per 10 million samples.
    """

    def __init__(
        self,
        component: Component,
        lengths: Rows,
        division: Division,
        tokens: int,
        most: int,
        bucket: int,
        *,
        padded: bool,
    ) -> None:
        super().__init__(component.collection)
        self.division = division
        self._component = component
        self._lengths = lengths
        self._tokens = tokens
        self._most = most
        self._bucket = bucket
        self._padded = padded
        chosen = lengths if component.subset is None else lengths[component.subset]
        if len(chosen) and chosen.max() > tokens:
            raise ConfigError(
                f"the longest sample has length {int(chosen.max()):,}, which is beyond the budget of {tokens:,}: raise "
                "the budget, or leave such samples out"
            )

    def make_blocks(self, epoch: int) -> Blocks:
        """See :meth:`BlockPlan.make_blocks`."""
        component = self._component
        rows = component.rows(epoch, np.arange(len(component), dtype=np.int64))
        lengths = self._lengths[rows]
        turn = np.lexsort((lengths, np.arange(len(rows)) // self._bucket))
        rows, lengths = rows[turn], lengths[turn]
        edges = [0]
        for first in range(0, len(rows), self._bucket):
            edges += [first + cut for cut in self._cut(lengths[first : first + self._bucket])]
        count = len(edges) - 1
        order = np.arange(count)
        if component.order.mode is not False:
            order = Permutation(count, derive_key("budget", ORDER_VERSION, component.order.seed, epoch))(order)
        return ListedBlocks(rows, np.array(edges, dtype=np.int64), order)

    def _cut(self, lengths: Rows) -> list[int]:
        """Return where batches of one bucket end; ``lengths`` ascend, so the last one decides what padding costs."""
        cuts, first, running = [], 0, starts_of(lengths)
        while first < len(lengths):
            reach = min(first + self._most, len(lengths))
            if self._padded:
                costs = lengths[first:reach] * np.arange(1, reach - first + 1)
            else:
                costs = running[first + 1 : reach + 1] - running[first]
            first += max(1, int(np.searchsorted(costs, self._tokens, side="right")))
            cuts.append(first)
        return cuts

    def identity(self) -> dict[str, Any]:
        """Return the data's identity, the lengths and the budget."""
        return {
            **self._component.identity(),
            "lengths": xxhash.xxh3_64_hexdigest(self._lengths.astype("<i8").tobytes()),
            "tokens": self._tokens,
            "most": self._most,
            "bucket": self._bucket,
            "padded": self._padded,
        }
