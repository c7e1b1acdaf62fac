"""Workers that are processes, for transforms that hold the GIL; batches come back in reused shared memory."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import recv_handle
from typing import Any, cast

from neurofm_shards.errors import ConfigError, WorkerError
from neurofm_shards.loading.messages import Delivery, Order
from neurofm_shards.loading.process_worker import work
from neurofm_shards.loading.workers.pipeline import Fetch, Outcome, Task, Workers, emptied
from neurofm_shards.loading.workers.shared import unpack
from neurofm_shards.plugins.registry import registry

#: How long a worker that was told to end may take over its current batch, in seconds.
_PATIENCE = 1.0
#: A caller who keeps more batches than this (per worker) gets copies: each slot costs a file descriptor.
_MOST_SLOTS = 32


class _Worker:
    """The parent's side of one worker process."""

    def __init__(self, context: BaseContext, fetch: Fetch, others: list[Connection]) -> None:
        self.connection, theirs = context.Pipe()
        forked = context.get_start_method() == "fork"
        inherited = [*others, self.connection] if forked else []
        prepare = _nothing if forked else partial(_adopt, registry().code_entries())
        make = cast("Callable[..., BaseProcess]", cast("Any", context).Process)
        self.process = make(
            target=work, args=(theirs, inherited, prepare, fetch), name="neurofm-shards loader", daemon=True
        )
        try:
            self.process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self.connection.close()
            raise ConfigError(
                f"the loader cannot be sent to worker processes that are not forked: {error}. Define transforms at the "
                'top level of a module, or use multiprocessing_context="fork" or worker_type="thread"'
            ) from error
        finally:
            theirs.close()
        self.under_way = 0
        self._memory: dict[int, mmap.mmap] = {}
        self._released: deque[int] = deque()

    def send(self, number: int, task: Task, seed: int) -> None:
        """Hand over a task, and the slots that came free."""
        released = tuple(self._released.popleft() for _ in range(len(self._released)))
        self.under_way += 1
        try:
            self.connection.send(Order(number, task, released, seed))
        except OSError as error:  # it closed its end: it is dead, or about to be
            raise self.lost() from error

    def receive(self) -> tuple[int, list[Outcome]]:
        """Take one delivery."""
        try:
            delivery: Delivery = self.connection.recv()
            if delivery.new_size:
                fd = recv_handle(self.connection)
                try:
                    self._memory[delivery.slot] = mmap.mmap(fd, delivery.new_size)
                finally:
                    os.close(fd)
        except (EOFError, ConnectionError) as error:
            raise self.lost() from error
        for slot in delivery.dropped:
            del self._memory[slot]
        self.under_way -= 1
        memory, released = self._memory[delivery.slot], partial(self._released.append, delivery.slot)
        return delivery.number, unpack(memory, delivery.skeleton, released, copy=len(self._memory) > _MOST_SLOTS)

    def lost(self) -> WorkerError:
        """Describe this worker's death."""
        self.process.join(_PATIENCE)
        return WorkerError(
            f"loader process {self.process.pid} {_ending(self.process.exitcode)} while it was making a batch; what was "
            "delivered is not affected. Load the last state to go on, with fewer workers where memory is short"
        )

    def close(self) -> None:
        """Tell the worker to end, by closing the connection."""
        self.connection.close()
        self._memory.clear()

    def join(self) -> None:
        """Wait for the end; a worker that is deep in a transform is killed."""
        self.process.join(_PATIENCE)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.process.close()


def _ending(code: int | None) -> str:
    if code is None:
        return "closed its connection"
    if code >= 0:
        return f"ended by itself with exit code {code}"
    cause = " (the system does that when memory runs out)" if -code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{cause}"


def _nothing() -> None:
    """Prepare nothing: a forked child has its parent's registry."""


def _adopt(entries: list[Any]) -> None:
    """Register in this process what the parent registered in code."""
    registry().adopt(entries)


class ProcessWorkers(Workers):
    """Runs tasks in processes.

    A worker writes a finished batch into anonymous shared memory, and the parent's tensors are views of it. A slot is
    written again only when nobody holds any of its tensors, so a batch that the caller keeps never changes; more slots
    are made as they are needed, and beyond a limit batches are copied instead.

    Parameters
    ----------
    fetch : callable
        Inherited by fork, or pickled.
    count : int
        Number of processes.
    prefetch_factor : int
        Tasks under way per process.
    context : str, multiprocessing context or None
        How processes are started; None is Python's own choice.

    Raises
    ------
    WorkerError
        From any method, when a process died; it says which and how.
    """

    def __init__(
        self, fetch: Fetch, count: int, prefetch_factor: int, context: str | BaseContext | None = None
    ) -> None:
        chosen = multiprocessing.get_context(context) if context is None or isinstance(context, str) else context
        self.slots = count * prefetch_factor
        self._owner = os.getpid()
        self._seed = 0
        self._submitted = 0
        self._waiting: deque[int] = deque()
        self._outcomes: dict[int, list[Outcome]] = {}
        self._workers: list[_Worker] = []
        try:
            for _ in range(count):
                others = [worker.connection for worker in self._workers]
                self._workers.append(_Worker(chosen, fetch, others))
        except BaseException:
            self.close()
            raise

    def begin(self, seed: int) -> None:
        """See :meth:`Workers.begin`."""
        self._seed = seed

    def submit(self, task: Task) -> None:
        """Give the task to the worker that has least to do."""
        worker = min(self._workers, key=lambda worker: worker.under_way)
        worker.send(self._submitted, task, self._seed)
        self._waiting.append(self._submitted)
        self._submitted += 1

    def result(self) -> Iterator[Outcome]:
        """See :meth:`Workers.result`."""
        number = self._waiting[0]
        while number not in self._outcomes:
            self._receive()
        self._waiting.popleft()
        return emptied(self._outcomes.pop(number))

    def _receive(self) -> None:
        """Take what is there, waiting for at least one delivery, or one death."""
        by_connection: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection)):  # a dead worker's connection is readable: it has come to its end
            number, outcomes = by_connection[connection].receive()
            if number in self._waiting:  # else it was cancelled
                self._outcomes[number] = outcomes

    def cancel(self) -> None:
        """See :meth:`Workers.cancel`."""
        self._waiting.clear()
        self._outcomes.clear()

    def close(self) -> None:
        """See :meth:`Workers.close`."""
        workers, self._workers = self._workers, []
        self.cancel()
        if os.getpid() != self._owner:  # a forked child inherits the object but not the processes
            return
        for worker in workers:
            worker.close()
        for worker in workers:
            worker.join()
