"""Runs calls on any executor: a bounded number at once, results in order or as they come."""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from neurofm_shards.errors import PluginError, WorkerError
from neurofm_shards.plugins.host import ALLOWED_PLUGINS, NO_PLUGINS, PLUGIN_FILES, STRICT_PLUGINS
from neurofm_shards.plugins.registry import registry

T = TypeVar("T")
#: Environment variables that decide which plugins a worker finds.
SETTINGS = (ALLOWED_PLUGINS, NO_PLUGINS, PLUGIN_FILES, STRICT_PLUGINS)


@contextmanager
def make_executor(name: str | None, workers: int) -> Iterator[Executor]:
    """Give an executor from the registry; by default this process for one worker, a pool of processes for more.

    When the block is left by an error, calls that are not running are never started, and worker processes are killed.
    """
    chosen = name or ("serial" if workers <= 1 else "processes")
    executor: Executor = registry().executors.make({"kind": chosen, "workers": max(workers, 1)})
    try:
        yield executor
    except BaseException:
        if hasattr(executor, "kill_workers"):  # process pools have it: ours, and Python's own from 3.14 on
            executor.kill_workers()
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()


def in_order(
    executor: Executor, function: Callable[..., T], calls: Iterable[tuple[Any, ...]], *, limit: int
) -> Iterator[T]:
    """Yield the results of calls in their order, at most ``limit`` of them under way.

    Raises
    ------
    WorkerError
        A worker process was lost.
    """
    waiting: deque[Future[T]] = deque()
    for call in calls:
        waiting.append(_submit(executor, function, call))
        if len(waiting) >= limit:
            yield _result(waiting.popleft())
    while waiting:
        yield _result(waiting.popleft())


def as_they_come(
    executor: Executor, function: Callable[..., T], calls: Iterable[tuple[Any, ...]], *, limit: int
) -> Iterator[T]:
    """Yield results as calls finish, at most ``limit`` of them under way.

    Raises
    ------
    WorkerError
        A worker process was lost.
    """
    running: set[Future[T]] = set()
    for call in calls:
        running.add(_submit(executor, function, call))
        if len(running) >= limit:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from map(_result, done)
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        yield from map(_result, done)


def run_remotely(settings: dict[str, str], payload: bytes) -> Any:
    """Run a pickled call in a worker, which must know the plugins before it can unpickle what they made."""
    for name in SETTINGS:
        os.environ.pop(name, None)
    os.environ.update(settings)
    registry()
    function, arguments = pickle.loads(payload)  # noqa: S301  (made by this program a moment ago)
    return function(*arguments)


def _submit(executor: Executor, function: Callable[..., T], call: tuple[Any, ...]) -> Future[T]:
    settings = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    try:
        payload = pickle.dumps((function, call))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise PluginError(
            f"a plugin that was registered in code cannot be sent to workers ({error}); define it in a module, or use "
            "one worker"
        ) from error
    try:
        return executor.submit(run_remotely, settings, payload)
    except BrokenExecutor as error:
        raise _lost(error) from error


def _result(future: Future[T]) -> T:
    try:
        return future.result()
    except BrokenExecutor as error:
        raise _lost(error) from error


def _lost(error: BaseException) -> WorkerError:
    return WorkerError(
        "a worker process died (killed, perhaps because memory ran out); what was written is kept: run the same "
        f"command with --resume, with fewer --workers if memory is short ({error})"
    )
