"""Worker processes, for transforms that hold the GIL; batches come back in reused shared memory."""

from __future__ import annotations

import ctypes
import logging
import mmap
import multiprocessing
import os
import pickle
import random
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, cast

import numpy as np

from neurofm_shards._process import after_fork
from neurofm_shards.errors import ConfigError, WorkerError, portable
from neurofm_shards.loading.order.bijection import derive_key
from neurofm_shards.loading.plans.plan import Request
from neurofm_shards.loading.workers.fork_gate import GATE, PATIENCE
from neurofm_shards.loading.workers.pipeline import (
    WATCH_SECONDS,
    Failed,
    Fetch,
    Fetched,
    Outcome,
    Task,
    Workers,
    emptied,
    fetch_all,
)
from neurofm_shards.loading.workers.shared import Packed, anonymous_memory, pack, unpack
from neurofm_shards.plugins.registry import registry

_log = logging.getLogger("neurofm_shards.loading")

_PR_SET_PDEATHSIG = 1
#: How long a forked process may take to begin, in seconds.
START_SECONDS = 60.0
#: How often an idle worker looks whether its parent is still there, in seconds.
_WATCH_SECONDS = 2.0
#: Slots are a little larger than what they are made for, so that batches of nearly equal size share them.
_ROUND_TO = 1 << 16
#: How long a worker that was told to end may take over its current batch, in seconds.
_PATIENCE = 1.0
#: A caller who keeps more batches than this (per worker) gets copies: each slot costs a file descriptor.
_MOST_SLOTS = 32


@dataclass(frozen=True)
class FetchRequest:
    """Parent to worker: fetch these batches.

    Attributes
    ----------
    number : int
        Counts all tasks of a pool.
    task : list of Request
        What to fetch.
    released : tuple of int
        Slots of this worker that may be written to again.
    seed : int
        What random numbers start from, together with each batch's position.
    """

    number: int
    task: list[Request]
    released: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Delivery:
    """Worker to parent: the outcomes of a task lie in a slot.

    Attributes
    ----------
    number : int
        The request's number.
    slot : int
        Which slot of this worker.
    skeleton : (int, int)
        Where in the slot; see :func:`neurofm_shards.loading.workers.shared.unpack`.
    new_size : int
        Size of the slot where it is a new one, whose descriptor follows this message; else 0.
    dropped : tuple of int
        Slots that the worker gave up.
    """

    number: int
    slot: int
    skeleton: tuple[int, int]
    new_size: int
    dropped: tuple[int, ...]


class Slots:
    """The shared memory of one worker: a slot is written again once the parent says that nobody holds its tensors."""

    def __init__(self) -> None:
        self._memory: dict[int, mmap.mmap] = {}
        self._free: set[int] = set()
        self._made = 0

    def release(self, slots: Sequence[int]) -> None:
        """Take slots back."""
        self._free.update(slots)

    def place(self, packed: Packed) -> tuple[int, int, int, tuple[int, ...]]:
        """Return a slot that is large enough, its new size and descriptor (or 0 and -1), and the slots given up."""
        fitting = [slot for slot in self._free if len(self._memory[slot]) >= packed.size]
        if fitting:
            slot = min(fitting, key=lambda slot: len(self._memory[slot]))
            self._free.remove(slot)
            return slot, 0, -1, ()
        dropped = tuple(self._free)  # all are too small by now
        for slot in dropped:
            del self._memory[slot]
        self._free.clear()
        size = -(-(packed.size + packed.size // 8 + 1) // _ROUND_TO) * _ROUND_TO
        self._made += 1
        self._memory[self._made], fd = anonymous_memory(size)
        return self._made, size, fd, dropped

    def __getitem__(self, slot: int) -> mmap.mmap:
        return self._memory[slot]


@dataclass(frozen=True)
class Start:
    """What a worker process does first.

    Attributes
    ----------
    inherited : tuple of Connection
        The parent's ends of connections, which a forked child holds too; it closes them, so that the parent's end is
        felt.
    entries : tuple
        What was registered in code in the parent; a forked child has it already.
    dies_with : int or None
        The process with which the system is to end this one, whatever it is doing then.
    """

    inherited: tuple[Connection, ...] = ()
    entries: tuple[Any, ...] = ()
    dies_with: int | None = None

    def __call__(self) -> None:
        """Do it."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
        for number in (signal.SIGTERM, signal.SIGUSR1):  # the parent's handlers write the parent's checkpoints
            signal.signal(number, signal.SIG_DFL)
        if self.dies_with is not None:
            _die_with(self.dies_with)
        for other in self.inherited:
            other.close()
        _one_torch_thread()
        if self.entries:
            registry().adopt(list(self.entries))


def _die_with(parent: int) -> None:
    """Let the system kill this process when the thread that started it ends, which has to be a main thread."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)


def work(connection: Connection, start: Start, fetch: Fetch) -> None:
    """Serve requests until the parent closes the connection or dies.

    Parameters
    ----------
    connection : Connection
        To the parent.
    start : Start
        Called once, first.
    fetch : callable
        Makes the batches. Random numbers of Python, numpy and torch are seeded anew for each of them, from its
        request's seed and its position.
    """
    start()
    _seed(0)  # takes the locks that seeding takes: where it cannot have them, the parent hears of no start
    parent, slots = os.getppid(), Slots()
    with suppress(OSError):  # the parent is gone; the next poll says so too
        connection.send(None)
    while (wanted := _next_request(connection, parent)) is not None:
        slots.release(wanted.released)
        outcomes = fetch_all(_Seeded(fetch, wanted.seed), wanted.task)
        _deliver(connection, slots, wanted.number, outcomes)


def _next_request(connection: Connection, parent: int) -> FetchRequest | None:
    try:
        while not connection.poll(_WATCH_SECONDS):
            if os.getppid() != parent:
                return None
        wanted: FetchRequest = connection.recv()
    except (EOFError, OSError):  # the parent closed its end, or died
        return None
    return wanted


def _deliver(connection: Connection, slots: Slots, number: int, outcomes: list[Outcome]) -> None:
    packed = _packed(outcomes)
    slot, size, fd, dropped = slots.place(packed)
    try:
        delivery = Delivery(number, slot, packed.write(slots[slot]), size, dropped)
        connection.send(delivery)
        if size:
            _send_descriptor(connection, fd)
    except OSError:  # the parent is gone; the next poll says so too
        return
    finally:
        if fd >= 0:
            os.close(fd)


# Those of multiprocessing.reduction wait for an answer on some platforms and versions, for which a task is taken here.
def _send_descriptor(connection: Connection, fd: int) -> None:
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as pair:
        socket.send_fds(pair, [b"\0"], [fd])


def _take_descriptor(connection: Connection) -> int:
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as pair:
        _, descriptors, _, _ = socket.recv_fds(pair, 1, 1)
    if not descriptors:
        raise EOFError
    return descriptors[0]


def _packed(outcomes: list[Outcome]) -> Packed:
    """Pack what a task gave; what cannot be pickled becomes an error that says so."""
    try:
        return pack([_portable(outcome) for outcome in outcomes])
    except Exception as error:  # noqa: BLE001  (pickling runs code of any kind)
        text = f"a batch cannot be handed from a worker process to its parent ({type(error).__name__}: {error})"
        advice = 'return tensors, arrays and plain values from transforms, or use worker_type="thread"'
        return pack([Failed(WorkerError(f"{text}: {advice}"))])


def _portable(outcome: Outcome) -> Outcome:
    """Make sure that an error survives the journey with its own type and message."""
    if isinstance(outcome, Fetched):
        return outcome
    trace = "".join(traceback.format_exception(outcome.error))
    return Failed(portable(outcome.error), trace)


def _one_torch_thread() -> None:
    """Keep torch to one thread: a forked child must not use its parent's, and workers share the cores."""
    import torch  # noqa: PLC0415  (loading alone needs torch)

    torch.set_num_threads(1)


class _Seeded:
    """A fetch whose random numbers depend on the batch alone, not on which worker makes it."""

    def __init__(self, fetch: Fetch, seed: int) -> None:
        self._fetch = fetch
        self._seed = seed

    def __call__(self, request: Request) -> Fetched:
        _seed(derive_key("workers", self._seed, request.position_after) & 0xFFFF_FFFF)
        return self._fetch(request)


def _seed(number: int) -> None:
    import torch  # noqa: PLC0415  (loading alone needs torch)

    random.seed(number)
    np.random.seed(number)  # noqa: NPY002  (what transforms use is not ours to choose)
    torch.manual_seed(number)


class _Worker:
    """The parent's side of one worker process."""

    def __init__(self, context: BaseContext, fetch: Fetch, others: list[Connection]) -> None:
        self.connection, theirs = context.Pipe()
        self._forked = context.get_start_method() == "fork"
        start = self._start(context, (*others, self.connection))
        make = cast("Callable[..., BaseProcess]", cast("Any", context).Process)
        self.process = make(target=work, args=(theirs, start, fetch), name="neurofm-shards loader", daemon=True)
        try:
            self.process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self.connection.close()
            raise ConfigError(
                f"the loader cannot be sent to worker processes that are not forked: {error}. Define transforms at the "
                'top level of a module, or use multiprocessing_context="fork" or worker_type="thread"'
            ) from error
        finally:
            theirs.close()
        self.started = False
        self.under_way: deque[Task] = deque()
        self._memory: dict[int, mmap.mmap] = {}
        self._released: deque[int] = deque()

    def _start(self, context: BaseContext, connections: tuple[Connection, ...]) -> Start:
        # a process that is started by another thread would end with that thread, one of a server's with the server
        by_system = sys.platform == "linux" and context.get_start_method() != "forkserver"
        parent = os.getpid() if by_system and threading.current_thread() is threading.main_thread() else None
        if self._forked:
            return Start(connections, (), parent)
        return Start((), tuple(registry().code_entries()), parent)

    def send(self, number: int, task: Task, seed: int) -> None:
        """Hand over a task, and the slots that came free."""
        released = tuple(self._released.popleft() for _ in range(len(self._released)))
        self.under_way.append(task)
        try:
            self.connection.send(FetchRequest(number, task, released, seed))
        except OSError as error:  # it closed its end: it is dead, or about to be
            raise self.lost() from error

    def receive(self) -> tuple[int, list[Outcome]] | None:
        """Take one delivery; None: it has started."""
        try:
            delivery: Delivery | None = self.connection.recv()
            if delivery is None:
                self.started = True
                return None
            if delivery.new_size:
                fd = _take_descriptor(self.connection)
                try:
                    self._memory[delivery.slot] = mmap.mmap(fd, delivery.new_size)
                finally:
                    os.close(fd)
        except (EOFError, ConnectionError) as error:
            raise self.lost() from error
        for slot in delivery.dropped:
            del self._memory[slot]
        self.under_way.popleft()
        memory, released = self._memory[delivery.slot], partial(self._released.append, delivery.slot)
        return delivery.number, unpack(memory, delivery.skeleton, released, copy=len(self._memory) > _MOST_SLOTS)

    def lost(self) -> WorkerError:
        """Describe this worker's death."""
        self.process.join(_PATIENCE)
        return WorkerError(
            f"loader process {self.process.pid} {_ending(self.process.exitcode)} while it was making a batch; what was "
            "delivered is not affected. Load the last state to go on, with fewer workers where memory is short"
        )

    def watch(self, waited: float) -> None:
        """Say what this worker has been waited for; refuse to wait for a child that a fork left stuck."""
        if self._forked and not self.started and waited >= START_SECONDS:
            raise WorkerError(
                f"loader process {self.process.pid} was forked {waited:.0f} s ago and has not begun: another thread of "
                "this program held a lock at that moment, of torch's random numbers perhaps, which is held for ever "
                'in the child. Use multiprocessing_context="spawn", worker_type="thread", or start it before the thread'
            )
        if self.under_way:
            position = self.under_way[0][0].position_after
            _log.warning(
                "waiting since %.0f s for loader process %s, which makes the batch before position %d: reading it, or "
                "a transform",
                *(waited, self.process.pid, position),
            )

    def close(self) -> None:
        """Tell the worker to end, by closing the connection."""
        self.connection.close()
        self._memory.clear()

    def join(self) -> None:
        """Wait for the end; a worker that is deep in a transform is killed."""
        self.process.join(_PATIENCE)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.process.close()


def _ending(code: int | None) -> str:
    if code is None:
        return "closed its connection"
    if code >= 0:
        return f"ended by itself with exit code {code}"
    cause = " (the system does that when memory runs out)" if -code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{cause}"


def _context(wanted: str | BaseContext | None) -> BaseContext:
    """Return how processes start, with our threads at rest where that is by fork; whoever asks opens the gate again."""
    context = wanted if isinstance(wanted, BaseContext) else multiprocessing.get_context(_method(wanted))
    if context.get_start_method() != "fork" or GATE.quiet() or wanted is not None:
        return context
    _log.warning(
        "loading threads have been in a transform for %.0f s: worker processes are not forked but spawned", PATIENCE
    )
    return multiprocessing.get_context("spawn")


def _method(wanted: str | None) -> str | None:
    """Return the way to start processes: by fork on Linux, so that lambdas and notebooks' functions can be sent."""
    return "fork" if wanted is None and sys.platform == "linux" else wanted


class ProcessWorkers(Workers):
    """Runs tasks in processes.

    A worker writes a finished batch into anonymous shared memory, and the parent's tensors are views of it. A slot is
    written again only when nobody holds any of its tensors, so a batch that the caller keeps never changes; more slots
    are made as they are needed, and beyond a limit batches are copied instead.

    Parameters
    ----------
    fetch : callable
        Inherited by fork, or pickled.
    count : int
        Number of processes.
    prefetch_factor : int
        Tasks under way per process.
    context : str, multiprocessing context or None
        How processes are started; None: forked on Linux, once loading threads are at rest, else Python's choice.

    Raises
    ------
    WorkerError
        From any method, when a process died; it says which and how.
    """

    def __init__(
        self, fetch: Fetch, count: int, prefetch_factor: int, context: str | BaseContext | None = None
    ) -> None:
        chosen = _context(context)
        self.slots = count * prefetch_factor
        after_fork(self._forget_processes)
        self._seed = 0
        self._submitted = 0
        self._waiting: deque[int] = deque()
        self._outcomes: dict[int, list[Outcome]] = {}
        self._workers: list[_Worker] = []
        try:
            for _ in range(count):
                others = [worker.connection for worker in self._workers]
                self._workers.append(_Worker(chosen, fetch, others))
        except BaseException:
            self.close()
            raise
        finally:
            GATE.open()

    def begin(self, seed: int) -> None:
        """See :meth:`Workers.begin`."""
        self._seed = seed

    def submit(self, task: Task) -> None:
        """Give the task to the worker that has least to do."""
        worker = min(self._workers, key=lambda worker: len(worker.under_way))
        worker.send(self._submitted, task, self._seed)
        self._waiting.append(self._submitted)
        self._submitted += 1

    def result(self) -> Iterator[Outcome]:
        """See :meth:`Workers.result`."""
        number = self._waiting[0]
        while number not in self._outcomes:
            self._receive()
        self._waiting.popleft()
        return emptied(self._outcomes.pop(number))

    def _receive(self) -> None:
        """Take what is there, waiting for at least one delivery, or one death."""
        by_connection: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers}
        waited = 0.0
        while not (readable := wait(list(by_connection), WATCH_SECONDS)):
            waited += WATCH_SECONDS
            for worker in self._workers:
                worker.watch(waited)
        for connection in readable:  # a dead worker's connection is readable: it has come to its end
            received = by_connection[connection].receive()
            if received is not None and received[0] in self._waiting:  # else it was cancelled
                self._outcomes[received[0]] = received[1]

    def cancel(self) -> None:
        """See :meth:`Workers.cancel`."""
        self._waiting.clear()
        self._outcomes.clear()

    def close(self) -> None:
        """See :meth:`Workers.close`."""
        workers, self._workers = self._workers, []
        self.cancel()
        for worker in workers:
            worker.close()
        for worker in workers:
            worker.join()

    def _forget_processes(self) -> None:
        self._workers = []  # a forked child inherits the object but not the processes
