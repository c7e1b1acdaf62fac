"""The order of an epoch: a pure function of (shard sizes, seed, epoch, settings), with seeking in constant time.

``docs/order.md`` describes the algorithm; :data:`ORDER_VERSION` goes into every saved state, so that a release that
changes the algorithm cannot silently change the order of a run that is resumed.

Shuffle windows keep locality. Shards are put into a keyed random order and taken ``K`` at a time as a group. A group of
``n`` samples is cut into ``W = ceil(n / buffer_size)`` shuffle windows. Of the ``k``-th shard of the group, which has
``s`` samples, shuffle window ``w`` takes those from ``floor((s * w + p) / W)`` to ``floor((s * (w + 1) + p) / W)`` with
the phase ``p = floor(k * W / K)``, which keeps shuffle windows equally long, and puts them into a keyed random order of
its own. So a shuffle window holds ``buffer_size`` samples of ``K`` shards, each shard is read front to back while its
group lasts, and which row lies at which position is a formula: nothing of the epoch is stored but the order of the
shards.

Mixed sources follow a schedule in closed form: element ``i`` of a source with share ``w`` is due at ``(i + 1/2) / w``,
and all elements in the order of their due times (ties: lower source first) are the ideal schedule, in which each
source is within a few elements of ``n * w`` after ``n`` elements. It is cut into blocks, and each block is put into a
keyed random order: the next source is not predictable while every block has its exact share of each source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints, Rows
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.order.bijection import (
    MAX_SIZE,
    ROUNDS,
    SMALL_ROUNDS,
    SMALL_SIZE,
    Permutation,
    combine,
    derive_key,
    permute_within,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ORDER_VERSION = 1
#: Shards that a shuffle window draws from, unless they are so small that more are needed to fill it.
INTERLEAVED = 16
#: Shuffle windows per group, at most, so that products stay within 64 bits; reached by those of 2**31 samples only.
_MOST_WINDOWS = 1 << 31
#: Positions per pass; bounds the memory of a call.
_PASS = 1 << 13

#: False: storage order; True: shuffle windows; ``"global"``: a permutation of all samples.
Shuffle: TypeAlias = bool | str


def check_shuffle(shuffle: Shuffle, buffer_size: int) -> None:
    """Raise ConfigError for settings that name no order."""
    if shuffle not in {True, False, "global"}:
        raise ConfigError(f"shuffle={shuffle!r}; choose False, True or 'global'")
    if buffer_size < 1:
        raise ConfigError(f"buffer_size is {buffer_size}; it must be at least 1")


class ShuffleOrder:
    """Gives which row lies at which position of an epoch.

    Parameters
    ----------
    sizes : numpy.ndarray of int64, shape (shards,)
        Samples per shard, in storage order; zeros are allowed. Rows count through all shards.
    shuffle : bool or "global"
        False: storage order. True: shards in random order, samples shuffled inside shuffle windows that draw from
        several shards at once. ``"global"``: a pseudo-random permutation of all samples.
    buffer_size : int
        Samples per shuffle window for ``shuffle=True``; at least as large as the data set, it makes one of everything.
    seed : int
        Any integer.
    shuffle_shards : bool or None
        None: as ``shuffle`` says. False with ``shuffle=True``: shuffle windows run through the shards in storage order.
        True with ``shuffle=False``: shards in random order, samples inside each in storage order. Without a meaning
        for ``"global"``.

    Raises
    ------
    ConfigError
        For another ``shuffle``, a buffer below one sample, or more than 2**62 samples.

    Examples
    --------
    >>> order = ShuffleOrder(np.array([3, 2]), shuffle="global", seed=1)
    >>> sorted(order.positions_to_rows(0, np.arange(5)).tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        sizes: npt.ArrayLike,
        shuffle: Shuffle = True,
        buffer_size: int = 1000,
        seed: int = 42,
        *,
        shuffle_shards: bool | None = None,
    ) -> None:
        check_shuffle(shuffle, buffer_size)
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self.num_samples = int(self._sizes.sum())
        if self.num_samples > MAX_SIZE:
            raise ConfigError(f"{self.num_samples:,} samples are more than an order can hold ({MAX_SIZE:,})")
        self.shuffle = shuffle if isinstance(shuffle, str) else bool(shuffle)
        self.buffer_size = int(buffer_size)
        self.seed = int(seed)
        self.shuffle_shards = shuffle is True if shuffle_shards is None or shuffle == "global" else bool(shuffle_shards)
        self._epoch: tuple[int, Callable[[Rows], Rows]] | None = None

    @property
    def sequential(self) -> bool:
        """Whether every epoch is in storage order."""
        return self.shuffle is False and not self.shuffle_shards

    def settings(self) -> dict[str, Any]:
        """Return the settings that decide the order: version, mode, and buffer and seed where they matter."""
        found: dict[str, Any] = {"order_version": ORDER_VERSION, "shuffle": self.shuffle}
        if self.shuffle != "global":
            found["shuffle_shards"] = self.shuffle_shards
        if self.shuffle is True:
            found["buffer_size"] = self.buffer_size
        return found if self.sequential else found | {"seed": self.seed}

    def positions_to_rows(self, epoch: int, positions: Rows) -> Rows:
        """Return the rows at these positions of the epoch, each in ``[0, num_samples)``; same shape, any order."""
        positions = np.ascontiguousarray(positions, dtype=np.int64)
        if self.sequential or not positions.size:
            return np.array(positions, dtype=np.int64)
        return self._of(epoch)(positions)

    def _of(self, epoch: int) -> Callable[[Rows], Rows]:
        """Return the epoch's order; the last one asked for is kept."""
        kept = self._epoch
        if kept is None or kept[0] != epoch:
            kept = self._epoch = (epoch, self._made(epoch))
        return kept[1]

    def _made(self, epoch: int) -> Callable[[Rows], Rows]:
        key = derive_key("order", ORDER_VERSION, self.seed, epoch)
        if self.shuffle == "global":
            return Permutation(self.num_samples, key)
        if self.shuffle is True and not self.shuffle_shards:
            return ShuffleWindows(np.array([self.num_samples]), self.buffer_size, key, shuffle_shards=False)
        return ShuffleWindows(self._sizes, self.buffer_size if self.shuffle else 1, key, shuffle_shards=True)


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
        """Return sources and elements of the ideal schedule's positions ``first`` to ``stop``, and counts before."""
        # where both are the same: what is due from where counting started up to there
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
