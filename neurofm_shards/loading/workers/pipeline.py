"""From requests to batches: in order, a bounded number in advance, in this thread or by workers."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from neurofm_shards.errors import WorkerError
from neurofm_shards.loading.plans.plan import Request


class Fetched(NamedTuple):
    """What a request led to.

    Attributes
    ----------
    batch : Any
        The finished batch.
    failures : tuple of (int, str)
        Samples that could not be read and are left out: their places in the request, and what was wrong.
    """

    batch: Any
    failures: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Failed:
    """A fetch that raised; kept until its batch's turn comes. ``trace`` is where, in another process."""

    error: BaseException
    trace: str = ""


#: How long to wait for something before the log says so, in seconds.
WATCH_SECONDS = 60.0

_log = logging.getLogger("neurofm_shards.loading")

Fetch: TypeAlias = Callable[[Request], Fetched]
Step: TypeAlias = Callable[[], Fetched]
Outcome: TypeAlias = "Fetched | Failed"
#: One or more batches that travel to a worker and back together.
Task: TypeAlias = "list[Request]"


class LookingAhead(ABC):
    """A fetch that can find what several requests need at once, which for small batches is most of the work."""

    @abstractmethod
    def __call__(self, request: Request) -> Fetched:
        """Return the batch of one request."""

    @abstractmethod
    def look_ahead(self, task: Task) -> list[Step]:
        """Look for all requests; return, for each of them, what makes its batch. What fails, fails in its step."""


class Workers(ABC):
    """Runs tasks; outcomes come back in the order in which tasks were submitted.

    Attributes
    ----------
    slots : int
        Tasks that may be under way while the caller uses a batch.
    """

    slots: int

    def begin(self, seed: int) -> None:  # noqa: B027  (only processes need it)
        """Say what random numbers in the workers start from, for all tasks that follow."""

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Start a task."""

    @abstractmethod
    def result(self) -> Iterator[Outcome]:
        """Wait for the oldest task; one outcome per request, at most one failure, which is the last."""

    @abstractmethod
    def cancel(self) -> None:
        """Forget every task that is under way; the workers stay usable."""

    @abstractmethod
    def close(self) -> None:
        """End the workers. Harmless when repeated."""


class InlineWorkers(Workers):
    """No workers at all: each batch is made when it is asked for, in the caller's thread."""

    slots = 0

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._waiting: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        """See :meth:`Workers.submit`."""
        self._waiting.append(task)

    def result(self) -> Iterator[Outcome]:
        """See :meth:`Workers.result`."""
        return map(_outcome, _steps(self._fetch, self._waiting.popleft()))

    def cancel(self) -> None:
        """See :meth:`Workers.cancel`."""
        self._waiting.clear()

    def close(self) -> None:
        """See :meth:`Workers.close`."""
        self.cancel()


def _never() -> bool:
    return False


def run(
    requests: Iterable[Request], workers: Workers, group: int = 1
) -> Generator[tuple[Fetched, Request], None, None]:
    """Yield every request's batch, in order.

    Parameters
    ----------
    requests : iterable of Request
        Asked for as room comes free, never all at once.
    workers : Workers
        Stay open; what is under way is cancelled when the iteration ends, however it ends.
    group : int
        Batches per task. Small batches travel together, because handing one over costs more than reading it.
    """
    under_way: deque[Task] = deque()
    try:
        for task in _tasks(requests, group):
            workers.submit(task)
            under_way.append(task)
            if len(under_way) > workers.slots:
                yield from map(_delivered, workers.result(), under_way.popleft())
        while under_way:
            yield from map(_delivered, workers.result(), under_way.popleft())
    finally:
        workers.cancel()


def _tasks(requests: Iterable[Request], group: int) -> Iterator[Task]:
    """Cut requests into tasks; the first ones are small, so that the first batch does not wait for a whole group."""
    waiting, size = iter(requests), 1
    while task := list(islice(waiting, size)):
        yield task
        size = min(2 * size, group)


def _delivered(outcome: Outcome, request: Request) -> tuple[Fetched, Request]:
    if isinstance(outcome, Failed):
        raise outcome.error from (WorkerError(f"in a worker process:\n{outcome.trace}") if outcome.trace else None)
    return outcome, request


def fetch_all(fetch: Fetch, task: Task, stopped: Callable[[], bool] = _never) -> list[Outcome]:
    """Run a task: stop at the first failure, or between batches when ``stopped()``."""
    outcomes: list[Outcome] = []
    for step in _steps(fetch, task):
        if stopped():
            break
        outcomes.append(_outcome(step))
        if isinstance(outcomes[-1], Failed):
            break
    return outcomes


def _outcome(step: Step) -> Outcome:
    try:
        return step()
    except StopIteration as error:  # raised later, in the middle of an iteration, it would end that
        failed = WorkerError("something that a batch is made with raised StopIteration: a codec or a compression")
        failed.__cause__ = error
        return Failed(failed)
    except Exception as error:  # noqa: BLE001  (raised again, as it is, when the batch's turn comes)
        return Failed(error)


def watched(wait: Callable[[float], bool], what: Callable[[], str]) -> None:
    """Wait for as long as it takes, and say in the log what for, once a minute.

    Parameters
    ----------
    wait : callable
        Waits for so many seconds at most; returns whether it is over.
    what : callable
        Says what is waited for.
    """
    waited = 0.0
    while not wait(WATCH_SECONDS):
        waited += WATCH_SECONDS
        _log.warning("waiting since %.0f s for %s", waited, what())


def emptied(outcomes: list[Outcome]) -> Iterator[Outcome]:
    """Give the outcomes away one by one, keeping none."""
    left = deque(outcomes)
    outcomes.clear()
    while left:
        yield left.popleft()


def _steps(fetch: Fetch, task: Task) -> list[Step]:
    if len(task) > 1 and isinstance(fetch, LookingAhead):
        return fetch.look_ahead(task)
    return [partial(fetch, request) for request in task]
