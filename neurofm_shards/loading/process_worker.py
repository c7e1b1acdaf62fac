"""What runs inside a loading process."""

from __future__ import annotations

import mmap
import os
import random
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle

import numpy as np

from neurofm_shards.errors import WorkerError, portable
from neurofm_shards.loading.messages import Delivery, Order
from neurofm_shards.loading.order.bijection import derive_key
from neurofm_shards.loading.plans.plan import Request
from neurofm_shards.loading.workers.pipeline import Failed, Fetch, Fetched, Outcome, fetch_all
from neurofm_shards.loading.workers.shared import Packed, anonymous_memory, pack

#: How often an idle worker looks whether its parent is still there, in seconds.
_WATCH_SECONDS = 2.0
#: Slots are a little larger than what they are made for, so that batches of nearly equal size share them.
_ROUND_TO = 1 << 16


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


def work(connection: Connection, inherited: Sequence[Connection], prepare: Callable[[], None], fetch: Fetch) -> None:
    """Serve orders until the parent closes the connection or dies.

    Parameters
    ----------
    connection : Connection
        To the parent.
    inherited : sequence of Connection
        The parent's ends of connections, which a forked child holds too; closed here, so that the parent's end is felt.
    prepare : callable
        Called once, first.
    fetch : callable
        Makes the batches. Random numbers of Python, numpy and torch are seeded anew for each of them, from the order's
        seed and the batch's position.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    for other in inherited:
        other.close()
    _one_torch_thread()
    prepare()
    parent, slots = os.getppid(), Slots()
    while (order := _next_order(connection, parent)) is not None:
        slots.release(order.released)
        outcomes = fetch_all(_Seeded(fetch, order.seed), order.task)
        _deliver(connection, parent, slots, order.number, outcomes)


def _next_order(connection: Connection, parent: int) -> Order | None:
    try:
        while not connection.poll(_WATCH_SECONDS):
            if os.getppid() != parent:
                return None
        order: Order = connection.recv()
    except (EOFError, OSError):  # the parent closed its end, or died
        return None
    return order


def _deliver(connection: Connection, parent: int, slots: Slots, number: int, outcomes: list[Outcome]) -> None:
    packed = _packed(outcomes)
    slot, size, fd, dropped = slots.place(packed)
    try:
        delivery = Delivery(number, slot, packed.write(slots[slot]), size, dropped)
        connection.send(delivery)
        if size:
            send_handle(connection, fd, parent)
    except OSError:  # the parent is gone; the next poll says so too
        return
    finally:
        if fd >= 0:
            os.close(fd)


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
        import torch  # noqa: PLC0415  (loading alone needs torch)

        number = derive_key("workers", self._seed, request.position_after) & 0xFFFF_FFFF
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002  (what transforms use is not ours to choose)
        torch.manual_seed(number)
        return self._fetch(request)
