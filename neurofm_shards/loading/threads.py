"""Workers that are threads: they share the data set's memory, and their batches are handed over without a copy."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

from neurofm_shards.loading.pipeline import Fetch, Outcome, Task, Workers, emptied, fetch_all


class ThreadWorkers(Workers):
    """Runs tasks in threads, which do well where copying and decompressing release the GIL.

    The threads are those of :class:`concurrent.futures.ThreadPoolExecutor`: the interpreter waits for them before it
    takes itself apart.

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
        self._threads: set[int] = set()
        self._stop = threading.Event()
        self._pending: deque[Future[list[Outcome]]] = deque()
        self._owner = os.getpid()
        self._executor = ThreadPoolExecutor(
            count, thread_name_prefix="neurofm-shards", initializer=_register, initargs=(self._threads,)
        )
        self._start_all(count)

    def _start_all(self, count: int) -> None:
        """Start the threads now, each with one thread of torch's own: together they share the cores already."""
        import torch  # noqa: PLC0415  (loading alone needs torch)

        mine, everyone = torch.get_num_threads(), threading.Barrier(count)
        try:
            wait([self._executor.submit(everyone.wait) for _ in range(count)])
        except BaseException:
            everyone.abort()  # those that have started would wait for the others for ever
            raise
        torch.set_num_threads(mine)  # what a thread sets for itself is also the default for threads to come

    def submit(self, task: Task) -> None:
        """See :meth:`Workers.submit`."""
        self._pending.append(self._executor.submit(fetch_all, self._fetch, task, self._stop.is_set))

    def result(self) -> Iterator[Outcome]:
        """See :meth:`Workers.result`."""
        return emptied(self._pending.popleft().result())

    def cancel(self) -> None:
        """See :meth:`Workers.cancel`."""
        while self._pending:
            self._pending.pop().cancel()

    def close(self) -> None:
        """End the threads and wait for them, unless this is one of them (garbage collection runs anywhere)."""
        if os.getpid() != self._owner:  # a forked child inherits the object but not the threads
            return
        self._stop.set()
        self.cancel()
        self._executor.shutdown(wait=threading.get_ident() not in self._threads)


def _register(threads: set[int]) -> None:
    import torch  # noqa: PLC0415  (loading alone needs torch)

    threads.add(threading.get_ident())
    torch.set_num_threads(1)
