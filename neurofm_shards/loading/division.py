"""How ranks divide the units (samples, or whole blocks) that are left of an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from neurofm_shards.errors import ConfigError

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
