"""An executor whose calls are tasks of a Dask cluster."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any, TypeVar

from distributed import Client, KilledWorker
from typing_extensions import ParamSpec

from neurofm_shards.errors import ConfigError
from neurofm_shards_dask.config import DaskConfig

P = ParamSpec("P")
T = TypeVar("T")
#: How long to go on without a worker: where those that died are started again, and elsewhere.
_RESTART_S, _GONE_S = 30.0, 10.0
_LOST = "the task was cancelled, or the connection to the scheduler was lost"


class DaskExecutor(Executor):
    """Runs calls on a Dask cluster.

    Dask itself moves the tasks of a worker that died to others. One that has killed several workers fails with
    :class:`distributed.KilledWorker`, which becomes :class:`concurrent.futures.BrokenExecutor`.

    Parameters
    ----------
    config : DaskConfig
        Its options.

    Raises
    ------
    ConfigError
        No scheduler answers.
    """

    def __init__(self, config: DaskConfig) -> None:
        self._client = _connected(config)
        self.patience_s = config.patience_s or (_RESTART_S if self._client.cluster is not None else _GONE_S)
        self._running: set[Any] = set()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Send a call to the cluster."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        try:
            task = self._client.submit(fn, *args, **kwargs, pure=False, retries=0)
        except Exception:
            if self._client.status != "closed":
                raise
            future.set_exception(BrokenExecutor(_LOST))  # the client gave the scheduler up
            return future
        self._running.add(task)
        task.add_done_callback(lambda done: self._finish(done, future))
        return future

    def workers_alive(self) -> int:
        """Count the workers that the scheduler knows; none when it is gone itself."""
        return len(self._client.scheduler_info(n_workers=-1).get("workers", {}))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what was submitted, or cancel it, and leave the cluster; one of our own ends."""
        if wait and not cancel_futures:
            for task in list(self._running):
                task.exception()
        else:
            self._client.cancel(list(self._running), force=True)
        self._client.close()

    def kill_workers(self) -> None:
        """Cancel everything and leave the cluster; processes of our own are ended, whatever they do."""
        if self._client.status == "running":  # it is not when the scheduler is gone
            self._client.cancel(list(self._running), force=True)
        cluster = self._client.cluster
        if cluster is not None:
            for nanny in cluster.workers.values():  # it waits for what its worker is doing, unless there is none
                nanny.auto_restart = False
                if nanny.pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(nanny.pid, signal.SIGKILL)
        self._client.close(timeout=5)

    def _finish(self, task: Any, future: Future[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            future.set_exception(BrokenExecutor(_LOST))
            return
        error = task.exception()
        if error is None:
            future.set_result(task.result())
        else:
            future.set_exception(BrokenExecutor(str(error)) if isinstance(error, KilledWorker) else error)
        task.release()


def _connected(config: DaskConfig) -> Any:
    connect: Any = Client  # distributed has no types for its calls
    if config.address is None and config.scheduler_file is None:
        return connect(
            n_workers=config.workers,
            threads_per_worker=1,  # HDF5 takes one thread at a time
            processes=True,
            dashboard_address=None,
            set_as_default=False,
        )
    try:
        return connect(
            config.address,
            scheduler_file=config.scheduler_file,
            timeout=config.connect_timeout_s,
            set_as_default=False,
        )
    except (OSError, ValueError) as error:
        where = config.address or config.scheduler_file
        raise ConfigError(f"no Dask scheduler answers at {where}: {error}; start one, or leave address out") from error
