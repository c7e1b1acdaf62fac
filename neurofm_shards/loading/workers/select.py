"""Which workers a loader uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.context import BaseContext
from typing import Literal

from neurofm_shards.loading.plans.plan import Request
from neurofm_shards.loading.workers.pipeline import Fetch, Fetched, InlineWorkers, LookingAhead, Step, Task, Workers
from neurofm_shards.loading.workers.processes import ProcessWorkers
from neurofm_shards.loading.workers.threads import ThreadWorkers
from neurofm_shards.values import check_whole

#: Smaller batches travel to threads and back in groups of about this size; handing one over costs more than reading it.
GROUP_BYTES = 2 << 20
#: Batches whose values are looked for together, at most.
MOST_IN_GROUP = 16
#: A single thread gains nothing where smaller batches are only copied: handing one over costs a third of making it.
WORTH_A_THREAD = 512 << 10


@dataclass(frozen=True)
class WorkerOptions:
    """How batches are made.

    Attributes
    ----------
    kind : "thread" or "process"
        What workers are.
    count : int
        Their number; 0: batches are made in the caller's thread when asked for.
    prefetch_factor : int
        Tasks under way per worker.
    context : str, multiprocessing context or None
        How processes start; None: Python's choice for the platform.
    persistent : bool
        Whether workers stay for the next epoch.
    """

    kind: Literal["thread", "process"]
    count: int
    prefetch_factor: int = 2
    context: str | BaseContext | None = None
    persistent: bool = False

    def __post_init__(self) -> None:
        check_whole("num_workers", self.count, "a number of workers is needed, 0 for none", least=0)
        check_whole("prefetch_factor", self.prefetch_factor, "workers fetch 1 batch or more in advance", least=1)

    @property
    def remote(self) -> bool:
        """Whether batches come from other processes."""
        return self.count > 0 and self.kind == "process"

    def worth(self, batch_bytes: int, *, copied: bool) -> WorkerOptions:
        """Return who makes batches of so many bytes: the caller, where they are ``copied`` faster than handed over."""
        gains = not copied or batch_bytes >= WORTH_A_THREAD or self.count != 1 or self.remote
        return self if gains else replace(self, count=0)

    def start(self, fetch: LookingAhead, remote: Fetch, finish: Callable[[Step], Fetched] | None = None) -> Workers:
        """Start workers; in other processes ``remote`` makes the batches, elsewhere ``fetch``, run by ``finish``."""
        if self.remote:
            return ProcessWorkers(remote, self.count, self.prefetch_factor, self.context)
        local = fetch if finish is None else Finishing(fetch, finish)
        if not self.count:
            return InlineWorkers(local)
        return ThreadWorkers(local, self.count, self.prefetch_factor)

    def group(self, batch_bytes: int) -> int:
        """Return how many batches make a task."""
        if self.remote:
            return 1
        if not self.count:  # each batch is read when it is asked for, so that nothing has to wait
            return MOST_IN_GROUP
        return max(1, min(MOST_IN_GROUP, GROUP_BYTES // max(batch_bytes, 1)))


@dataclass(frozen=True)
class Finishing(LookingAhead):
    """A fetch and who runs its steps, and finishes what they give, in the same thread."""

    fetch: LookingAhead
    finish: Callable[[Step], Fetched]

    def __call__(self, request: Request) -> Fetched:
        """Fetch and finish."""
        return self.finish(partial(self.fetch, request))

    def look_ahead(self, task: Task) -> list[Step]:
        """See :meth:`LookingAhead.look_ahead`."""
        return [partial(self.finish, step) for step in self.fetch.look_ahead(task)]
