"""Rules for what goes into one batch: ``create_webdataset_dataloader(..., batching=OneSession())``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofm_shards._typing import Rows
from neurofm_shards.errors import ConfigError
from neurofm_shards.expressions import unknown_name
from neurofm_shards.loading.component import Component
from neurofm_shards.loading.division import Division, Even
from neurofm_shards.loading.groups import group_rows
from neurofm_shards.loading.mix_plan import MixPlan, Stop
from neurofm_shards.loading.one_session import OneSessionPlan
from neurofm_shards.loading.plans.block_plan import blocks_per_batch
from neurofm_shards.loading.plans.mixing import grouped, mixed
from neurofm_shards.loading.plans.plan import EpochPlan
from neurofm_shards.loading.token_budget import TokenBudgetPlan


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What every plan needs; see :class:`~neurofm_shards.loading.plans.plan.SinglePlan`."""

    batch_size: int = 1
    buffer_size: int = 1000
    seed: int = 42
    shuffle_shards: bool | None = None
    rank: int = 0
    world_size: int = 1
    even: Even = "pad"
    drop_last: bool = False
    subset: Rows | None = None

    def division(self, batch_size: int | None = None) -> Division:
        """Divide samples, or so many blocks per batch."""
        size = self.batch_size if batch_size is None else batch_size
        return Division(size, self.rank, self.world_size, self.even, self.drop_last)


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

    def plan(self, collection: Any, mode: bool | str = True, **settings: Any) -> EpochPlan:
        """Return the plan of one rank; arguments as for :class:`~neurofm_shards.loading.plans.plan.SinglePlan`."""
        given = _Settings(**settings)
        size, each = blocks_per_batch(self.block, given.batch_size, "block")
        groups = group_rows(collection, self.by, given.subset)
        return OneSessionPlan(collection, groups, given.division(each), size, given.seed, mode)


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

    def plan(self, collection: Any, mode: bool | str = True, **settings: Any) -> EpochPlan:
        """Return the plan of one rank; arguments as for :class:`~neurofm_shards.loading.plans.plan.SinglePlan`."""
        given = _Settings(**settings)
        division = given.division()
        sources = grouped(collection, self.by, given.subset)
        found = mixed(sources, [1.0] * len(sources) if self.weights is None else self.weights, None, self.stop)
        block = division.global_size if self.block is None else self.block
        if block < len(sources):
            raise ConfigError(
                f"a global batch of {block} samples cannot hold {len(sources)} groups of {self.by!r}: make batch_size "
                "larger, or group by something coarser"
            )
        return MixPlan(found.sources, found.weights, found.stop, division, mode, given.buffer_size, given.seed, block)


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

    def plan(self, collection: Any, mode: bool | str = True, **settings: Any) -> EpochPlan:
        """Return the plan of one rank; arguments as for :class:`~neurofm_shards.loading.plans.plan.SinglePlan`."""
        given = _Settings(**settings)
        if (self.column is None) == (self.lengths is None):
            raise ConfigError("TokenBudget needs either column= or lengths=")
        lengths = column_lengths(collection, self.column) if self.column is not None else np.asarray(self.lengths)
        if lengths.shape != (collection.num_samples,) or lengths.dtype.kind not in "iu":
            raise ConfigError(
                f"lengths= has shape {lengths.shape} and dtype {lengths.dtype}; {collection.num_samples} whole numbers "
                "were expected"
            )
        component = Component(collection, mode, given.buffer_size, given.seed, given.shuffle_shards, given.subset)
        bucket = 100 * given.batch_size if self.bucket is None else self.bucket
        if self.tokens < 1 or bucket < 1:
            raise ConfigError(f"tokens={self.tokens} and bucket={bucket} must be at least 1")
        return TokenBudgetPlan(
            component,
            lengths.astype(np.int64),
            given.division(1),
            self.tokens,
            given.batch_size,
            bucket,
            padded=self.padded,
        )


def column_lengths(collection: Any, column: str) -> Rows:
    """Return the length of one column in every sample, from the shards' indexes."""
    if column not in collection.columns:
        raise ConfigError(unknown_name("column", column, collection.columns))
    parts = []
    for shard, size in enumerate(np.asarray(collection.shard_sizes).tolist()):
        found = collection.index(shard).columns.get(column)
        shapes = None if found is None else found.shapes
        constant = None if found is None else found.spec.shape
        if shapes is not None:
            parts.append(np.asarray(shapes[:, 0], dtype=np.int64))
        elif constant and constant[0] is not None:
            parts.append(np.full(size, constant[0], dtype=np.int64))
        else:
            raise ConfigError(
                f"the index of {collection.shard_names[shard]} does not say how long {column!r} is: give lengths="
            )
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
