"""Shuffle windows: a shuffle that keeps locality, each of whose windows draws from several shards at once.

Shards are put into a keyed random order and taken ``K`` at a time as a group. A group of ``n`` samples is cut into
``W = ceil(n / buffer_size)`` shuffle windows. Of the ``k``-th shard of the group, which has ``s`` samples, shuffle
window ``w`` takes those from ``floor((s * w + p) / W)`` to ``floor((s * (w + 1) + p) / W)`` with the phase
``p = floor(k * W / K)``, which keeps shuffle windows equally long, and puts them into a keyed random order of its own.
So a shuffle window holds ``buffer_size`` samples of ``K`` shards, each shard is read front to back while its group
lasts, and which row lies at which position is a formula: nothing of the epoch is stored but the order of the shards.
"""

from __future__ import annotations

import numpy as np

from neurofm_shards._typing import Rows
from neurofm_shards.loading.order.bijection import (
    ROUNDS,
    SMALL_ROUNDS,
    SMALL_SIZE,
    Permutation,
    combine,
    derive_key,
    permute_within,
)

#: Shards that a shuffle window draws from, unless they are so small that more are needed to fill it.
INTERLEAVED = 16
#: Shuffle windows per group, at most, so that products stay within 64 bits; reached by those of 2**31 samples only.
_MOST_WINDOWS = 1 << 31
#: Positions per pass; bounds the memory of a call.
_PASS = 1 << 13


class ShuffleWindows:
    """The order of one epoch.

    Parameters
    ----------
    sizes : numpy.ndarray of int64, shape (shards,)
        Samples per shard.
    buffer_size : int
        Samples per shuffle window; 1 shuffles shards only.
    key : int
        64 bits, of this epoch.
    shuffle_shards : bool
        Whether groups are made of shards in random rather than in storage order.
    """

    def __init__(self, sizes: Rows, buffer_size: int, key: int, *, shuffle_shards: bool) -> None:
        starts = np.concatenate(([0], np.cumsum(sizes)))[:-1]
        filled = np.flatnonzero(sizes)
        if shuffle_shards:
            filled = filled[Permutation(len(filled), derive_key("shards", key))(np.arange(len(filled)))]
        total = int(sizes.sum())
        self._per_group = group_length(total, len(filled), buffer_size)
        groups = -(-len(filled) // self._per_group)
        padded = np.zeros(groups * self._per_group, dtype=np.int64)
        padded[: len(filled)] = sizes[filled]
        #: Samples of each group's shards, and where each shard starts in storage; shape (groups, K).
        self._sizes: Rows = padded.reshape(groups, self._per_group)
        padded_starts = np.zeros_like(padded)
        padded_starts[: len(filled)] = starts[filled]
        self._starts: Rows = padded_starts.reshape(groups, self._per_group)
        self._first = np.concatenate(([0], np.cumsum(self._sizes.sum(axis=1))))
        totals = np.diff(self._first)
        self._windows = np.minimum(-(-totals // buffer_size), _MOST_WINDOWS)
        self._density = self._windows / totals
        self._shuffled = buffer_size > 1
        self._rounds = SMALL_ROUNDS if buffer_size <= SMALL_SIZE else ROUNDS
        self._keys = combine(derive_key("windows", key), np.arange(groups, dtype=np.uint64))

    def __call__(self, positions: Rows) -> Rows:
        """Return the rows at these positions; same shape."""
        flat = positions.reshape(-1)
        found = np.empty(flat.shape, dtype=np.int64)
        for first in range(0, len(flat), _PASS):
            found[first : first + _PASS] = self._rows(flat[first : first + _PASS])
        return found.reshape(positions.shape)

    def _rows(self, positions: Rows) -> Rows:
        group = np.searchsorted(self._first, positions, side="right") - 1
        inside = positions - self._first[group]
        # nearly always right: windows are equally long, but for less than one sample of each shard
        window = np.minimum((inside * self._density[group]).astype(np.int64), self._windows[group] - 1)
        while True:
            (groups, windows), back = _distinct(group, window)
            begin, end = self._piece(groups, windows), self._piece(groups, windows + 1)
            first, last = begin.sum(axis=1), end.sum(axis=1)
            early, late = inside < first[back], inside >= last[back]
            if not (early.any() or late.any()):
                break
            window += late.astype(np.int64) - early
        offset = inside - first[back]
        if self._shuffled:
            keys = combine(self._keys[groups], windows.astype(np.uint64))
            sizes = (last - first).view(np.uint64)
            offset = permute_within(offset.view(np.uint64), back, sizes, keys, self._rounds).view(np.int64)
        return self._picked(self._starts[groups] + begin, end - begin, back, offset)

    def _piece(self, group: Rows, window: Rows) -> Rows:
        """Return where each shard's piece begins for these shuffle windows; shape (windows, K)."""
        windows = self._windows[group][:, None]
        phase = np.arange(self._per_group) * windows // self._per_group
        whole, rest = np.divmod(self._sizes[group], windows)  # keeps products within 64 bits
        begin: Rows = whole * window[:, None]
        begin += (rest * window[:, None] + phase) // windows
        return begin

    @staticmethod
    def _picked(starts: Rows, lengths: Rows, back: Rows, offset: Rows) -> Rows:
        """Return the row at each offset of a shuffle window (number ``back``) whose shards' pieces lie end to end."""
        ends = np.cumsum(lengths.reshape(-1))
        before = np.concatenate(([0], ends[lengths.shape[1] - 1 :: lengths.shape[1]]))
        along = before[back] + offset
        piece = np.searchsorted(ends, along, side="right")
        rows: Rows = (starts.reshape(-1) - ends + lengths.reshape(-1))[piece]
        rows += along
        return rows


def group_length(total: int, shards: int, buffer_size: int) -> int:
    """Return how many shards a shuffle window draws from."""
    if not shards:
        return 1
    filling = -(-buffer_size * shards // total)
    return max(1, min(shards, max(min(INTERLEAVED, buffer_size), filling)))


def _distinct(group: Rows, window: Rows) -> tuple[tuple[Rows, Rows], Rows]:
    """Return the distinct pairs, and for each input the number of its pair."""
    new = np.ones(len(group), dtype=bool)
    new[1:] = (group[1:] != group[:-1]) | (window[1:] != window[:-1])
    back = np.cumsum(new) - 1
    return (group[new], window[new]), back
