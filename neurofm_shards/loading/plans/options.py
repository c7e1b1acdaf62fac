"""What every plan is made from: order, size of batches, and how ranks share what is left of an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.order.shuffle import Shuffle, check_shuffle
from neurofm_shards.values import check_whole

#: What happens to a last global batch that the ranks cannot share evenly.
RemainderPolicy: TypeAlias = Literal["pad", "drop", "error"]


@dataclass(frozen=True)
class Share:
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
class RankSharding:
    """Cuts units (samples, or blocks of them) into global batches, and each global batch into one slice per rank.

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
    even: RemainderPolicy = "pad"
    drop_last: bool = False

    @property
    def global_size(self) -> int:
        """Units per global batch."""
        return self.batch_size * self.world_size

    def share(self, left: int) -> Share:
        """Return every rank's share of ``left`` units (raises ConfigError)."""
        full, rest = divmod(left, self.global_size)
        if rest == 0:
            return Share(full, full, 0, 0, 0)
        if self.drop_last:
            return Share(full, full, 0, 0, rest)
        uneven = rest % self.world_size
        if uneven and self.even == "error":
            raise ConfigError(
                f"the last global batch has {rest} samples, which {self.world_size} ranks cannot share evenly: "
                "choose even='pad' or even='drop', drop_last=True, or another batch_size"
            )
        if self.even == "drop":
            tail = rest // self.world_size
            return Share(full + (tail > 0), full, tail, 0, uneven)
        tail = -(-rest // self.world_size)
        return Share(full + 1, full, tail, tail * self.world_size - rest, 0)


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Settings of a plan.

    Attributes
    ----------
    shuffle : bool or "global"
        False: storage order. True: shards in random order, samples shuffled inside shuffle windows that draw from
        several shards at once. ``"global"``: a pseudo-random permutation of all samples.
    batch_size : int
        Samples per batch and rank.
    buffer_size : int
        Samples per shuffle window, for ``shuffle=True``; at least as large as the data set, it makes one of everything.
    seed : int
        Decides the order; any integer.
    shuffle_shards : bool or None
        None: as ``shuffle`` says. See :class:`~neurofm_shards.loading.order.shuffle.ShuffleOrder`.
    even, drop_last, rank, world_size
        See :class:`RankSharding`.

    Raises
    ------
    ConfigError
        A setting has a value that means nothing.
    """

    shuffle: Shuffle = True
    batch_size: int = 1
    buffer_size: int = 1000
    seed: int = 42
    shuffle_shards: bool | None = None
    even: RemainderPolicy = "pad"
    drop_last: bool = False
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "buffer_size", "seed"):
            check_whole(name, getattr(self, name), _MEANINGS[name])
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; it must be at least 1")
        check_shuffle(self.shuffle, self.buffer_size)
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise ConfigError(
                f"rank {self.rank} of world size {self.world_size}: ranks count from 0 to world_size - 1; "
                "check the arguments or the RANK and WORLD_SIZE variables"
            )
        if self.even not in {"pad", "drop", "error"}:
            raise ConfigError(f"even={self.even!r}; choose 'pad', 'drop' or 'error'")

    def sharding(self, batch_size: int | None = None) -> RankSharding:
        """Return how ranks share samples, or blocks of which ``batch_size`` make a batch."""
        size = self.batch_size if batch_size is None else batch_size
        return RankSharding(size, self.rank, self.world_size, self.even, self.drop_last)


_MEANINGS = {
    "batch_size": "a whole number of samples is needed; for single samples use WebDatasetLoader",
    "buffer_size": "a whole number of samples is needed",
    "seed": "orders are a function of it, so a whole number is needed; for another one each run, torch.initial_seed()",
}

#: Samples one by one, in shuffle windows, all of them on this rank.
DEFAULT_OPTIONS = PlanOptions()
