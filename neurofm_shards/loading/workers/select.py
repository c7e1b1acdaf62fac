"""Which workers a loader uses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from multiprocessing.context import BaseContext
from time import perf_counter
from typing import Literal

from neurofm_shards.loading.plans.plan import Request
from neurofm_shards.loading.workers.pipeline import (
    Fetch,
    Fetched,
    InlineWorkers,
    LookingAhead,
    Outcome,
    Step,
    Task,
    Workers,
    emptied,
)
from neurofm_shards.loading.workers.processes import ProcessWorkers
from neurofm_shards.loading.workers.threads import ThreadWorkers
from neurofm_shards.values import check_whole

#: Smaller batches travel to threads and back in groups of about this size; handing one over costs more than reading it.
GROUP_BYTES = 2 << 20
#: Batches whose values are looked for together, at most.
MOST_IN_GROUP = 16
#: Batches of up to this size that are only copied are made faster than they are handed over.
SMALL_BYTES = 512 << 10
#: Unless they take longer than this each (seconds), because their rows are not in memory yet.
SLOW_SECONDS = 1e-3
#: So many one after the other: a single one may have waited for the processor.
SLOW_BATCHES = 4


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
    if_slow : bool
        Whether batches are made in the caller's thread until that takes long.
    """

    kind: Literal["thread", "process"]
    count: int
    prefetch_factor: int = 2
    context: str | BaseContext | None = None
    persistent: bool = False
    if_slow: bool = False

    def __post_init__(self) -> None:
        check_whole("num_workers", self.count, "a number of workers is needed, 0 for none", least=0)
        check_whole("prefetch_factor", self.prefetch_factor, "workers fetch 1 batch or more in advance", least=1)

    @property
    def remote(self) -> bool:
        """Whether batches come from other processes."""
        return self.count > 0 and self.kind == "process"

    def worth(self, batch_bytes: int, *, copied: bool) -> WorkerOptions:
        """Return who makes batches of so many bytes: the caller first, where they are small and only ``copied``."""
        if not self.count or not copied or batch_bytes > SMALL_BYTES:
            return self
        return replace(self, kind="thread", if_slow=True)

    def start(self, fetch: LookingAhead, remote: Fetch, finish: Callable[[Step], Fetched] | None = None) -> Workers:
        """Start workers; in other processes ``remote`` makes the batches, elsewhere ``fetch``, run by ``finish``."""
        if self.remote:
            return ProcessWorkers(remote, self.count, self.prefetch_factor, self.context)
        local = fetch if finish is None else Finishing(fetch, finish)
        if not self.count:
            return InlineWorkers(local)
        threads = partial(ThreadWorkers, local, self.count, self.prefetch_factor)
        return WorkersIfSlow(local, threads) if self.if_slow else threads()

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


class WorkersIfSlow(Workers):
    """Makes batches in the caller's thread; by workers for the rest of an epoch, once they take long.

    Parameters
    ----------
    fetch : callable
        Makes batches in the caller's thread.
    start : callable
        Starts the workers.
    """

    slots = 0

    def __init__(self, fetch: Fetch, start: Callable[[], Workers]) -> None:
        self._inline = InlineWorkers(fetch)
        self._maker: Workers = self._inline
        self._start = start
        self._started: Workers | None = None
        self._waiting: deque[Workers] = deque()
        self._slow = 0

    def begin(self, seed: int) -> None:  # noqa: ARG002  (nothing random is made here)
        """Try again without workers: what was read slowly may be in memory now."""
        self._maker, self.slots, self._slow = self._inline, 0, 0

    def submit(self, task: Task) -> None:
        """See :meth:`Workers.submit`."""
        if self._slow >= SLOW_BATCHES:
            self._started = self._started or self._start()
            self._maker, self.slots, self._slow = self._started, self._started.slots, 0
        self._maker.submit(task)
        self._waiting.append(self._maker)

    def result(self) -> Iterator[Outcome]:
        """See :meth:`Workers.result`."""
        maker = self._waiting.popleft()
        return self._timed(maker.result()) if maker is self._inline else maker.result()

    def _timed(self, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        """Make the first batch of a task, and count it if it took long."""
        began = perf_counter()
        first = [next(outcomes)]
        self._slow = self._slow + 1 if perf_counter() - began > SLOW_SECONDS else 0
        return chain(emptied(first), outcomes)

    def cancel(self) -> None:
        """See :meth:`Workers.cancel`."""
        self._waiting.clear()
        for workers in self._all():
            workers.cancel()

    def close(self) -> None:
        """See :meth:`Workers.close`."""
        for workers in self._all():
            workers.close()

    def _all(self) -> list[Workers]:
        return [self._inline, *([] if self._started is None else [self._started])]
