"""The built-in executors (serial, threads, processes), and running a bounded number of calls on any executor."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, Literal, TypeVar, cast

from pydantic import Field
from typing_extensions import ParamSpec

from neurofm_shards.errors import PluginError, WorkerError, portable
from neurofm_shards.plugins.host import ALLOWED_PLUGINS, NO_PLUGINS, PLUGIN_FILES, STRICT_PLUGINS
from neurofm_shards.plugins.interfaces import PluginConfig
from neurofm_shards.plugins.registry import registry

P = ParamSpec("P")
T = TypeVar("T")


class ProcessPool(Executor):
    """Runs calls in processes that die with this one and leave Ctrl-C to it; nobody waits for a worker that was killed.

    The workers of :class:`concurrent.futures.ProcessPoolExecutor` share two pipes and the locks on them. One that is
    killed while it holds a lock, or has written half of a message, leaves the others and the program waiting for ever;
    so does one that starts while another is found dead. Here every worker has a pipe of its own and a thread that
    waits for it alone.

    Once a worker has died, every call that is not finished fails with
    :class:`~concurrent.futures.process.BrokenProcessPool`, and the other workers are killed. Calls may start threads
    and programs, but no :mod:`multiprocessing` processes: the workers are daemons, which end with the program.

    Parameters
    ----------
    workers : int
        Number of processes; each starts when there is work for it.
    context : multiprocessing context
        How they start.
    """

    def __init__(self, workers: int, context: BaseContext) -> None:
        self._context = context
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="neurofm-shards")
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._broken = ""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a call, which is pickled now."""
        if self._broken:
            raise BrokenProcessPool(self._broken)
        return self._threads.submit(self._run, pickle.dumps((fn, args, kwargs)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers when what was submitted is finished."""
        self._threads.shutdown(wait=False, cancel_futures=cancel_futures)
        if wait:
            self._end()
        else:
            threading.Thread(target=self._end, name="neurofm-shards ending").start()

    def kill_workers(self) -> None:
        """End the workers at once, whatever they are doing (the name is that of Python 3.14's process pool)."""
        self._break("the pool was closed")
        self.shutdown(cancel_futures=True)

    def _end(self) -> None:
        self._threads.shutdown()
        for worker in self._workers:
            worker.close()

    def _run(self, call: bytes) -> Any:
        try:
            return self._worker().run(call)
        except _LostError as lost:
            self._break(str(lost))
            raise BrokenProcessPool(self._broken) from None

    def _worker(self) -> _Worker:
        """Return the worker of this thread."""
        with self._lock:
            if self._broken:
                raise BrokenProcessPool(self._broken)
            worker: _Worker | None = getattr(self._mine, "worker", None)
            if worker is None:
                worker = self._mine.worker = _Worker(self._context)
                self._workers.append(worker)
            return worker

    def _break(self, why: str) -> None:
        with self._lock:
            if not self._broken:  # what follows from the first death is no news
                self._broken = why
            for worker in self._workers:
                worker.kill()


class _LostError(Exception):
    """A worker is gone, or could not be started."""


class _Worker:
    """The parent's side of one process."""

    def __init__(self, context: BaseContext) -> None:
        self._connection, theirs = context.Pipe()
        make = cast("Callable[..., BaseProcess]", cast("Any", context).Process)
        self._process = make(target=_serve, args=(theirs,), name="neurofm-shards conversion", daemon=True)
        try:
            self._process.start()
        except (OSError, EOFError) as error:
            self._connection.close()
            raise _LostError(f"a worker process could not be started: {error}") from error
        finally:
            theirs.close()

    def run(self, call: bytes) -> Any:
        """Let it run a pickled call; return what the call returned, or raise what it raised."""
        try:
            self._connection.send_bytes(call)
            ready = wait_for_any([self._connection, self._process.sentinel])
            answer = self._connection.recv_bytes() if self._connection in ready else b""
        except (EOFError, OSError):
            answer = b""
        if not answer:
            raise _LostError(self._ending())
        value, error, trace = pickle.loads(answer)  # noqa: S301  (made by this program a moment ago)
        if error is not None:
            raise error from WorkerError(f"in a worker process:\n{trace}")
        return value

    def _ending(self) -> str:
        self._process.join(1)
        code = self._process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return f"process {self._process.pid}: {how}"

    def kill(self) -> None:
        """Kill it; its thread takes note."""
        self._process.kill()

    def close(self) -> None:
        """Tell it to end, by closing the connection, and wait for that."""
        self._connection.close()
        self._process.join()


def _serve(connection: Connection) -> None:
    """Run calls until the parent closes the connection or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, name="neurofm-shards parent watch", daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send_bytes(_answer(connection.recv_bytes()))


def _die_with_parent() -> None:
    # without this, a call that is under way would go on writing next to the run that takes a killed one's place
    parent: Any = multiprocessing.parent_process()
    if parent is not None:
        wait_for_any([parent.sentinel])
        os._exit(1)


def _answer(call: bytes) -> bytes:
    """Run a call; return its pickled (value, error, traceback)."""
    try:
        function, args, kwargs = pickle.loads(call)  # noqa: S301  (made by this program a moment ago)
        return pickle.dumps((function(*args, **kwargs), None, ""))
    except BaseException as error:  # noqa: BLE001  (raised again in the parent)
        return pickle.dumps((None, portable(error), "".join(traceback.format_exception(error))))


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
