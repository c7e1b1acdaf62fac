"""Which rows make each batch, on which rank: a pure function of (settings, epoch, position).

A position counts samples of the epoch's global order. Ranks share that order, they never change it: global batch ``b``
covers ``batch_size * world_size`` consecutive samples, and rank ``r`` takes the ``r``-th contiguous slice of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import xxhash

from neurofm_shards._typing import Rows
from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError, StateError
from neurofm_shards.loading.order.shuffle import ShuffleOrder
from neurofm_shards.loading.plans.options import DEFAULT_OPTIONS, PlanOptions, RankSharding, Share
from neurofm_shards.reading.samples import SampleCollection


class OrderedRows:
    """The selected rows of a collection, in the shuffle order of each epoch.

    Parameters
    ----------
    collection : ShardCollection
        The data; only ``prefix_fingerprint``, ``starts`` and ``num_samples`` are used.
    options : PlanOptions
        Decide the order.
    subset : numpy.ndarray of int64 or None
        Selected rows, ascending and unique; None for all.
    """

    def __init__(self, collection: SampleCollection, options: PlanOptions, subset: Rows | None = None) -> None:
        self.collection = collection
        self.subset = None if subset is None else _checked(subset, collection.num_samples)
        starts = np.asarray(collection.starts, dtype=np.int64)
        #: First selected sample of each shard, and the number of all (shards + 1).
        self.starts = starts if self.subset is None else np.searchsorted(self.subset, starts).astype(np.int64)
        self.num_rows = int(self.starts[-1])
        self.order = ShuffleOrder(
            np.diff(self.starts),
            options.shuffle,
            options.buffer_size,
            options.seed,
            shuffle_shards=options.shuffle_shards,
        )

    def __call__(self, epoch: int, positions: Rows) -> Rows:
        """Return the rows at these positions (0 to ``num_rows - 1``) of the epoch."""
        selected = self.order.positions_to_rows(epoch, positions)
        return selected if self.subset is None else self.subset[selected]

    def shard_at(self, epoch: int, position: int) -> int:
        """Return the number of the shard with the sample at ``position``; -1 at the end of the epoch."""
        if position >= self.num_rows:
            return -1
        selected = self.order.positions_to_rows(epoch, np.array([position], dtype=np.int64))
        return int(np.searchsorted(self.starts, selected[0], side="right")) - 1

    def identity(self, num_shards: int | None = None) -> dict[str, Any]:
        """Return fingerprint, sizes, subset and order settings: now, or with the first ``num_shards`` shards only."""
        shards = len(self.starts) - 1 if num_shards is None else num_shards
        samples = int(self.starts[shards])
        found: dict[str, Any] = {"dataset": self.collection.prefix_fingerprint(shards)[:32]}
        found |= {"shards": shards, "samples": samples}
        if self.subset is not None:
            subset = np.ascontiguousarray(self.subset[:samples], dtype="<i8")
            found["subset"] = xxhash.xxh3_64_hexdigest(subset.tobytes())
        return found | self.order.settings()

    def prefix_identity(self, num_shards: int) -> dict[str, Any] | None:
        """Return the ``identity`` of the collection's first ``num_shards`` shards."""
        return self.identity(num_shards) if 0 < num_shards < len(self.starts) else None


def _checked(subset: Rows, num_samples: int) -> Rows:
    """Refuse rows that are out of range, repeated or out of order."""
    given = np.asarray(subset)
    if given.size and given.dtype.kind not in "iu":
        raise ConfigError(
            f"a subset must be numbers of rows, and {given.dtype} was given (of a mask: numpy.flatnonzero)"
        )
    rows = np.ascontiguousarray(given, dtype=np.int64)
    if len(rows) and (rows[0] < 0 or rows[-1] >= num_samples or bool((np.diff(rows) <= 0).any())):
        raise ConfigError(f"a subset must be ascending, unique rows between 0 and {num_samples - 1:,}")
    return rows


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
    """The batches of one rank, epoch by epoch.

    Attributes
    ----------
    sharding : RankSharding
        How ranks share an epoch.
    """

    sharding: RankSharding

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return the identity of a saved position: data, seed, order version and settings (small; JSON values)."""

    @abstractmethod
    def length(self, epoch: int) -> int:
        """Return the number of samples in this epoch's global order (padding not counted)."""

    @abstractmethod
    def share(self, epoch: int, position: int = 0) -> Share:
        """Return every rank's share of the epoch from ``position`` on: batches, samples padded and dropped.

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
            As ``share``; both before the first batch.
        """

    @abstractmethod
    def shard_at(self, epoch: int, position: int) -> int:
        """Return the number of the shard that holds the sample at ``position`` (informative; the epoch's end: -1)."""

    def num_batches(self, epoch: int, position: int = 0) -> int:
        """Return the number of batches from ``position`` on; the same on every rank."""
        return self.share(epoch, position).num_batches

    def totals(self, epoch: int) -> tuple[int, int]:
        """Return the samples that this rank gets in an epoch, and how many of them are padding."""
        requests = list(self.requests(epoch))
        return sum(map(len, requests)), sum(request.padding for request in requests)

    def finished(self, epoch: int, position: int) -> bool:
        """Return whether no batch is left, so that a run that stands here goes on with the next epoch."""
        return position > 0 and self.share(epoch, position).num_batches == 0

    def prefix_identity(self, num_shards: int) -> dict[str, Any] | None:  # noqa: ARG002  (the default ignores it)
        """Return the identity this plan had when its data had the first ``num_shards`` shards only; None: not known."""
        return None

    @property
    def reach(self) -> int | None:
        """How many samples an epoch draws from at any one time; None: all of them."""
        return None

    @property
    def appendable(self) -> bool:
        """Whether appended samples come at the end of an epoch and so leave earlier positions what they were."""
        return False


class SamplePlan(EpochPlan):
    """A plan whose global order is one of single samples; subclasses say which rows lie at given positions."""

    @abstractmethod
    def parts(self, epoch: int, positions: Rows) -> Iterator[tuple[Parts, Rows | None]]:
        """Yield parts and order (see :class:`Request`) for each row of ``positions``, shape (batches, batch_size)."""

    def share(self, epoch: int, position: int = 0) -> Share:
        """See :meth:`EpochPlan.share`."""
        length = self.length(epoch)
        if not 0 <= position <= length:
            raise StateError(
                f"position {position:,} lies outside of epoch {epoch}, which has {counted(length, 'sample')}"
            )
        return self.sharding.share(length - position)

    def totals(self, epoch: int) -> tuple[int, int]:
        """See :meth:`EpochPlan.totals`; known without walking through the epoch."""
        share = self.share(epoch)
        first = share.full_batches * self.sharding.global_size + self.sharding.rank * share.tail
        padding = min(max(first + share.tail - self.length(epoch), 0), share.tail)
        return share.full_batches * self.sharding.batch_size + share.tail, padding

    def requests(self, epoch: int, position: int = 0) -> Iterator[Request]:
        """See :meth:`EpochPlan.requests`."""
        return self._requests(epoch, position, self.share(epoch, position))

    def _requests(self, epoch: int, position: int, share: Share) -> Iterator[Request]:
        sharding = self.sharding
        stop = position + share.full_batches * sharding.global_size
        mine = np.arange(sharding.batch_size, dtype=np.int64) + sharding.rank * sharding.batch_size
        for first, after in _calls(position, stop, sharding.global_size, max(1, CHUNK // sharding.batch_size)):
            starts = np.arange(first, after, sharding.global_size, dtype=np.int64)
            for i, (parts, order) in enumerate(self.parts(epoch, starts[:, None] + mine)):
                yield Request(parts, order, first + (i + 1) * sharding.global_size)
        if share.tail:
            yield self._last(epoch, stop, share)

    def _last(self, epoch: int, first: int, share: Share) -> Request:
        length = self.length(epoch)
        mine = first + self.sharding.rank * share.tail + np.arange(share.tail, dtype=np.int64)
        padding = int((mine >= length).sum())
        after = min(first + share.tail * self.sharding.world_size, length)
        ((parts, order),) = self.parts(epoch, (mine % length)[None])
        return Request(parts, order, after, padding)


def _calls(first: int, stop: int, size: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut positions into stretches of at first one batch of ``size`` positions, in the end ``most`` batches."""
    batches = 1
    while first < stop:
        after = min(first + batches * size, stop)
        yield first, after
        first, batches = after, min(GROWTH * batches, most)


class SinglePlan(OrderedRows, SamplePlan):
    """The batches of one data set, or of selected rows of it.

    Parameters
    ----------
    collection, options, subset
        See :class:`OrderedRows`.
    """

    def __init__(
        self, collection: SampleCollection, options: PlanOptions = DEFAULT_OPTIONS, subset: Rows | None = None
    ) -> None:
        super().__init__(collection, options, subset)
        self.sharding = options.sharding()

    def length(self, epoch: int) -> int:  # noqa: ARG002  (every epoch has all samples)
        """Return the number of selected samples."""
        return self.num_rows

    @property
    def reach(self) -> int | None:
        """See :attr:`EpochPlan.reach`."""
        order = self.order
        if order.shuffle == "global":
            return None
        return self.sharding.global_size + (order.buffer_size if order.shuffle else 0)

    @property
    def appendable(self) -> bool:
        """Whether samples come in storage order."""
        return self.order.sequential

    def parts(self, epoch: int, positions: Rows) -> Iterator[tuple[Parts, Rows | None]]:
        """See :meth:`SamplePlan.parts`."""
        rows = self(epoch, positions.reshape(-1)).reshape(positions.shape)
        for batch in rows:
            yield ((0, batch),), None
