"""Which source a position draws from, and how many of that source came before: in closed form.

Element ``i`` of a source with share ``w`` is due at time ``(i + 1/2) / w``. All elements of all sources in the order of
their due times (ties: lower source first) are the ideal schedule: after ``n`` elements each source is within a few
elements of ``n * w``. That schedule is cut into blocks, and each block is put into a keyed random order, so that
which source comes next is not predictable while every block has its exact share of each source.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.order.bijection import combine


class Schedule:
    """An endless sequence of sources with given shares.

    Parameters
    ----------
    weights : array of float, shape (sources,)
        Positive; only their ratios matter.
    block : int
        Positions that are shuffled among themselves.
    """

    def __init__(self, weights: npt.ArrayLike, block: int) -> None:
        found = np.asarray(weights, dtype=np.float64)
        if found.ndim != 1 or not len(found) or not np.isfinite(found).all() or bool((found <= 0).any()):
            raise ConfigError(f"weights must be positive numbers, one per data set, not {np.asarray(weights).tolist()}")
        self.shares: Floats = found / found.sum()
        self.block = block

    def counts(self, position: int) -> Ints:
        """Return how many of the first ``position`` elements of the ideal schedule belong to each source."""
        sources, _, before = self._due(position, position)
        return before + np.bincount(sources, minlength=len(self.shares))

    def time_of(self, source: int, element: int) -> int:
        """Return the position of one source's element in the ideal schedule."""
        due = (element + 0.5) / self.shares[source]
        earlier = np.floor(due * self.shares - 0.5).astype(np.int64) + np.arange(-1, 2)[:, None]
        at = (earlier + 0.5) / self.shares
        first = (at < due) | ((at == due) & (np.arange(len(self.shares)) <= source))
        last = np.where(first & (earlier >= 0), earlier, -1).max(axis=0)
        last[source] = element
        return int((last + 1).sum()) - 1

    def blocks(self, first: int, stop: int, length: int, key: int) -> tuple[Ints, Ints]:
        """Return source and element (counted within the source) of the positions ``first`` to ``stop``.

        ``length`` cuts the last block short, ``key`` (64 bits) decides the order inside blocks. Elements of one
        source come in their order.
        """
        begin, end = first // self.block * self.block, min(-(-stop // self.block) * self.block, length)
        sources, elements, _ = self._due(begin, end)
        block = np.arange(begin, end) // self.block
        hashed = combine(key, np.arange(begin, end, dtype=np.uint64))
        shuffled = sources[np.lexsort((hashed, block))]
        turn = np.argsort(shuffled, kind="stable")
        back = np.empty_like(turn)
        back[turn] = np.arange(len(turn))
        in_order = elements[np.argsort(sources, kind="stable")]
        return shuffled[first - begin : stop - begin], in_order[back][first - begin : stop - begin]

    def _due(self, first: int, stop: int) -> tuple[Ints, Ints, Ints]:
        """Return sources and elements of the ideal schedule's positions ``first`` to ``stop``.

        When both are the same: what is due, from where counting started, up to there; with the counts before.
        """
        sources = len(self.shares)
        before = np.maximum(np.floor((first - sources) * self.shares).astype(np.int64) - 1, 0)
        after = np.maximum(np.ceil((stop + sources) * self.shares).astype(np.int64) + 2, before + 1)
        number = after - before
        source = np.repeat(np.arange(sources), number)
        element = np.arange(len(source)) - np.repeat(np.cumsum(number) - number, number) + np.repeat(before, number)
        due = (element + 0.5) / self.shares[source]
        order = np.lexsort((source, due))
        skipped = first - int(before.sum())
        taken = order[:skipped] if first == stop else order[skipped : skipped + stop - first]
        return source[taken], element[taken], before
