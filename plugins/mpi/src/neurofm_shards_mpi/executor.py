"""An executor whose workers are MPI processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from mpi4py import MPI
from mpi4py.futures import MPIPoolExecutor
from typing_extensions import ParamSpec

from neurofm_shards_mpi.config import MPIConfig

P = ParamSpec("P")
T = TypeVar("T")
_GRACE_S = 2.0


class MPIExecutor(Executor):
    """Runs calls in MPI processes, by :class:`mpi4py.futures.MPIPoolExecutor`.

    Under ``mpiexec -n N python -m mpi4py.futures -m neurofm_shards ...`` the other ``N - 1`` processes are the workers;
    elsewhere they are spawned. MPI ends all processes when one dies: the conversion is resumed with ``--resume``.

    Parameters
    ----------
    config : MPIConfig
        Its options.
    """

    def __init__(self, config: MPIConfig) -> None:
        self._pool: Any = MPIPoolExecutor(max_workers=config.workers)
        self._pool.bootup(wait=True)
        self._running: set[Future[Any]] = set()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Send a call to a process."""
        future: Future[T] = self._pool.submit(fn, *args, **kwargs)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def workers_alive(self) -> int:
        """Count the processes, which live and die together."""
        return int(self._pool.num_workers)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what was submitted, or cancel it, and end the processes."""
        self._pool.shutdown(wait=wait, cancel_futures=cancel_futures)

    def kill_workers(self) -> None:
        """Cancel what is queued; calls that are under way then end with the program, by ``MPI_Abort``."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._running:
            threading.Thread(target=self._abort_after_program, name="neurofm-shards MPI", daemon=True).start()

    def _abort_after_program(self) -> None:
        threading.main_thread().join()
        time.sleep(_GRACE_S)  # what the program prints at its end
        if self._running:
            MPI.COMM_WORLD.Abort(1)
