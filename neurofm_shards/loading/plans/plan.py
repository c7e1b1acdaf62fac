"""What a loader iterates: a plan says which rows make each batch, as a pure function of (settings, epoch, position).

A position counts samples of the epoch's global order. Ranks divide that order, they never change it: global batch ``b``
covers ``batch_size * world_size`` consecutive samples, and rank ``r`` takes the ``r``-th contiguous slice of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from neurofm_shards._typing import Rows
from neurofm_shards.errors import StateError
from neurofm_shards.loading.component import Component
from neurofm_shards.loading.division import Division, Even, Shares

if TYPE_CHECKING:
    from collections.abc import Iterator


Parts: TypeAlias = tuple[tuple[int, Rows], ...]

#: Positions that are turned into rows by one vectorised call; one batch apiece would be all overhead.
CHUNK = 1 << 15
#: By how much a call is larger than the one before; the first is for one batch, which shall not wait for others.
GROWTH = 8


@dataclass(slots=True)  # one per batch: freezing would double its cost
class Request:
    """One batch of this rank, as rows to be read.

    Attributes
    ----------
    parts : tuple of (int, numpy.ndarray of int64)
        Number of the data set and rows of it, for each data set that the batch draws from.
    order : numpy.ndarray of int64 or None
        ``joined[order]`` is the batch, where ``joined`` are the parts' samples end to end; None: as they are.
    position_after : int
        Where the epoch stands once this batch was delivered on every rank.
    padding : int
        How many samples at the end of this batch repeat earlier ones, so that all ranks get equally many batches.
    """

    parts: Parts
    order: Rows | None
    position_after: int
    padding: int = 0

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.parts)


class EpochPlan(ABC):
    """The batches of one rank, epoch by epoch."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what a saved position belongs to: data, seed, order version and settings (small; JSON values)."""

    @abstractmethod
    def length(self, epoch: int) -> int:
        """Return the number of samples in this epoch's global order (padding not counted)."""

    @abstractmethod
    def shares(self, epoch: int, position: int = 0) -> Shares:
        """Say how the rest of the epoch from ``position`` on divides: batches per rank, samples padded and dropped.

        Raises
        ------
        ConfigError
            With ``even="error"``, when the ranks cannot get equally many samples.
        """

    @abstractmethod
    def requests(self, epoch: int, position: int = 0) -> Iterator[Request]:
        """Iterate over this rank's batches from ``position`` on; the cost of seeking does not grow with it.

        Raises
        ------
        StateError
            When ``position`` lies outside of the epoch.
        ConfigError
            As ``shares``; both before the first batch.
        """

    @abstractmethod
    def shard_at(self, epoch: int, position: int) -> int:
        """Return the number of the shard that holds the sample at ``position`` (informative; the epoch's end: -1)."""

    def num_batches(self, epoch: int, position: int = 0) -> int:
        """Return the number of batches from ``position`` on; the same on every rank."""
        return self.shares(epoch, position).num_batches

    def totals(self, epoch: int) -> tuple[int, int]:
        """Return the samples that this rank gets in an epoch, and how many of them are padding."""
        requests = list(self.requests(epoch))
        return sum(map(len, requests)), sum(request.padding for request in requests)

    def finished(self, epoch: int, position: int) -> bool:
        """Say whether no batch is left, so that a run that stands here goes on with the next epoch."""
        return position > 0 and self.num_batches(epoch, position) == 0

    def prefix_identity(self, num_shards: int) -> dict[str, Any] | None:  # noqa: ARG002  (the default ignores it)
        """Return the identity this plan had when its data had the first ``num_shards`` shards only; None: not known."""
        return None

    @property
    def appendable(self) -> bool:
        """Whether appended samples come at the end of an epoch and so leave earlier positions what they were."""
        return False


class SamplePlan(EpochPlan):
    """A plan whose global order is one of single samples; subclasses say which rows lie at given positions."""

    division: Division

    @abstractmethod
    def parts(self, epoch: int, positions: Rows) -> Iterator[tuple[Parts, Rows | None]]:
        """Yield parts and order (see :class:`Request`) for each row of ``positions``, shape (batches, batch_size)."""

    def shares(self, epoch: int, position: int = 0) -> Shares:
        """See :meth:`EpochPlan.shares`."""
        length = self.length(epoch)
        if not 0 <= position <= length:
            raise StateError(f"position {position:,} lies outside of epoch {epoch}, which has {length:,} samples")
        return self.division.shares(length - position)

    def totals(self, epoch: int) -> tuple[int, int]:
        """See :meth:`EpochPlan.totals`; known without walking through the epoch."""
        shares = self.shares(epoch)
        first = shares.full_batches * self.division.global_size + self.division.rank * shares.tail
        padding = min(max(first + shares.tail - self.length(epoch), 0), shares.tail)
        return shares.full_batches * self.division.batch_size + shares.tail, padding

    def requests(self, epoch: int, position: int = 0) -> Iterator[Request]:
        """See :meth:`EpochPlan.requests`."""
        return self._requests(epoch, position, self.shares(epoch, position))

    def _requests(self, epoch: int, position: int, shares: Shares) -> Iterator[Request]:
        division = self.division
        stop = position + shares.full_batches * division.global_size
        mine = np.arange(division.batch_size, dtype=np.int64) + division.rank * division.batch_size
        for first, after in _calls(position, stop, division.global_size, max(1, CHUNK // division.batch_size)):
            starts = np.arange(first, after, division.global_size, dtype=np.int64)
            for i, (parts, order) in enumerate(self.parts(epoch, starts[:, None] + mine)):
                yield Request(parts, order, first + (i + 1) * division.global_size)
        if shares.tail:
            yield self._last(epoch, stop, shares)

    def _last(self, epoch: int, first: int, shares: Shares) -> Request:
        length = self.length(epoch)
        mine = first + self.division.rank * shares.tail + np.arange(shares.tail, dtype=np.int64)
        padding = int((mine >= length).sum())
        after = min(first + shares.tail * self.division.world_size, length)
        ((parts, order),) = self.parts(epoch, (mine % length)[None])
        return Request(parts, order, after, padding)


def _calls(first: int, stop: int, size: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut positions into stretches of at first one batch of ``size`` positions, in the end ``most`` batches."""
    batches = 1
    while first < stop:
        after = min(first + batches * size, stop)
        yield first, after
        first, batches = after, min(GROWTH * batches, most)


class SinglePlan(SamplePlan):
    """The batches of one data set, or of selected rows of it.

    Parameters
    ----------
    collection : ShardCollection
        The data; only ``fingerprint``, ``prefix_fingerprint``, ``starts`` and ``num_samples`` are used.
    mode : bool or "global"
        See :class:`~neurofm_shards.loading.order.shuffle.EpochOrder`; so are ``buffer_size``, ``seed`` and
        ``shuffle_shards``.
    batch_size, rank, world_size, even, drop_last
        See :class:`~neurofm_shards.loading.division.Division`.
    subset : numpy.ndarray of int64 or None
        Selected rows, ascending and unique; None for all.
    """

    def __init__(
        self,
        collection: Any,
        mode: bool | str = True,
        *,
        batch_size: int = 1,
        buffer_size: int = 1000,
        seed: int = 42,
        shuffle_shards: bool | None = None,
        rank: int = 0,
        world_size: int = 1,
        even: Even = "pad",
        drop_last: bool = False,
        subset: Rows | None = None,
    ) -> None:
        self.division = Division(batch_size, rank, world_size, even, drop_last)
        self.component = Component(collection, mode, buffer_size, seed, shuffle_shards, subset)

    def length(self, epoch: int) -> int:  # noqa: ARG002  (every epoch has all samples)
        """Return the number of selected samples."""
        return len(self.component)

    def identity(self) -> dict[str, Any]:
        """Return fingerprint, order settings and subset."""
        return self.component.identity()

    def prefix_identity(self, num_shards: int) -> dict[str, Any] | None:
        """See :meth:`EpochPlan.prefix_identity`."""
        return self.component.prefix_identity(num_shards)

    @property
    def appendable(self) -> bool:
        """Whether samples come in storage order."""
        return self.component.order.sequential

    def shard_at(self, epoch: int, position: int) -> int:
        """See :meth:`EpochPlan.shard_at`."""
        return self.component.shard_at(epoch, position)

    def parts(self, epoch: int, positions: Rows) -> Iterator[tuple[Parts, Rows | None]]:
        """See :meth:`SamplePlan.parts`."""
        rows = self.component.rows(epoch, positions.reshape(-1)).reshape(positions.shape)
        for batch in rows:
            yield ((0, batch),), None
