"""How random an order is for a given data set, and what each rank and worker will get of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Rows
from neurofm_shards.loading.order.shuffle import ShuffleOrder
from neurofm_shards.loading.plans.plan import EpochPlan
from neurofm_shards.loading.subsets import TableColumns
from neurofm_shards.reading.samples import SampleCollection

#: Positions that a report looks at; of larger data sets it looks at evenly spaced stretches.
MOST_POSITIONS = 1 << 18


@dataclass(frozen=True)
class ModeQuality:
    """How random one mode's order is.

    Attributes
    ----------
    mode : str
        ``"none"``, ``"local"`` (shuffle=True) or ``"global"``.
    groups_per_batch : float
        Mean number of different sessions (shards, where no session is known) in a batch.
    expected_groups : float
        The same for a uniformly random order.
    longest_run : float
        Mean over batches of the longest run of one session.
    expected_run : float
        The same for a uniformly random order (simulated).
    rank_correlation : float
        Spearman's, between position and storage order: 1 is as stored, 0 is random.
    adjacent_rate : float
        Share of neighbours in the epoch that are neighbours in storage.
    expected_adjacent : float
        The same for a uniformly random order.
    """

    mode: str
    groups_per_batch: float
    expected_groups: float
    longest_run: float
    expected_run: float
    rank_correlation: float
    adjacent_rate: float
    expected_adjacent: float


@dataclass(frozen=True)
class ShuffleReport:
    """How random the orders of a data set are.

    Attributes
    ----------
    num_samples, num_shards, num_groups : int
        Sizes of the data set.
    grouped_by : str
        What runs are counted of: ``"session_id"`` or ``"shard"``.
    batch_size, buffer_size : int
        What was asked about.
    looked_at : int
        Positions that the figures are made from.
    modes : tuple of ModeQuality
        One per mode.
    """

    num_samples: int
    num_shards: int
    num_groups: int
    grouped_by: str
    batch_size: int
    buffer_size: int
    looked_at: int
    modes: tuple[ModeQuality, ...]


def shuffle_report(
    collection: SampleCollection,
    buffer_size: int = 1000,
    batch_size: int = 32,
    modes: Sequence[bool | str] = (False, True, "global"),
    *,
    seed: int = 42,
    epoch: int = 0,
) -> ShuffleReport:
    """Measure how random the order of an epoch is; reads metadata, no data.

    Parameters
    ----------
    collection : ShardCollection
        The data.
    buffer_size, batch_size : int
        Settings to be judged.
    modes : sequence
        Of False, True, ``"global"``.
    seed, epoch : int
        Which epoch is looked at.
    """
    name, groups = _groups(collection)
    sizes = np.diff(collection.starts)
    positions = _looked_at(collection.num_samples, batch_size)
    found = []
    for mode in modes:
        order = ShuffleOrder(sizes, mode, buffer_size, seed)
        rows = order.positions_to_rows(epoch, positions)
        found.append(_judge(_name(mode), positions, rows, groups, batch_size))
    numbers = (collection.num_samples, len(sizes), int(groups.max(initial=-1)) + 1)
    return ShuffleReport(*numbers, name, batch_size, buffer_size, len(positions), tuple(found))


def _name(mode: bool | str) -> str:
    """Return the name of a mode in reports."""
    if isinstance(mode, str):
        return mode
    return "local" if mode else "none"


def _groups(collection: SampleCollection) -> tuple[str, Rows]:
    """Return the session of each sample as a number, or its shard where sessions are not known."""
    columns = TableColumns(collection.metadata_table())
    if "session_id" in columns:
        labels = [str(value) for value in columns["session_id"].tolist()]
        _, groups = np.unique(np.array(labels, dtype=np.str_), return_inverse=True)
        return "session_id", groups.reshape(-1).astype(np.int64)
    sizes = np.diff(collection.starts)
    return "shard", np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)


def _looked_at(num_samples: int, batch_size: int) -> Rows:
    """Return all positions, or whole batches spread evenly over the epoch."""
    if num_samples <= MOST_POSITIONS:
        return np.arange(num_samples, dtype=np.int64)
    batches = np.linspace(0, num_samples // batch_size - 1, max(1, MOST_POSITIONS // batch_size)).astype(np.int64)
    return (batches[:, None] * batch_size + np.arange(batch_size)).reshape(-1)


def _judge(mode: str, positions: Rows, rows: Rows, groups: Rows, batch_size: int) -> ModeQuality:
    uniform = np.random.default_rng(0).choice(groups, size=min(len(rows), 1 << 15) if len(rows) else 0)
    adjoining = np.diff(positions) == 1
    neighbours = np.abs(np.diff(rows)) == 1
    return ModeQuality(
        mode,
        _mean(_distinct(groups[rows], batch_size)),
        _expected_distinct(groups, batch_size),
        _mean(_longest(groups[rows], batch_size)),
        _mean(_longest(uniform, batch_size)),
        _spearman(positions, rows),
        _mean(neighbours[adjoining]),
        2 / len(groups) if len(groups) else 0.0,
    )


def _batches(values: Rows, batch_size: int) -> Rows:
    """Return whole batches, shape (batches, batch_size); a smaller data set is one batch."""
    size = max(1, min(batch_size, len(values)))
    return values[: len(values) // size * size].reshape(-1, size)


def _distinct(values: Rows, batch_size: int) -> Rows:
    ordered = np.sort(_batches(values, batch_size), axis=1)
    found: Rows = (np.diff(ordered, axis=1) != 0).sum(axis=1) + 1
    return found


def _longest(values: Rows, batch_size: int) -> Rows:
    """Return the longest run of equal values in each batch."""
    batches = _batches(values, batch_size)
    longest = np.ones(len(batches), dtype=np.int64)
    run = longest.copy()
    for at in range(1, batches.shape[1] if len(batches) else 0):
        run = np.where(batches[:, at] == batches[:, at - 1], run + 1, 1)
        longest = np.maximum(longest, run)
    return longest


def _expected_distinct(groups: Rows, batch_size: int) -> float:
    """Return the mean number of groups in a batch drawn without replacement (hypergeometric)."""
    total, size = len(groups), min(batch_size, len(groups))
    counts = np.bincount(groups) if total else np.zeros(0)
    missing = np.ones(len(counts))
    for drawn in range(size):
        missing *= np.maximum(total - counts - drawn, 0) / (total - drawn)
    return float((1 - missing).sum())


def _spearman(positions: Rows, rows: Rows) -> float:
    if len(rows) < 2:
        return 0.0
    place, storage = (np.argsort(np.argsort(values)).astype(np.float64) for values in (positions, rows))
    return float(np.corrcoef(place, storage)[0, 1])


def _mean(values: npt.NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else 0.0


@dataclass(frozen=True)
class RankShare:
    """What one rank gets in an epoch.

    Attributes
    ----------
    rank : int
        Which one.
    batches, samples, padding : int
        Its batches, its samples, and how many of those repeat earlier ones.
    worker_batches : tuple of int
        Batches that each worker makes when they take turns.
    """

    rank: int
    batches: int
    samples: int
    padding: int
    worker_batches: tuple[int, ...]


@dataclass(frozen=True)
class PlanReport:
    """What all ranks get in an epoch.

    Attributes
    ----------
    num_samples : int
        Samples of the epoch.
    batch_size, world_size, global_batch : int
        Samples per batch, ranks, and samples per global batch.
    padded, dropped : int
        Samples repeated, and samples left out, over all ranks.
    ranks : tuple of RankShare
        One per rank.
    """

    num_samples: int
    batch_size: int
    world_size: int
    global_batch: int
    padded: int
    dropped: int
    ranks: tuple[RankShare, ...]


def plan_report(plans: Sequence[EpochPlan], batch_size: int, workers: int = 0, epoch: int = 0) -> PlanReport:
    """Return the samples and batches of each rank and worker.

    Parameters
    ----------
    plans : sequence of EpochPlan
        The plans of all ranks, in their order.
    batch_size : int
        Samples per batch and rank.
    workers : int
        Workers of each rank; with none, one entry is given.
    epoch : int
        Which epoch.
    """
    share = plans[0].share(epoch)
    found = []
    for rank, plan in enumerate(plans):
        samples, padding = plan.totals(epoch)
        turns = [len(range(worker, share.num_batches, max(1, workers))) for worker in range(max(1, workers))]
        found.append(RankShare(rank, share.num_batches, samples, padding, tuple(turns)))
    return PlanReport(
        plans[0].length(epoch),
        batch_size,
        len(plans),
        batch_size * len(plans),
        share.padded,
        share.dropped,
        tuple(found),
    )
