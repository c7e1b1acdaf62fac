"""Locality-preserving shuffle: windows that draw from several shards at once.

Shards are put into a keyed random order and taken ``K`` at a time as a group. A group of ``n`` samples is cut into
``W = ceil(n / buffer_size)`` windows. Of the ``k``-th shard of the group, which has ``s`` samples, window ``w`` takes
those from ``floor((s * w + p) / W)`` to ``floor((s * (w + 1) + p) / W)`` with the phase ``p = floor(k * W / K)``, which
keeps windows equally long, and puts them into a keyed random order of its own. So a window holds ``buffer_size``
samples of ``K`` shards, each shard is read front to back while its group lasts, and which row lies at which position is
a formula: nothing of the epoch is stored but the order of the shards.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from neurofm_shards.loading.bijection import (
    ROUNDS,
    SMALL_ROUNDS,
    SMALL_SIZE,
    Permutation,
    combine,
    derive_key,
    permute,
)

Rows = npt.NDArray[np.int64]

#: Shards that a window draws from, unless they are so small that more are needed to fill it.
INTERLEAVED = 16
#: Windows per group, at most, so that products stay within 64 bits; reached by windows of 2**62 / 2**31 samples only.
_MOST_WINDOWS = 1 << 31
#: Positions per pass; bounds the memory of a call.
_PASS = 1 << 13


class Windows:
    """The order of one epoch.

    Parameters
    ----------
    sizes : numpy.ndarray of int64, shape (shards,)
        Samples per shard.
    buffer_size : int
        Samples per window; 1 shuffles shards only.
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
        self._windows = np.minimum(-(-np.diff(self._first) // buffer_size), _MOST_WINDOWS)
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
        window, begin, size = self._locate(group, inside)
        offset = inside - begin
        if self._shuffled:
            keys = combine(self._keys[group], window.astype(np.uint64))
            offset = permute(offset.view(np.uint64), size.view(np.uint64), keys, self._rounds).view(np.int64)
        return self._pick(group, window, offset)

    def _locate(self, group: Rows, inside: Rows) -> tuple[Rows, Rows, Rows]:
        """Return window, its first position in the group and its size for positions inside groups."""
        windows, total = self._windows[group], np.diff(self._first)[group]
        # nearly always right: windows are equally long, but for less than one sample of each shard
        window = np.minimum((inside * (windows / total)).astype(np.int64), windows - 1)
        begin, end = self._begin(group, window), self._begin(group, window + 1)
        wrong = np.flatnonzero((inside < begin) | (end <= inside))
        while len(wrong):
            window[wrong] += np.where(inside[wrong] < begin[wrong], -1, 1)
            begin[wrong] = self._begin(group[wrong], window[wrong])
            end[wrong] = self._begin(group[wrong], window[wrong] + 1)
            wrong = wrong[(inside[wrong] < begin[wrong]) | (end[wrong] <= inside[wrong])]
        return window, begin, end - begin

    def _begin(self, group: Rows, window: Rows) -> Rows:
        """Return the first position, inside its group, of each window."""
        (group, window), back = _distinct(group, window)
        begins: Rows = self._piece(group, window).sum(axis=1)
        return begins[back]

    def _piece(self, group: Rows, window: Rows) -> Rows:
        """Return where each shard's piece begins for these windows; shape (windows, K)."""
        windows = self._windows[group][:, None]
        phase = np.arange(self._per_group) * windows // self._per_group
        whole, rest = np.divmod(self._sizes[group], windows)  # keeps products within 64 bits
        begin: Rows = whole * window[:, None]
        begin += (rest * window[:, None] + phase) // windows
        return begin

    def _pick(self, group: Rows, window: Rows, offset: Rows) -> Rows:
        """Return the row at each offset of a window whose shards' pieces lie end to end."""
        (group, window), back = _distinct(group, window)
        begin = self._piece(group, window)
        ends = np.cumsum(self._piece(group, window + 1) - begin, axis=1)
        base = np.concatenate(([0], np.cumsum(ends[:, -1])))
        cell = np.searchsorted((ends + base[:-1, None]).reshape(-1), base[back] + offset, side="right")
        piece_ends = ends.reshape(-1)[cell]
        pieces = np.diff(ends, axis=1, prepend=0).reshape(-1)[cell]
        rows: Rows = self._starts[group].reshape(-1)[cell] + begin.reshape(-1)[cell]
        rows += offset - (piece_ends - pieces)
        return rows


def group_length(total: int, shards: int, buffer_size: int) -> int:
    """Return how many shards a window draws from."""
    if not shards:
        return 1
    filling = -(-buffer_size * shards // total)
    return max(1, min(shards, max(min(INTERLEAVED, buffer_size), filling)))


def _distinct(group: Rows, window: Rows) -> tuple[tuple[Rows, Rows], Rows]:
    """Return the distinct pairs, and for each input the number of its pair."""
    order = np.lexsort((window, group))
    group_sorted, window_sorted = group[order], window[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(group_sorted) != 0) | (np.diff(window_sorted) != 0)
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.cumsum(new) - 1
    return (group_sorted[new], window_sorted[new]), back
