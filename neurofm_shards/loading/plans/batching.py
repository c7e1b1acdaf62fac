"""Rules for what goes into one batch: one session each, balanced groups, a token budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import xxhash

from neurofm_shards._typing import Rows
from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError, StateError
from neurofm_shards.expressions import unknown_name
from neurofm_shards.loading.order.bijection import Permutation, derive_key
from neurofm_shards.loading.order.shuffle import ORDER_VERSION
from neurofm_shards.loading.plans.mixing import MixPlan, Stop, grouped, mixed
from neurofm_shards.loading.plans.options import DEFAULT_OPTIONS, PlanOptions, RankSharding, Share
from neurofm_shards.loading.plans.plan import EpochPlan, OrderedRows, Request
from neurofm_shards.loading.subsets import group_rows
from neurofm_shards.reading.samples import SampleCollection
from neurofm_shards.values import sorted_unique, starts_of

#: Blocks whose rows are found by one call.
_CHUNK = 64


class BatchingRule(Protocol):
    """Decides what goes into one batch; given to a loader as ``batching=``."""

    @abstractmethod
    def plan(self, collection: SampleCollection, options: PlanOptions, subset: Rows | None = None) -> EpochPlan:
        """Return the plan of one rank.

        Parameters
        ----------
        collection : ShardCollection
            The data.
        options : PlanOptions
            Order, size of batches, and which rank this is.
        subset : numpy.ndarray of int64 or None
            Selected rows, ascending and unique; None for all.
        """


class EpochBlocks(ABC):
    """The blocks of one epoch, in order."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of blocks."""

    @abstractmethod
    def rows(self, numbers: Rows) -> list[Rows]:
        """Return the rows of each of these blocks."""

    @abstractmethod
    def before(self, number: int) -> int:
        """Return the number of samples in the blocks before this one; ``number`` may be ``len(self)``."""


class BlockPlan(EpochPlan):
    """The batches of one rank, each made of ``sharding.batch_size`` whole blocks.

    Positions count samples, as everywhere; a run stands between two blocks. Ranks share the sequence of blocks: the
    ``r``-th rank takes the ``r``-th stretch of each global batch.
    """

    def __init__(self, collection: SampleCollection) -> None:
        self.collection = collection
        self._epoch: tuple[int, EpochBlocks] | None = None

    @abstractmethod
    def make_blocks(self, epoch: int) -> EpochBlocks:
        """Return the blocks of an epoch."""

    def blocks(self, epoch: int) -> EpochBlocks:
        """Return the blocks of an epoch; those of the last one asked for are kept."""
        kept = self._epoch
        if kept is None or kept[0] != epoch:
            kept = self._epoch = (epoch, self.make_blocks(epoch))
        return kept[1]

    def length(self, epoch: int) -> int:
        """See :meth:`EpochPlan.length`."""
        blocks = self.blocks(epoch)
        return blocks.before(len(blocks))

    def share(self, epoch: int, position: int = 0) -> Share:
        """See :meth:`EpochPlan.share`; ``tail`` counts blocks, ``padded`` and ``dropped`` count samples."""
        blocks = self.blocks(epoch)
        first = self._number(epoch, position)
        found = self.sharding.share(len(blocks) - first)
        dropped = blocks.before(len(blocks)) - blocks.before(len(blocks) - found.dropped)
        again = np.arange(found.padded) % max(1, len(blocks))
        padded = sum(blocks.before(int(each) + 1) - blocks.before(int(each)) for each in again)
        return Share(found.num_batches, found.full_batches, found.tail, padded, dropped)

    def requests(self, epoch: int, position: int = 0) -> Iterator[Request]:
        """See :meth:`EpochPlan.requests`."""
        return self._requests(epoch, self._number(epoch, position), self.share(epoch, position))

    def shard_at(self, epoch: int, position: int) -> int:
        """See :meth:`EpochPlan.shard_at`."""
        if position >= self.length(epoch):
            return -1
        number = np.array([self._number(epoch, position)], dtype=np.int64)
        row = self.blocks(epoch).rows(number)[0][0]
        return int(np.searchsorted(self.collection.starts, row, side="right")) - 1

    def _number(self, epoch: int, position: int) -> int:
        """Return the block that starts at a position."""
        blocks = self.blocks(epoch)
        low, high = 0, len(blocks)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if blocks.before(middle) < position else (low, middle)
        if position < 0 or blocks.before(low) != position:
            raise StateError(
                f"position {position:,} of epoch {epoch} is not between two batches; the epoch has "
                f"{counted(blocks.before(len(blocks)), 'sample')} in {counted(len(blocks), 'batch')}"
            )
        return low

    def _requests(self, epoch: int, first: int, share: Share) -> Iterator[Request]:
        size, step = self.sharding.batch_size, self.sharding.global_size
        stop = first + share.full_batches * step
        for at in range(first, stop, _CHUNK * step):
            yield from self._batches(epoch, np.arange(at, min(at + _CHUNK * step, stop), step), size)
        if share.tail:
            yield from self._batches(epoch, np.array([stop]), share.tail)

    def _batches(self, epoch: int, starts: Rows, size: int) -> Iterator[Request]:
        """Make this rank's batches of ``size`` blocks each, of the global batches that begin at these blocks."""
        blocks, sharding = self.blocks(epoch), self.sharding
        mine = starts[:, None] + sharding.rank * size + np.arange(size)
        rows = blocks.rows(mine.reshape(-1) % len(blocks))
        for i, numbers in enumerate(mine):
            parts = rows[i * size : (i + 1) * size]
            padding = sum(len(part) for part, number in zip(parts, numbers, strict=True) if number >= len(blocks))
            after = blocks.before(min(int(starts[i]) + size * sharding.world_size, len(blocks)))
            yield Request(((0, np.concatenate(parts)),), None, after, padding)


def blocks_per_batch(block: int | None, batch_size: int) -> tuple[int, int]:
    """Return the size of a block (by default that of a batch) and how many make a batch."""
    size = batch_size if block is None else block
    if size < 1 or batch_size % size:
        raise ConfigError(f"block={block} does not divide batch_size={batch_size}")
    return size, batch_size // size


class SessionBlocks(EpochBlocks):
    """Each group's samples in a keyed random order, cut into blocks of ``size``; all blocks in a keyed random order.

    A group's last block may be shorter. Where those are follows from the inverse of the blocks' order, so the number of
    samples before any block is known without looking at the others.
    """

    def __init__(self, groups: Sequence[Rows], size: int, key: int, *, shuffle: bool) -> None:
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
        """See :meth:`EpochBlocks.before`."""
        return number * self._size - int(self._lacking[np.searchsorted(self._short, number)])

    def rows(self, numbers: Rows) -> list[Rows]:
        """See :meth:`EpochBlocks.rows`."""
        blocks = numbers if self._order is None else self._order(numbers)
        owners = np.searchsorted(self._first, blocks, side="right") - 1
        found: list[Rows] = [np.empty(0, np.int64)] * len(numbers)
        for owner in sorted_unique(owners).tolist():
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
        self,
        collection: SampleCollection,
        groups: Sequence[Rows],
        options: PlanOptions,
        sharding: RankSharding,
        size: int,
    ) -> None:
        super().__init__(collection)
        self.sharding = sharding
        self._groups = groups
        self._size = size
        self._seed = options.seed
        self._shuffle = bool(options.shuffle)

    def make_blocks(self, epoch: int) -> EpochBlocks:
        """See :meth:`BlockPlan.make_blocks`."""
        key = derive_key("one session", ORDER_VERSION, self._seed, epoch)
        return SessionBlocks(self._groups, self._size, key, shuffle=self._shuffle)

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
            "shuffle": self._shuffle,
            "seed": self._seed,
            "order_version": ORDER_VERSION,
        }


class ListedBlocks(EpochBlocks):
    """Blocks that are listed: rows end to end, in an order of their own."""

    def __init__(self, rows: Rows, edges: Rows, order: Rows) -> None:
        self._rows = rows
        self._edges = edges
        self._order = order
        self._before = starts_of(np.diff(edges)[order])

    def __len__(self) -> int:
        return len(self._order)

    def before(self, number: int) -> int:
        """See :meth:`EpochBlocks.before`."""
        return int(self._before[number])

    def rows(self, numbers: Rows) -> list[Rows]:
        """See :meth:`EpochBlocks.rows`."""
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
        rows: OrderedRows,
        lengths: Rows,
        rule: TokenBudget,
        options: PlanOptions,
    ) -> None:
        super().__init__(rows.collection)
        self.sharding = options.sharding(1)
        self._rows = rows
        self._lengths = lengths
        self._tokens = rule.tokens
        self._most = options.batch_size
        self._bucket = 100 * options.batch_size if rule.bucket is None else rule.bucket
        self._padded = rule.padded
        if self._tokens < 1 or self._bucket < 1:
            raise ConfigError(f"tokens={self._tokens} and bucket={self._bucket} must be at least 1")
        chosen = lengths if rows.subset is None else lengths[rows.subset]
        if len(chosen) and chosen.max() > self._tokens:
            raise ConfigError(
                f"the longest sample has length {int(chosen.max()):,}, which is beyond the budget of "
                f"{self._tokens:,}: raise the budget, or leave such samples out"
            )

    def make_blocks(self, epoch: int) -> EpochBlocks:
        """See :meth:`BlockPlan.make_blocks`."""
        ordered = self._rows
        rows = ordered(epoch, np.arange(ordered.num_rows, dtype=np.int64))
        lengths = self._lengths[rows]
        turn = np.lexsort((lengths, np.arange(len(rows)) // self._bucket))
        rows, lengths = rows[turn], lengths[turn]
        edges = [0]
        for first in range(0, len(rows), self._bucket):
            edges += [first + cut for cut in self._cut(lengths[first : first + self._bucket])]
        count = len(edges) - 1
        order = np.arange(count)
        if ordered.order.shuffle is not False:
            order = Permutation(count, derive_key("budget", ORDER_VERSION, ordered.order.seed, epoch))(order)
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
            **self._rows.identity(),
            "lengths": xxhash.xxh3_64_hexdigest(self._lengths.astype("<i8").tobytes()),
            "tokens": self._tokens,
            "most": self._most,
            "bucket": self._bucket,
            "padded": self._padded,
        }


@dataclass(frozen=True)
class OneSession:
    """Every batch of a rank comes from one session.

    Sessions take turns at random, each as often as it has batches; the last batch of a session may be smaller.

    Attributes
    ----------
    by : str or tuple of str
        Metadata column (or columns) that says what belongs together.
    block : int or None
        Samples that come from one session; None: ``batch_size``. With ``batch_size`` a multiple of it, batches hold
        several blocks, which makes one rank with twice the batch do what two ranks do.
    """

    by: str | Sequence[str] = "session_id"
    block: int | None = None

    def plan(
        self, collection: SampleCollection, options: PlanOptions = DEFAULT_OPTIONS, subset: Rows | None = None
    ) -> EpochPlan:
        """See :meth:`BatchingRule.plan`."""
        size, each = blocks_per_batch(self.block, options.batch_size)
        groups = group_rows(collection, self.by, subset)
        return OneSessionPlan(collection, list(groups.values()), options, options.sharding(each), size)


@dataclass(frozen=True)
class Balanced:
    """Every global batch has equally many samples (or by ``weights``) of each session, condition, or other group.

    Attributes
    ----------
    by : str or tuple of str
        Metadata column (or columns) that says what belongs together.
    weights : tuple of float or None
        One per group, in the order of their names; None: equal.
    stop : str or int
        When an epoch ends, see :class:`~neurofm_shards.loading.plans.mixing.Mix`. ``"first_exhausted"`` repeats no
        sample, ``"all_exhausted"`` leaves none out.
    block : int or None
        Samples that are balanced among themselves; None: the global batch.
    """

    by: str | Sequence[str]
    weights: tuple[float, ...] | None = None
    stop: Stop = "first_exhausted"
    block: int | None = None

    def plan(
        self, collection: SampleCollection, options: PlanOptions = DEFAULT_OPTIONS, subset: Rows | None = None
    ) -> EpochPlan:
        """See :meth:`BatchingRule.plan`."""
        sources = grouped(collection, self.by, subset)
        found = mixed(sources, [1.0] * len(sources) if self.weights is None else self.weights, None, self.stop)
        block = options.sharding().global_size if self.block is None else self.block
        if block < len(sources):
            raise ConfigError(
                f"a global batch of {block} samples cannot hold {counted(len(sources), 'group')} of {self.by!r}: "
                "make batch_size larger, or group by something coarser"
            )
        return MixPlan(found, replace(options, shuffle_shards=None), block)


@dataclass(frozen=True)
class TokenBudget:
    """Batches of samples of similar length, as many as fit into a budget.

    Attributes
    ----------
    tokens : int
        Budget per batch and rank.
    column : str or None
        Column whose lengths count (its first axis).
    lengths : numpy.ndarray of int64, shape (samples,), or None
        Lengths of all samples of the data set, instead of a column.
    padded : bool
        Whether a batch costs its longest sample times its number of samples (True), or the sum of its lengths.
    bucket : int or None
        Samples that are sorted by length among themselves; None: 100 batches' worth.

    Notes
    -----
    ``batch_size`` is the most samples that a batch may have.
    """

    tokens: int
    column: str | None = None
    lengths: Rows | None = None
    padded: bool = True
    bucket: int | None = None

    def plan(
        self, collection: SampleCollection, options: PlanOptions = DEFAULT_OPTIONS, subset: Rows | None = None
    ) -> EpochPlan:
        """See :meth:`BatchingRule.plan`."""
        if (self.column is None) == (self.lengths is None):
            raise ConfigError("TokenBudget needs either column= or lengths=")
        lengths = column_lengths(collection, self.column) if self.column is not None else np.asarray(self.lengths)
        if lengths.shape != (collection.num_samples,) or lengths.dtype.kind not in "iu":
            raise ConfigError(
                f"lengths= has shape {lengths.shape} and dtype {lengths.dtype}; {collection.num_samples} whole numbers "
                "were expected"
            )
        rows = OrderedRows(collection, options, subset)
        return TokenBudgetPlan(rows, lengths.astype(np.int64), self, options)


def column_lengths(collection: SampleCollection, column: str) -> Rows:
    """Return the length of one column in every sample."""
    if column not in collection.columns:
        raise ConfigError(unknown_name("column", column, collection.columns))
    return collection.lengths(column)
