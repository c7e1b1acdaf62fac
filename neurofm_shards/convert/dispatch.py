"""Run calls on any executor: checked before the first, bounded in number, done again when their worker is lost.

An executor is a :class:`concurrent.futures.Executor`. What it is asked for beyond that is optional, and found by name:

``shares_memory`` (attribute, False by default)
    Calls run in this process, so nothing is pickled and nothing needs to be compared.
``workers_alive()``
    The number of live workers. A run that had some and has none for a while ends with an error instead of waiting.
``patience_s`` (attribute)
    How long to go on without a live worker, where that is not 10 seconds: a queue may give others, minutes later.
``submit_near(worker, function, ...)``
    As ``submit``, preferably on the worker that :func:`~neurofm_shards._process.worker_name` calls so: it has open what
    the call reads.
``kill_workers()``
    End everything at once; ``shutdown(wait=False, cancel_futures=True)`` is called where it is missing.

A future whose worker was lost fails with :class:`concurrent.futures.BrokenExecutor` or a subclass of it.
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar, cast

from neurofm_shards._process import WatchedTime, host_name
from neurofm_shards._wording import listed
from neurofm_shards.errors import ConfigError, NeurofmShardsError, PluginError, WorkerError, portable
from neurofm_shards.events import CallRetried, Listener, WorkersCounted, ignore
from neurofm_shards.format.dataset_record import versions_of
from neurofm_shards.format.files import write_atomically
from neurofm_shards.plugins.host import ALLOWED_PLUGINS, NO_PLUGINS, PLUGIN_FILES, STRICT_PLUGINS
from neurofm_shards.plugins.registry import registry

T = TypeVar("T")
_Future = Future[Any]
#: Name of an executor, or its configuration with ``kind``; None chooses by the number of workers.
ExecutorChoice = str | Mapping[str, Any] | None
#: Environment variables that decide which plugins a worker finds.
SETTINGS = (ALLOWED_PLUGINS, NO_PLUGINS, PLUGIN_FILES, STRICT_PLUGINS)
#: How many lost workers a call may cost beyond the first.
DEFAULT_RETRIES = 2
_POLL_S = 1.0
_PATIENCE_S = 10.0
_KEPT = "what was written is kept: do the same again with mode='resume'"


@dataclass(frozen=True)
class Call(Generic[T]):
    """A call to run in a worker.

    Attributes
    ----------
    function : callable
        A function of a module.
    arguments : tuple
        Picklable.
    what : str
        What the worker does, for messages: ``"writing shard 3 (a.nwb)"``.
    near : str
        The worker that has open what the call reads, where one is known.
    """

    function: Callable[..., T]
    arguments: tuple[Any, ...]
    what: str
    near: str = ""


@dataclass(frozen=True)
class Answer(Generic[T]):
    """The value of a call, the machine it ran on and how many seconds it took."""

    value: T
    host: str
    seconds: float


#: Answers with the numbers of their calls.
_Answers = list[tuple[int, Answer[T]]]


@dataclass(frozen=True)
class Failure:
    """An error that a call raised in a worker, with its traceback."""

    error: BaseException
    trace: str
    host: str


@dataclass(frozen=True)
class WorkerContext:
    """What a worker must have in common with the program that asks it.

    Attributes
    ----------
    settings : tuple of (str, str)
        Environment variables that decide which plugins are found.
    versions : tuple of (str, str)
        Distributions that take part, plugins included, and their versions.
    """

    settings: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]

    @classmethod
    def of_this_process(cls) -> WorkerContext:
        """Describe this process."""
        settings = tuple((name, os.environ[name]) for name in SETTINGS if name in os.environ)
        return cls(settings, _versions())


def _versions() -> tuple[tuple[str, str], ...]:
    own = versions_of({"neurofm-shards", "numpy"})
    plugins = {plugin.distribution or plugin.name: plugin.version for plugin in registry().plugins if not plugin.error}
    return tuple(sorted({**plugins, **own}.items()))


def run_call(context: WorkerContext, payload: bytes) -> bytes:
    """Run a pickled call in a worker; return the pickled :class:`Answer` or :class:`Failure`.

    The worker must know the plugins before it can unpickle what they made.
    """
    try:
        _prepare(context)
        return pickle.dumps(_run_here(*pickle.loads(payload)))  # noqa: S301  (made by this program a moment ago)
    except Exception as error:  # noqa: BLE001  (raised again where the call was made)
        trace = "".join(traceback.format_exception(error))
        return pickle.dumps(Failure(portable(error), trace, host_name()))


def _run_here(function: Callable[..., T], arguments: tuple[Any, ...]) -> Answer[T]:
    start = time.perf_counter()
    value = function(*arguments)
    return Answer(value, host_name(), time.perf_counter() - start)


@cache
def _prepare(context: WorkerContext) -> None:
    """Adopt the settings of whoever asks, once, and see that the same versions are installed here."""
    for name in SETTINGS:
        os.environ.pop(name, None)
    os.environ.update(context.settings)
    here = dict(_versions())
    wrong = [
        f"{name} is {here.get(name, 'missing')} there and {version} here"
        for name, version in context.versions
        if here.get(name) != version
    ]
    if wrong:
        raise WorkerError(
            f"the worker on {host_name()} cannot take part: {listed(wrong, 3, '; ')}; install the same versions "
            "on all machines"
        )


class Dispatcher:
    """Runs calls on an executor.

    Parameters
    ----------
    make : callable
        Makes the executor; called again when one is broken for good.
    workers : int
        How many calls run at once; twice as many are under way.
    retries : int
        How often a call is done again when its worker was lost.
    listener : Listener
        Told of lost workers, and how many are alive.
    patience_s : float
        How long to go on without a live worker when there were some.

    Attributes
    ----------
    workers : int
    """

    def __init__(
        self,
        make: Callable[[], Executor],
        *,
        workers: int = 1,
        retries: int = DEFAULT_RETRIES,
        listener: Listener = ignore,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._make = make
        self._executor = make()
        self.workers = workers
        self._retries = retries
        self._listener = listener
        self._patience_s = patience_s
        self._alive = _Liveness()
        self._context = WorkerContext.of_this_process()

    @property
    def shares_memory(self) -> bool:
        """Whether calls run in this process."""
        return bool(getattr(self._executor, "shares_memory", False))

    @property
    def knows_workers(self) -> bool:
        """Whether a call can go to the worker that has open what it reads: of one there is no other."""
        return self.workers == 1 or hasattr(self._executor, "submit_near")

    def check(self, folder: Path, *, shared: bool = True) -> None:
        """See that workers have the same versions and, where it is ``shared``, see the output folder.

        Raises
        ------
        WorkerError
            Saying which machine lacks what.
        """
        if self.shares_memory:
            return
        token = secrets.token_hex(16)
        path = folder.absolute() / f".{token}.partial"
        write_atomically(path, [token.encode()])
        try:
            host, seen = next(iter(self.in_order([Call(probe, (str(path), token), "being looked at")])))
        finally:
            path.unlink(missing_ok=True)
        if shared and not seen:
            raise WorkerError(
                f"the worker on {host} does not see the output folder {folder.absolute()}: mount it there, or let "
                "workers write on their own disks and hand shards back, with staging='local'"
            )

    def in_order(self, calls: Iterable[Call[T]]) -> Iterator[T]:
        """Yield the results of calls in their order (raises WorkerError)."""
        early: dict[int, T] = {}
        at = 0
        for answers in self._answers(calls):
            early.update((number, answer.value) for number, answer in answers)
            while at in early:
                yield early.pop(at)
                at += 1

    def as_they_come(self, calls: Iterable[Call[T]]) -> Iterator[list[Answer[T]]]:
        """Yield the answers that have come since the last time, with the host and the seconds of each.

        Raises
        ------
        WorkerError
            Workers were lost more often than a call is retried, or the executor failed.
        """
        for answers in self._answers(calls):
            yield [answer for _, answer in answers]

    def close(self) -> None:
        """Wait for what was submitted, and end the workers."""
        self._executor.shutdown()

    def abandon(self) -> None:
        """End everything at once; what fails at that is logged, since an error is on its way already."""
        try:
            if hasattr(self._executor, "kill_workers"):  # our pool, and Python's own from 3.14 on
                self._executor.kill_workers()
            else:
                self._executor.shutdown(wait=False, cancel_futures=True)
        except Exception:  # an executor of others may raise anything; it must not hide the error that is on its way
            logging.getLogger(__name__).exception("the executor could not be closed")

    def _answers(self, calls: Iterable[Call[T]]) -> Iterator[_Answers[T]]:
        running = _Running[T]()
        for number, call in enumerate(calls):
            self._submit(running, _Attempt(number, call))
            while len(running) >= 2 * max(self.workers, self._alive.count):
                yield from self._collect(running)
        while running:
            yield from self._collect(running)

    def _collect(self, running: _Running[T]) -> Iterator[_Answers[T]]:
        """Wait for calls and yield their answers, before any error is raised that one of them ended with."""
        found: _Answers[T] = []
        failure: Exception | None = None
        for future, attempt in self._wait(running):
            try:
                found += self._settled(running, future, attempt)
            except Exception as error:  # noqa: BLE001, PERF203  (raised below)
                failure = failure or error
        if found:
            yield found
        if failure is not None:
            raise failure

    def _settled(self, running: _Running[T], future: _Future, attempt: _Attempt[T]) -> _Answers[T]:
        """Return the answer of a call that has ended; none where its worker was lost and it is done again."""
        try:
            return [(attempt.number, self._answer(future, attempt.call))]
        except BrokenExecutor as error:
            self._submit(running, self._next(attempt, error))
            return []

    def _answer(self, future: _Future, call: Call[T]) -> Answer[T]:
        if self.shares_memory:
            return cast("Answer[T]", future.result())
        try:
            answer: Answer[T] | Failure = pickle.loads(future.result())  # noqa: S301  (a worker of ours made it)
        except (BrokenExecutor, NeurofmShardsError):
            raise
        except (CancelledError, Exception) as error:
            raise self._failed(call, error) from error
        if isinstance(answer, Failure):
            raise answer.error from WorkerError(f"in a worker on {answer.host}:\n{answer.trace}")
        return answer

    def _submit(self, running: _Running[T], attempt: _Attempt[T]) -> None:
        try:
            future = self._start(attempt.call)
        except BrokenExecutor:  # all of it, not only one worker
            self.abandon()
            self._executor = self._make()
            future = self._start(attempt.call)
        running.add(future, attempt)

    def _start(self, call: Call[T]) -> _Future:
        if self.shares_memory:
            return self._executor.submit(_run_here, call.function, call.arguments)
        try:
            payload = pickle.dumps((call.function, call.arguments))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise PluginError(
                f"a plugin that was registered in code cannot be sent to workers ({error}); define it in a module, or "
                "use one worker"
            ) from error
        try:
            if call.near and hasattr(self._executor, "submit_near"):
                return cast("_Future", self._executor.submit_near(call.near, run_call, self._context, payload))
            return self._executor.submit(run_call, self._context, payload)
        except (BrokenExecutor, NeurofmShardsError):
            raise
        except Exception as error:
            raise self._failed(call, error) from error

    def _next(self, attempt: _Attempt[T], error: BrokenExecutor) -> _Attempt[T]:
        """Return the next attempt at a call whose worker was lost; WorkerError where it has cost enough of them."""
        if attempt.lost >= self._retries:
            times = f", the {attempt.lost + 1}th in turn" if attempt.lost else ""
            raise WorkerError(
                f"a worker process died{times} while {attempt.call.what} (killed, perhaps because memory ran out): "
                f"{error}; {_KEPT}, with fewer workers if memory is short"
            ) from error
        self._listener(CallRetried(attempt.call.what, attempt.lost + 1, str(error)))
        return replace(attempt, lost=attempt.lost + 1)

    def _wait(self, running: _Running[T]) -> list[tuple[_Future, _Attempt[T]]]:
        while True:
            finished = running.finished(_POLL_S)
            self._count_workers()
            if finished:
                return finished

    def _count_workers(self) -> None:
        count = getattr(self._executor, "workers_alive", None)
        if count is None or not self._alive.is_due():
            return
        before = self._alive.count
        gone_s = self._alive.update(count())
        if self._alive.count != before:
            self._listener(WorkersCounted(self._alive.count))
        if gone_s > getattr(self._executor, "patience_s", self._patience_s):
            raise WorkerError(f"no worker is left, for {gone_s:.0f} s; {_KEPT} when there are some again")

    @staticmethod
    def _failed(call: Call[Any], error: BaseException) -> WorkerError:
        return WorkerError(f"the executor failed while {call.what}: {type(error).__name__}: {error}; {_KEPT}")


@dataclass(frozen=True)
class _Attempt(Generic[T]):
    number: int
    call: Call[T]
    lost: int = 0


class _Running(Generic[T]):
    """Attempts that are under way; to learn which have finished costs the same, however many there are."""

    def __init__(self) -> None:
        self._count = 0
        self._finished: SimpleQueue[tuple[_Future, _Attempt[T]]] = SimpleQueue()

    def __len__(self) -> int:
        return self._count

    def add(self, future: _Future, attempt: _Attempt[T]) -> None:
        """Take an attempt in."""
        self._count += 1
        future.add_done_callback(lambda done: self._finished.put((done, attempt)))

    def finished(self, timeout_s: float) -> list[tuple[_Future, _Attempt[T]]]:
        """Wait for the next one to finish; hand over all that have, none when the time is over."""
        try:
            found = [self._finished.get(timeout=timeout_s)]
        except Empty:
            return []
        while not self._finished.empty():
            found.append(self._finished.get())
        self._count -= len(found)
        return found


class _Liveness:
    """How many workers are alive, looked at about once a second."""

    def __init__(self) -> None:
        self.count = 0
        self._had_some = False
        self._looked = float("-inf")
        self._gone = WatchedTime(2 * _POLL_S)

    def is_due(self) -> bool:
        """Return whether it is time to look again."""
        return time.monotonic() - self._looked >= _POLL_S

    def update(self, count: int) -> float:
        """Note the count; return for how many seconds there has been none, 0 where there never was one."""
        self._looked = time.monotonic()
        self.count = count
        self._had_some = self._had_some or count > 0
        return self._gone.look(is_so=self._had_some and not count)


def probe(path: str, token: str) -> tuple[str, bool]:
    """Return the name of this machine, and whether it sees a file with a token in it."""
    try:
        seen = Path(path).read_text() == token
    except OSError:
        seen = False
    return host_name(), seen


@contextmanager
def dispatcher(
    choice: ExecutorChoice, workers: int, *, retries: int = DEFAULT_RETRIES, listener: Listener = ignore
) -> Iterator[Dispatcher]:
    """Give a dispatcher on an executor of the registry.

    When the block is left by an error, calls that are not running are never started, and workers are ended.
    """
    options = executor_options(choice, workers)
    given = options.get("workers", workers)
    made = Dispatcher(
        lambda: registry().executors.make(options),
        workers=given if isinstance(given, int) else workers,
        retries=retries,
        listener=listener,
    )
    try:
        yield made
    except BaseException:
        made.abandon()
        raise
    made.close()


def executor_options(choice: ExecutorChoice, workers: int) -> dict[str, Any]:
    """Return an executor's configuration: this process for one worker, a pool of processes for more, or what is chosen.

    Raises
    ------
    ConfigError
        The number of workers is no positive integer.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, not {workers}")
    if choice is None:
        choice = "serial" if workers == 1 else "processes"
    options = {"kind": choice} if isinstance(choice, str) else dict(choice)
    return {"workers": workers, **options}
