"""The built-in executors: in this process, in threads, in processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Literal, TypeVar

from pydantic import Field
from typing_extensions import ParamSpec

from neurofm_shards.convert.process_pool import ProcessPool
from neurofm_shards.plugins.config import PluginConfig

P = ParamSpec("P")
T = TypeVar("T")


class SerialConfig(PluginConfig):
    """Options of the executor ``serial``."""

    kind: Literal["serial"] = "serial"
    workers: int = Field(1, ge=1, le=1, description="always 1")


class ThreadsConfig(PluginConfig):
    """Options of the executor ``threads``."""

    kind: Literal["threads"] = "threads"
    workers: int = Field(2, ge=1, description="number of threads")


class ProcessesConfig(PluginConfig):
    """Options of the executor ``processes``."""

    kind: Literal["processes"] = "processes"
    workers: int = Field(2, ge=1, description="number of processes")
    start: Literal["forkserver", "spawn"] = Field(
        "forkserver", description="how processes start; never plain fork, which would copy open HDF5 handles"
    )


class SerialExecutor(Executor):
    """Runs every call at once, in the caller's thread."""

    def __init__(self, config: SerialConfig) -> None:
        self.config = config

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run the call and return its finished future."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  (kept in the future, as every executor does)
            future.set_exception(error)
        return future


def make_thread_pool(config: ThreadsConfig) -> Executor:
    """Return a pool of threads."""
    return ThreadPoolExecutor(config.workers, thread_name_prefix="neurofm-shards")


def make_process_pool(config: ProcessesConfig) -> Executor:
    """Return a pool of processes."""
    context = multiprocessing.get_context(config.start)
    if config.start == "forkserver":
        context.set_forkserver_preload(["neurofm_shards.convert.work"])
    return ProcessPool(config.workers, context)
