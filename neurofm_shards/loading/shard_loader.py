"""A torch DataLoader whose batches are gathered instead of collated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from neurofm_shards._typing import Rows
from neurofm_shards.loading.cursor import Cursor
from neurofm_shards.loading.device import copier, pinned, prefetch
from neurofm_shards.loading.fetch import BatchFetch, restored
from neurofm_shards.loading.opening import sample_bytes
from neurofm_shards.loading.order.bijection import derive_key
from neurofm_shards.loading.plans.plan import EpochPlan, Request
from neurofm_shards.loading.ranks import Ranks
from neurofm_shards.loading.skipping import SkipCounter
from neurofm_shards.loading.workers.pipeline import Fetched, Workers, run
from neurofm_shards.loading.workers.select import WorkerOptions


@dataclass(frozen=True)
class Shelf:
    """One data set of a loader: where its samples are in ``loader.dataset``.

    Attributes
    ----------
    subset : numpy.ndarray of int64 or None
        The selected rows, ascending; None for all.
    start : int
        Number of the first of them.
    """

    subset: Rows | None
    start: int

    def numbers(self, rows: Rows) -> list[int]:
        """Return the numbers of rows."""
        found = rows if self.subset is None else np.searchsorted(self.subset, rows)
        return [number + self.start for number in found.tolist()]


class PlanSampler(Sampler[list[int]]):
    """What each batch of the loader's epoch holds, as numbers of ``loader.dataset``.

    For code that asks a DataLoader for its sampler; ``DataLoader(loader.dataset, batch_sampler=loader.batch_sampler)``
    gives the same samples.
    """

    def __init__(self, plan: EpochPlan, cursor: Cursor, shelves: Sequence[Shelf]) -> None:
        self._plan = plan
        self._cursor = cursor
        self._shelves = shelves

    def __iter__(self) -> Iterator[list[int]]:
        for request in self._plan.requests(self._cursor.epoch):
            found = [i for number, rows in request.parts for i in self._shelves[number].numbers(rows)]
            yield found if request.order is None else [found[i] for i in request.order.tolist()]

    def __len__(self) -> int:
        return self._plan.num_batches(self._cursor.epoch)


class ShardDataLoader(DataLoader[Any]):
    """Batches of shards, in an order that depends neither on workers nor on ranks.

    Made by :func:`~neurofm_shards.loading.dataloader.create_webdataset_dataloader`. Iterating again is the next epoch.

    Parameters
    ----------
    plan : EpochPlan
        What is iterated.
    fetch : BatchFetch
        Makes the batches.
    dataset : torch.utils.data.Dataset
        The same samples for random access.
    shelves : sequence of Shelf
        Where the samples of each data set are in ``dataset``.
    place : Ranks
        The rank that the plan was made for.
    batch_size : int or None
        For information; None where batches differ in size.
    drop_last : bool
        For information.
    workers : WorkerOptions
        Who makes the batches.
    pin_memory : bool
        Whether batches come in page-locked memory.
    device : torch.device or None
        Where batches are copied to, some in advance.
    seed : int
        What random numbers in worker processes start from.

    Attributes
    ----------
    skips : SkipCounter
        Counts samples left out because they could not be read (``on_error="skip"``).
    """

    # Accelerate asks for these: prepare() leaves the loader as it is (ranks are divided already), save_state() and
    # load_state() include its state.
    _is_accelerate_prepared = True
    use_stateful_dataloader = True

    def __init__(
        self,
        plan: EpochPlan,
        fetch: BatchFetch,
        *,
        dataset: Dataset[Any],
        shelves: Sequence[Shelf],
        place: Ranks,
        batch_size: int | None,
        drop_last: bool,
        workers: WorkerOptions,
        pin_memory: bool,
        device: torch.device | None,
        seed: int,
    ) -> None:
        self._plan = plan
        self._fetch = fetch
        self._cursor = Cursor(plan, place)
        self._options = workers
        self._kept: Workers | None = None
        self._copies = None if device is None else copier(device)
        self._seed = seed
        self.skips = SkipCounter()
        super().__init__(dataset, batch_sampler=PlanSampler(plan, self._cursor, shelves))
        self.num_workers = workers.count
        self.prefetch_factor = workers.prefetch_factor if workers.count else None
        self.pin_memory = pin_memory
        # torch forbids to change these: it made its sampler from them, which here is the plan's
        object.__setattr__(self, "batch_size", batch_size)
        object.__setattr__(self, "drop_last", drop_last)
        object.__setattr__(self, "persistent_workers", workers.persistent)

    @property
    def epoch(self) -> int:
        """The epoch that is running, or comes next where none has begun."""
        return self._cursor.epoch

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch on this rank; the same on every rank."""
        return self._plan.num_batches(self._cursor.epoch)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Iterate over one epoch's batches; stopping early is fine, and ends the workers."""
        iteration, epoch, position = self._cursor.begin()
        requests = self._plan.requests(epoch, position)
        workers = self._take_workers()
        workers.begin(derive_key(self._seed, epoch))
        stream = run(requests, workers, self._group())
        try:
            batches = map(self._completed, stream)
            arriving = batches if self._copies is None else prefetch(batches, self._copies)
            # a map, because the variable of a loop here would keep each batch alive until the next is there
            yield from map(self._handed_over, arriving, repeat(iteration))
        finally:
            stream.close()
            self._leave_workers(workers)

    def set_epoch(self, epoch: int) -> None:
        """Choose the next iteration's epoch; a loaded position inside that very epoch is kept."""
        self._cursor.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the training loop stands: behind the last batch it was given (below 1 KB; JSON values)."""
        return self._cursor.state().to_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue there with the next iteration, with whatever number of workers and ranks.

        Raises
        ------
        StateError
            The state belongs to another data set or other settings; says what differs.
        """
        self._cursor.load(dict(state_dict))

    def close(self) -> None:
        """End workers that were kept for the next epoch."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def _group(self) -> int:
        size = max(sample_bytes(reader) for reader in self._fetch.readers)
        return self._options.group(size * (self.batch_size or 1))

    def _take_workers(self) -> Workers:
        kept, self._kept = self._kept, None
        finish = self._finished if self.pin_memory else None
        return self._options.start(self._fetch, finish) if kept is None else kept

    def _leave_workers(self, workers: Workers) -> None:
        if self._options.persistent and self._kept is None:
            self._kept = workers
        else:
            workers.close()

    def _handed_over(self, delivered: tuple[Any, Request], iteration: int) -> Any:
        """Note that the training loop has this batch from now on."""
        batch, request = delivered
        self._cursor.move(iteration, request.position_after)
        return batch

    def _finished(self, fetched: Fetched) -> Fetched:
        return fetched._replace(batch=pinned(fetched.batch))

    def _completed(self, delivered: tuple[Fetched, Request]) -> tuple[Any, Request]:
        """Do what is left to do in the caller's thread."""
        fetched, request = delivered
        self.skips.add(fetched, request)
        if self._options.remote:
            fetched = restored(self._fetch, fetched, request)
            if self.pin_memory:
                fetched = self._finished(fetched)
        return fetched.batch, request
