"""Plans whose order is one of whole blocks: samples that belong into one batch together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from neurofm_shards._typing import Rows
from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError, StateError
from neurofm_shards.loading.plans.options import Share
from neurofm_shards.loading.plans.plan import EpochPlan, Request
from neurofm_shards.reading.samples import SampleCollection

#: Blocks whose rows are found by one call.
_CHUNK = 64


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


def blocks_per_batch(block: int | None, batch_size: int, what: str) -> tuple[int, int]:
    """Return the size of a block (by default that of a batch) and how many make a batch."""
    size = batch_size if block is None else block
    if size < 1 or batch_size % size:
        raise ConfigError(f"{what}={block} does not divide batch_size={batch_size}")
    return size, batch_size // size
