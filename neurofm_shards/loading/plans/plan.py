"""Which rows make each batch, on which rank: a pure function of (settings, epoch, position).

A position counts samples of the epoch's global order. Ranks divide that order, they never change it: global batch ``b``
covers ``batch_size * world_size`` consecutive samples, and rank ``r`` takes the ``r``-th contiguous slice of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import xxhash

from neurofm_shards._typing import Rows
from neurofm_shards.errors import ConfigError, StateError
from neurofm_shards.expressions import unknown_name
from neurofm_shards.loading.order.shuffle import EpochOrder
from neurofm_shards.loading.subsets import TableColumns

if TYPE_CHECKING:
    from collections.abc import Iterator


class Component:
    """Turns positions of an epoch into rows of a collection.

    Parameters
    ----------
    collection : ShardCollection
        The data.
    mode, buffer_size, seed, shuffle_shards
        See :class:`~neurofm_shards.loading.order.shuffle.EpochOrder`.
    subset : numpy.ndarray of int64 or None
        Selected rows, ascending and unique; None for all.
    """

    def __init__(
        self,
        collection: Any,
        mode: bool | str,
        buffer_size: int,
        seed: int,
        shuffle_shards: bool | None,
        subset: Rows | None,
    ) -> None:
        self.collection = collection
        self.subset = None if subset is None else _checked(subset, collection.num_samples)
        starts = np.asarray(collection.starts, dtype=np.int64)
        #: First selected sample of each shard, and the number of all (shards + 1).
        self.starts = starts if self.subset is None else np.searchsorted(self.subset, starts).astype(np.int64)
        self.order = EpochOrder(np.diff(self.starts), mode, buffer_size, seed, shuffle_shards=shuffle_shards)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def rows(self, epoch: int, positions: Rows) -> Rows:
        """Return the rows at these positions (0 to ``len(self) - 1``) of the epoch."""
        selected = self.order.positions_to_rows(epoch, positions)
        return selected if self.subset is None else self.subset[selected]

    def shard_at(self, epoch: int, position: int) -> int:
        """Return the number of the shard with the sample at ``position``; -1 at the end of the epoch."""
        if position >= len(self):
            return -1
        selected = self.order.positions_to_rows(epoch, np.array([position], dtype=np.int64))
        return int(np.searchsorted(self.starts, selected[0], side="right")) - 1

    def identity(self) -> dict[str, Any]:
        """Return fingerprint, sizes, subset and order settings."""
        return self._identity(self.collection.fingerprint, len(self.starts) - 1, len(self), self.subset)

    def prefix_identity(self, num_shards: int) -> dict[str, Any] | None:
        """Return what ``identity`` was when the collection had the first ``num_shards`` shards only."""
        if not 0 < num_shards < len(self.starts):
            return None
        count = int(self.starts[num_shards])
        subset = None if self.subset is None else self.subset[:count]
        return self._identity(self.collection.prefix_fingerprint(num_shards), num_shards, count, subset)

    def _identity(self, fingerprint: str, shards: int, samples: int, subset: Rows | None) -> dict[str, Any]:
        found: dict[str, Any] = {"dataset": str(fingerprint)[:32], "shards": shards, "samples": samples}
        if subset is not None:
            found["subset"] = xxhash.xxh3_64_hexdigest(np.ascontiguousarray(subset, dtype="<i8").tobytes())
        return found | self.order.settings()


def _checked(subset: Rows, num_samples: int) -> Rows:
    """Refuse rows that are out of range, repeated or out of order."""
    rows = np.ascontiguousarray(subset, dtype=np.int64)
    if len(rows) and (rows[0] < 0 or rows[-1] >= num_samples or bool((np.diff(rows) <= 0).any())):
        raise ConfigError(f"a subset must be ascending, unique rows between 0 and {num_samples - 1:,}")
    return rows


Even = Literal["pad", "drop", "error"]


@dataclass(frozen=True)
class Shares:
    """What every rank gets of an epoch, known before the first batch.

    Attributes
    ----------
    num_batches : int
        Batches of every rank; the same on all.
    full_batches : int
        Those of them that have the full size; at most one more follows.
    tail : int
        Units of every rank in the last, smaller batch; 0 when there is none.
    padded : int
        Units, over all ranks, that repeat the epoch's first ones.
    dropped : int
        Units, over all ranks, that are not delivered.
    """

    num_batches: int
    full_batches: int
    tail: int
    padded: int
    dropped: int


@dataclass(frozen=True)
class Division:
    """Divides units into global batches, and each global batch into one contiguous slice per rank.

    Attributes
    ----------
    batch_size : int
        Units per rank and batch.
    rank, world_size : int
        Which slice is ours, and how many there are.
    even : str
        What happens to a last global batch that ``world_size`` does not divide: ``"pad"`` repeats the epoch's first
        units, ``"drop"`` leaves out the few at the end, ``"error"`` refuses.
    drop_last : bool
        Leave out a last global batch that is not full, whole.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    even: Even = "pad"
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; it must be at least 1")
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise ConfigError(
                f"rank {self.rank} of world size {self.world_size}: ranks count from 0 to world_size - 1; "
                "check the arguments or the RANK and WORLD_SIZE variables"
            )
        if self.even not in {"pad", "drop", "error"}:
            raise ConfigError(f"even={self.even!r}; choose 'pad', 'drop' or 'error'")

    @property
    def global_size(self) -> int:
        """Units per global batch."""
        return self.batch_size * self.world_size

    def shares(self, left: int) -> Shares:
        """Divide ``left`` units among the ranks."""
        full, rest = divmod(left, self.global_size)
        if rest == 0:
            return Shares(full, full, 0, 0, 0)
        if self.drop_last:
            return Shares(full, full, 0, 0, rest)
        uneven = rest % self.world_size
        if uneven and self.even == "error":
            raise ConfigError(
                f"the last global batch has {rest} samples, which {self.world_size} ranks cannot share evenly: "
                "choose even='pad' or even='drop', drop_last=True, or another batch_size"
            )
        if self.even == "drop":
            tail = rest // self.world_size
            return Shares(full + (tail > 0), full, tail, 0, uneven)
        tail = -(-rest // self.world_size)
        return Shares(full + 1, full, tail, tail * self.world_size - rest, 0)


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
        See :class:`~neurofm_shards.loading.plans.plan.Division`.
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


def group_rows(collection: Any, by: str | Sequence[str], subset: Rows | None = None) -> dict[str, Rows]:
    """Return the rows of each group, ascending; groups in the order of their names.

    Parameters
    ----------
    collection : ShardCollection
        The data.
    by : str or sequence of str
        Metadata columns; samples belong together when all of them agree.
    subset : numpy.ndarray of int64 or None
        Rows to consider.

    Raises
    ------
    ConfigError
        A column is not there, or some samples have no value of it.
    """
    columns = TableColumns(collection.metadata_table())
    names = [by] if isinstance(by, str) else list(by)
    rows = np.arange(collection.num_samples, dtype=np.int64) if subset is None else subset
    parts = []
    for name in names:
        if name not in columns:
            raise ConfigError(f"cannot group by {name!r}: {unknown_name('metadata column', name, columns)}")
        values = columns[name][rows].tolist()
        missing = sum(value is None or value != value for value in values)  # noqa: PLR0124  (NaN)
        if missing:
            raise ConfigError(
                f"cannot group by {name!r}: {missing} samples have no value of it; leave them out by where="
            )
        parts.append(values)
    labels = np.array([" / ".join(map(str, each)) for each in zip(*parts, strict=True)], dtype=np.str_)
    distinct, group = np.unique(labels, return_inverse=True)
    turn = np.argsort(group.reshape(-1), kind="stable")
    edges = np.cumsum(np.bincount(group.reshape(-1), minlength=len(distinct)))[:-1]
    return dict(zip(distinct.tolist(), np.split(rows[turn], edges), strict=True))
