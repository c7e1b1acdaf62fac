"""The built-in executors: in this process, in threads, and in processes of which any may be killed at any moment."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, Literal, TypeVar, cast

from pydantic import Field
from typing_extensions import ParamSpec

from neurofm_shards._process import host_name, prepare_forkserver, worker_name
from neurofm_shards.convert.input_reader import worker_reader
from neurofm_shards.errors import ConfigError, WorkerError, portable
from neurofm_shards.plugins.interfaces import PluginConfig

P = ParamSpec("P")
T = TypeVar("T")

#: How long a process that is ending may take, in seconds.
_PATIENCE_S = 1.0


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

    shares_memory = True

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

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002  (nothing is waited for)
        """Close the inputs that calls have left open in this thread."""
        worker_reader().close()


class ThreadPool(ThreadPoolExecutor):
    """Runs calls in threads."""

    shares_memory = True


def make_thread_pool(config: ThreadsConfig) -> Executor:
    """Return a pool of threads."""
    return ThreadPool(config.workers, thread_name_prefix="neurofm-shards")


def make_process_pool(config: ProcessesConfig) -> Executor:
    """Return a pool of processes; of threads in a daemonic process, which may not start others."""
    if multiprocessing.current_process().daemon:
        return make_thread_pool(ThreadsConfig(workers=config.workers))
    if config.start == "forkserver":
        prepare_forkserver()
    return ProcessPool(config.workers, multiprocessing.get_context(config.start))


class LostWorkerError(BrokenExecutor):
    """The worker that ran a call died, or could not be started; other calls are not concerned."""


@dataclass(frozen=True)
class _Waiting:
    """A pickled call that no worker has taken, and the worker that would do it quickest."""

    call: bytes
    near: str
    future: Future[Any] = field(default_factory=Future)


class ProcessPool(Executor):
    """Runs calls in processes that die with this one and leave Ctrl-C to it.

    The workers of :class:`concurrent.futures.ProcessPoolExecutor` share two pipes and the locks on them. One that is
    killed while it holds a lock, or has written half of a message, leaves the others and the program waiting for ever;
    so does one that starts while another is found dead. Here every worker has a pipe of its own and a thread that waits
    for it alone: when it dies, its call fails with :class:`LostWorkerError`, the others go on, and the next call starts
    another.

    Calls may start threads and programs, but no :mod:`multiprocessing` processes: the workers are daemons, which end
    with the program.

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
        self._waiting: list[_Waiting] = []
        self._killed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a call, which is pickled now."""
        return self.submit_near("", fn, *args, **kwargs)

    def submit_near(self, worker: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a call on the worker of this name, as :func:`~neurofm_shards._process.worker_name` gives it there.

        Another one takes it when it has nothing else to do.
        """
        waiting = _Waiting(pickle.dumps((fn, args, kwargs)), worker)
        with self._lock:
            self._threads.submit(self._run_one)
            self._waiting.append(waiting)
        return waiting.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers when what was submitted is finished."""
        self._threads.shutdown(wait=False)
        if cancel_futures:
            with self._lock:
                given_up, self._waiting = self._waiting, []
            for waiting in given_up:
                waiting.future.cancel()
        if wait:
            self._end()
        else:
            threading.Thread(target=self._end, name="neurofm-shards ending").start()

    def kill_workers(self) -> None:
        """End the workers at once, whatever they are doing (the name is that of Python 3.14's process pool)."""
        with self._lock:
            self._killed = True
            for worker in self._workers:
                worker.kill()
        self.shutdown(cancel_futures=True)

    def workers_alive(self) -> int:
        """Count the processes that have started and not died."""
        with self._lock:
            return len(self._workers)

    def _end(self) -> None:
        self._threads.shutdown()
        for worker in self._workers:
            worker.close()

    def _run_one(self) -> None:
        """Run one of the calls that wait, of which there are as many as runs of this method to come."""
        waiting = self._take()
        if waiting is None or not waiting.future.set_running_or_notify_cancel():
            return
        try:
            result = self._run(waiting.call)
        except BaseException as error:  # noqa: BLE001  (kept in the future, as every executor does)
            waiting.future.set_exception(error)
        else:
            waiting.future.set_result(result)

    def _take(self) -> _Waiting | None:
        """Take a call that this thread's worker is near to; else one that no other is near to; else the last."""
        with self._lock:
            if not self._waiting:
                return None
            mine: _Worker | None = getattr(self._mine, "worker", None)
            others = {worker.name for worker in self._workers if worker is not mine}
            ranks = [
                (0 if mine is not None and waiting.near == mine.name else 2 if waiting.near in others else 1, number)
                for number, waiting in enumerate(self._waiting)
            ]
            rank, first = min(ranks)
            return self._waiting.pop(-1 if rank == 2 else first)

    def _run(self, call: bytes) -> Any:
        worker = self._worker()
        try:
            return worker.run(call)
        except LostWorkerError:
            self._forget(worker)
            raise

    def _worker(self) -> _Worker:
        """Return the worker of this thread."""
        with self._lock:
            if self._killed:
                raise LostWorkerError("the pool was closed")
            worker: _Worker | None = getattr(self._mine, "worker", None)
            if worker is None:
                worker = self._mine.worker = _Worker(self._context)
                self._workers.append(worker)
            return worker

    def _forget(self, worker: _Worker) -> None:
        with self._lock:
            self._workers.remove(worker)
            self._mine.worker = None
        worker.kill()
        worker.close()


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
            raise LostWorkerError(f"a worker process could not be started: {error}") from error
        finally:
            theirs.close()
        self.name = worker_name(self._process.pid)
        self._started = False

    def run(self, call: bytes) -> Any:
        """Let it run a pickled call; return what the call returned, or raise what it raised."""
        self._await_start()
        try:
            self._connection.send_bytes(call)
            ready = wait([self._connection, self._process.sentinel])
            answer = self._connection.recv_bytes() if self._connection in ready else b""
        except (EOFError, OSError):
            answer = b""
        if not answer:
            raise LostWorkerError(self._ending())
        value, error, trace = pickle.loads(answer)  # noqa: S301  (made by this program a moment ago)
        if error is not None:
            raise error from WorkerError(f"in a worker process:\n{trace}")
        return value

    def _await_start(self) -> None:
        """Wait until it has run what multiprocessing runs first: the program's main module."""
        if self._started:
            return
        with contextlib.suppress(EOFError, OSError):
            self._started = bool(self._connection.recv_bytes())
        if self._started:
            return
        self._process.join(_PATIENCE_S)
        if self._process.exitcode is None or self._process.exitcode <= 0:
            raise LostWorkerError(self._ending())
        raise ConfigError(
            "worker processes cannot start: each runs the main module of this program first, and that ended with exit "
            f"code {self._process.exitcode} (the error is above). Put what starts a conversion under "
            '`if __name__ == "__main__":`, in a file rather than on standard input, or use workers=1 or '
            'executor={"kind": "threads", "workers": ...}'
        )

    def _ending(self) -> str:
        self._process.join(_PATIENCE_S)
        code = self._process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return f"process {self._process.pid} on {host_name()}: {how}"

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
        connection.send_bytes(b"started")
        while True:
            connection.send_bytes(_answer(connection.recv_bytes()))


def _die_with_parent() -> None:
    # without this, a call that is under way would go on writing next to the run that takes a killed one's place
    parent: Any = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _answer(call: bytes) -> bytes:
    """Run a call; return its pickled (value, error, traceback)."""
    try:
        function, args, kwargs = pickle.loads(call)  # noqa: S301  (made by this program a moment ago)
        return pickle.dumps((function(*args, **kwargs), None, ""))
    except BaseException as error:  # noqa: BLE001  (raised again in the parent)
        return pickle.dumps((None, portable(error), "".join(traceback.format_exception(error))))
