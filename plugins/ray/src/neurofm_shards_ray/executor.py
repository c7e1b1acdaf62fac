"""An executor whose calls are tasks of Ray."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any, TypeVar

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, TaskCancelledError, WorkerCrashedError
from typing_extensions import ParamSpec

from neurofm_shards.errors import ConfigError
from neurofm_shards_ray.config import RayConfig

P = ParamSpec("P")
T = TypeVar("T")
_LOST = (WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError, TaskCancelledError)


class RayExecutor(Executor):
    """Runs calls as tasks of Ray.

    Parameters
    ----------
    config : RayConfig
        Its options.

    Raises
    ------
    ConfigError
        No Ray answers at the address.
    """

    def __init__(self, config: RayConfig) -> None:
        self.patience_s = config.patience_s
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _connect(config)
        self._options: dict[str, Any] = {
            "num_cpus": config.num_cpus,
            "memory": config.memory_bytes,
            "resources": config.resources or None,
            "max_retries": 0,  # the conversion retries, and counts
        }
        self._running: dict[Future[Any], Any] = {}
        self._lock = threading.Lock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Send a call to a worker of Ray."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        reference = ray.remote(fn).options(**self._options).remote(*args, **kwargs)
        with self._lock:
            self._running[future] = reference
        reference.future().add_done_callback(lambda done: self._finish(done, future))
        return future

    def workers_alive(self) -> int:
        """Count the processors of all nodes that are alive."""
        return int(ray.cluster_resources().get("CPU", 0))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what was submitted, or cancel it, and leave Ray; one of our own ends."""
        with self._lock:
            references = list(self._running.values())
        if wait and not cancel_futures and references:
            ray.wait(references, num_returns=len(references))
        else:
            self._cancel(references)
        if self._is_ours:
            ray.shutdown()

    def kill_workers(self) -> None:
        """Cancel everything, whatever it is doing, and leave Ray."""
        self.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _cancel(references: list[Any]) -> None:
        for reference in references:
            ray.cancel(reference, force=True)

    def _finish(self, done: Future[Any], future: Future[Any]) -> None:
        with self._lock:
            self._running.pop(future, None)
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        else:
            future.set_exception(BrokenExecutor(_said(error)) if isinstance(error, _LOST) else error)


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _check_answers(config: RayConfig) -> None:
    """See that somebody answers at an address: Ray itself tries for minutes."""
    host, colon, port = (config.address or "").rpartition("://")[2].rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=config.connect_timeout_s).close()
    except OSError as error:
        raise ConfigError(f"no Ray answers at {config.address}: {error}; start one, or leave address out") from error


def _connect(config: RayConfig) -> None:
    _check_answers(config)
    local = {"num_cpus": config.workers, "include_dashboard": False} if config.address is None else {}
    try:
        ray.init(
            address=config.address,
            runtime_env=config.runtime_env or None,
            log_to_driver=False,
            configure_logging=False,
            **local,
        )
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"no Ray answers at {config.address}: {error}; start one, or leave address out") from error
