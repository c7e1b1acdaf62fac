"""Where a loader stands, and where its next iteration starts; epochs are counted alike in all worker processes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch.utils.data import get_worker_info

from neurofm_shards._process import after_fork
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.agreement import Agreement
from neurofm_shards.loading.plans.options import PlanOptions
from neurofm_shards.loading.plans.plan import EpochPlan
from neurofm_shards.loading.ranks import RankRequest, Ranks, warn_of_lonely_task
from neurofm_shards.loading.state import LoaderState

#: A DataLoader with more workers than this is refused.
MOST_WORKERS = 1023

#: Orders with which loaders of this process have begun.
_begun: Counter[str] = Counter()

_log = logging.getLogger("neurofm_shards.loading")


class EpochCounter(Protocol):
    """Holds the epoch of the next iteration."""

    upcoming: int

    def everywhere(self, epoch: int) -> None:
        """Set the next epoch for all who share this."""


class LocalEpochCounter:
    """An epoch counter of one process."""

    def __init__(self) -> None:
        self.upcoming = 0

    def everywhere(self, epoch: int) -> None:
        """Set the next epoch."""
        self.upcoming = epoch


class SharedEpochCounter:
    """The epoch that the next iteration is in, for the main process and for each DataLoader worker.

    It lies in shared memory without a name: a DataLoader starts new worker processes for each epoch, each with a copy
    of a data set that never moved, so the count must outlive them.
    """

    def __init__(self) -> None:
        self._upcoming: torch.Tensor = torch.zeros(MOST_WORKERS + 1, dtype=torch.int64, device="cpu")
        self._upcoming.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def upcoming(self) -> int:
        """The epoch of this process's next iteration."""
        return int(self._upcoming[self._slot()])

    @upcoming.setter
    def upcoming(self, epoch: int) -> None:
        self._upcoming[self._slot()] = epoch

    def everywhere(self, epoch: int) -> None:
        """Set the next epoch of this process and of all workers."""
        self._upcoming.fill_(epoch)

    def _slot(self) -> int:
        return 0 if get_worker_info() is None else worker_place()[0] + 1


def worker_place() -> tuple[int, int]:
    """Return the number of this DataLoader worker and how many there are; (0, 1) outside of workers."""
    info = get_worker_info()
    if info is None:
        return 0, 1
    if info.num_workers > MOST_WORKERS:
        raise ConfigError(f"num_workers={info.num_workers}; at most {MOST_WORKERS} are possible")
    return info.id, info.num_workers


class Progress:
    """Plan, epoch and position of a loader.

    Each iteration is one epoch; the next one is the next epoch, from its start. A loaded state is where the next
    iteration starts. Which rank this process is, is decided anew when an iteration begins.

    Parameters
    ----------
    make_plan : callable
        Returns the plan of a rank from its options; picklable where the loader is.
    options : PlanOptions
        All but the rank.
    request : RankRequest
        What was said about ranks.
    counter : EpochCounter, optional
        Where the next epoch is kept; by default here.
    """

    def __init__(
        self,
        make_plan: Callable[[PlanOptions], EpochPlan],
        options: PlanOptions,
        request: RankRequest,
        counter: EpochCounter | None = None,
    ) -> None:
        self._make_plan = make_plan
        self._options = options
        self._request = request
        self._counter = LocalEpochCounter() if counter is None else counter
        self._place = request.find()
        self._plan = self._planned()
        self._agreement = Agreement(self._plan)
        self._iteration = 0
        self._offset = 0
        self._now: tuple[int, int] | None = None
        after_fork(self._forget_iteration)
        self._report()
        if get_worker_info() is None:
            self._agreement.tell(self._plan)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_now": None}  # another process's iterations are its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        after_fork(self._forget_iteration)

    @property
    def plan(self) -> EpochPlan:
        """The plan of the rank that this process is now."""
        found = self._request.find()
        if (found.rank, found.world_size) != (self._place.rank, self._place.world_size):
            self._place = found
            self._plan = self._planned()
            self._report()
        return self._plan

    @property
    def place(self) -> Ranks:
        """The rank that the plan is made for."""
        return self._place

    @property
    def standing(self) -> tuple[int, int]:
        """Epoch and position: behind the last delivered sample, or where the next iteration starts."""
        return (self._counter.upcoming, self._offset) if self._now is None else self._now

    @property
    def epoch(self) -> int:
        """The epoch that is running, or comes next where none has begun."""
        return self.standing[0]

    @property
    def batches_behind(self) -> int:
        """Batches of this epoch that lie behind, counted as this number of ranks would have shared them."""
        epoch, position = self.standing
        return self.plan.num_batches(epoch) - self.plan.num_batches(epoch, position)

    def summary(self) -> str:
        """Return order, rank and epoch in a few words, for ``repr``."""
        options, place = self._options, self._place
        seed = "" if options.shuffle is False else f", seed={options.seed}"
        return f"shuffle={options.shuffle!r}{seed}, rank {place.rank} of {place.world_size}, epoch {self.epoch}"

    def begin(self) -> tuple[int, int, int]:
        """Begin an iteration; return its number, its epoch and the position it starts at."""
        plan = self.plan
        warn_of_lonely_task(self._place)
        self._note_repetition(plan)
        if get_worker_info() is None:
            self._agreement.confirm(plan)
        self._iteration += 1
        self._now = epoch, position = self._counter.upcoming, self._offset
        self._counter.upcoming, self._offset = epoch + 1, 0
        if get_worker_info() is None:
            self._agreement.begin(plan, epoch, position)
        return self._iteration, epoch, position

    def move(self, iteration: int, position: int) -> None:
        """Say that the samples before ``position`` are with the caller; an iteration that was superseded is ignored."""
        if iteration == self._iteration and self._now is not None:
            self._now = (self._now[0], position)

    def set_epoch(self, epoch: int) -> None:
        """Choose the next iteration's epoch; a loaded position inside that very epoch is kept."""
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise ConfigError(f"epoch {epoch!r}: epochs are whole numbers that count from 0")
        self._start_at(epoch, self._offset if self._counter.upcoming == epoch else 0)
        self._counter.everywhere(epoch)

    def state(self) -> LoaderState:
        """Return the state that continues behind the last delivered sample."""
        return LoaderState.of(self.plan, *self.standing)

    def load(self, state: Mapping[str, Any] | LoaderState) -> None:
        """Continue where a state says.

        Raises
        ------
        StateError
            It is no state, or not one of this data set and these settings.
        """
        found = state if isinstance(state, LoaderState) else LoaderState.from_dict(state)
        self._start_at(*found.resume(self.plan))

    def _planned(self) -> EpochPlan:
        return self._make_plan(replace(self._options, rank=self._place.rank, world_size=self._place.world_size))

    def _report(self) -> None:
        """Say, before the first batch, what this rank gets; refuse what cannot be shared evenly."""
        share = self._plan.share(0)
        _log.info(
            "rank %d of %d: %d batches per epoch, on every rank; %d samples repeated and %d left out to make that so",
            *(self._place.rank, self._place.world_size, share.num_batches, share.padded, share.dropped),
        )

    def _start_at(self, epoch: int, position: int) -> None:
        self._counter.upcoming, self._offset = epoch, position
        self._now = None
        self._iteration += 1  # an iteration that still runs no longer says where the loader stands

    def _note_repetition(self, plan: EpochPlan) -> None:
        """Say so when the first epoch of another loader had this very order."""
        first = self._iteration == 0 and self._counter.upcoming == 0 and self._offset == 0
        if not first or plan.identity().get("shuffle") is False or get_worker_info() is not None:
            return
        order = repr((sorted(plan.identity().items()), plan.sharding))
        _begun[order] += 1
        if _begun[order] == 2:  # further ones would only repeat it
            _log.warning(
                "this loader begins in the same order as one before it, with the same data and seed: where each epoch "
                "has a new loader (reload_dataloaders_every_n_epochs), call set_epoch(epoch), or keep the loader"
            )

    def _forget_iteration(self) -> None:
        self._now = None  # a forked child's iterations are its own
