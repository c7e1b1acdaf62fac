"""Workers that are threads: they share the data set's memory, and their batches are handed over without a copy."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from functools import partial
from queue import SimpleQueue

import numpy.ma  # noqa: F401  (np.unique imports it when first called; a fork beside an import hangs in the child)

from neurofm_shards._process import after_fork
from neurofm_shards.errors import ClosedError
from neurofm_shards.loading.workers.fork_gate import GATE
from neurofm_shards.loading.workers.pipeline import Fetch, Outcome, Task, Workers, emptied, fetch_all, watched


class ThreadWorkers(Workers):
    """Runs tasks in threads, which do well where copying and decompressing release the GIL.

    A queue and a lock per task hand them over: futures hold the GIL for as long as a small batch takes to make.

    Parameters
    ----------
    fetch : callable
        Called by several threads at once.
    count : int
        Number of threads.
    prefetch_factor : int
        Tasks under way per thread.
    """

    def __init__(self, fetch: Fetch, count: int, prefetch_factor: int) -> None:
        self.slots = count * prefetch_factor
        self._fetch = fetch
        self._pending: deque[_Handed] = deque()
        self._pool = _ThreadPool()
        weakref.finalize(self, self._pool.stop).atexit = False  # forgotten: they end, and nobody waits for them
        self._pool.start(count)

    def submit(self, task: Task) -> None:
        """See :meth:`Workers.submit`."""
        handed = _Handed(self._fetch, task)
        self._pool.take(handed)
        self._pending.append(handed)

    def result(self) -> Iterator[Outcome]:
        """See :meth:`Workers.result`."""
        return emptied(self._pending.popleft().result())

    def cancel(self) -> None:
        """See :meth:`Workers.cancel`."""
        while self._pending:
            self._pending.pop().cancelled = True

    def close(self) -> None:
        """End the threads and wait for them, unless this is one of them (garbage collection runs anywhere)."""
        self.cancel()
        self._pool.close()


class _Handed:
    """A task on its way to a thread and back."""

    def __init__(self, fetch: Fetch, task: Task) -> None:
        self.cancelled = False
        self._fetch = fetch
        self._task = task
        self._outcomes: list[Outcome] = []
        self._error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def run(self, stop: threading.Event) -> None:
        """Do it, in the thread that took it."""
        try:
            if not self.cancelled:
                with GATE.task():
                    self._outcomes = fetch_all(self._fetch, self._task, stop.is_set)
        except BaseException as error:  # noqa: BLE001  (raised again where the result is waited for)
            self._error = error
        self._done.release()

    def result(self) -> list[Outcome]:
        """Wait for it."""
        watched(lambda seconds: self._done.acquire(timeout=seconds), self._description)
        if self._error is not None:
            raise self._error
        return self._outcomes

    def _description(self) -> str:
        position = self._task[0].position_after
        return f"a thread that makes the batch before position {position:,}: reading it, or a transform"


class _ThreadPool:
    """The threads of one :class:`ThreadWorkers`; they keep alive neither it nor, between tasks, what it works for."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[_Handed | None] = SimpleQueue()
        self._stopped = threading.Event()
        self._lock = threading.RLock()  # garbage collection, which may stop them, runs anywhere
        self._threads: list[threading.Thread] = []
        after_fork(self._forget_threads)

    def start(self, count: int) -> None:
        """Start the threads now, each with one thread of torch's own: together they share the cores already."""
        import torch  # noqa: PLC0415  (loading alone needs torch)

        mine, ready = torch.get_num_threads(), threading.Semaphore(0)
        _pools.append(self)
        try:
            for i in range(count):
                # the interpreter would wait for others for ever, before anybody could tell them to end
                thread = threading.Thread(target=self._work, args=(ready,), name=f"neurofm-shards_{i}", daemon=True)
                thread.start()
                self._threads.append(thread)
        except BaseException:
            self.stop()
            raise
        for _ in range(count):
            ready.acquire()
        torch.set_num_threads(mine)  # what a thread sets for itself is also the default for threads to come

    def take(self, handed: _Handed) -> None:
        """Let the next thread that is free do this."""
        with self._lock:  # nothing comes behind the last word
            if self._stopped.is_set():
                raise ClosedError("these workers were ended: iterate over the loader again")
            self._waiting.put(handed)

    def _work(self, ready: threading.Semaphore) -> None:
        import torch  # noqa: PLC0415  (loading alone needs torch)

        torch.set_num_threads(1)
        ready.release()
        while (handed := self._waiting.get()) is not None:
            handed.run(self._stopped)
            del handed  # a thread that waits for the next one keeps no batch alive

    def stop(self) -> None:
        """Tell the threads to end."""
        with self._lock:
            self._stopped.set()
            for _ in self._threads:
                self._waiting.put(None)

    def close(self) -> None:
        """End the threads and wait for them."""
        self.stop()
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                watched(partial(_joined, thread), f"the thread {thread.name} to end its batch".__str__)
        _forget_the_ended()

    def _forget_threads(self) -> None:
        self._stopped.set()  # a forked child inherits the object but not the threads
        self._threads = []

    @property
    def ended(self) -> bool:
        """Whether no thread is left."""
        return not any(thread.is_alive() for thread in self._threads)


def _joined(thread: threading.Thread, seconds: float) -> bool:
    thread.join(seconds)
    return not thread.is_alive()


#: All that have threads left. A thread must not run when the interpreter takes itself apart.
_pools: list[_ThreadPool] = []


def _forget_the_ended() -> None:
    _pools[:] = [pool for pool in _pools if not pool.ended]


@atexit.register
def _close_all() -> None:
    for pool in tuple(_pools):
        pool.close()
