"""Threads and forks, one after the other: a child that is forked while a thread holds a lock keeps it locked for ever.

Transforms take locks that Python knows nothing of (torch's random numbers, the memory of C libraries). So threads pass
a gate before each task, and whoever forks this process, be it a DataLoader of torch, shuts it first and waits until
the tasks under way are done.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: How long whoever forks waits for tasks under way, in seconds.
PATIENCE = 30.0

_log = logging.getLogger("neurofm_shards.loading")


class ForkGate:
    """Tasks pass it one by one; it is shut while somebody forks."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew: in a forked child, which has one thread."""
        self._changed = threading.Condition()
        self._running: set[int] = set()
        self._forking: set[int] = set()

    @contextmanager
    def task(self) -> Iterator[None]:
        """Run one task in this thread, once nobody forks any more."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._forking)
            self._running.add(me)
        try:
            yield
        finally:
            with self._changed:
                self._running.discard(me)
                self._changed.notify_all()

    def quiet(self, patience: float = PATIENCE) -> bool:
        """Wait until no task is under way in another thread that does not wait here itself; False: some still are."""
        deadline = time.monotonic() + patience
        me = threading.get_ident()
        with self._changed:
            self._forking.add(me)
            return self._changed.wait_for(lambda: self._running <= self._forking, deadline - time.monotonic())

    def open(self) -> None:
        """Let tasks pass again."""
        with self._changed:
            self._forking.discard(threading.get_ident())
            self._changed.notify_all()

    def shut(self) -> None:
        """Wait before a fork."""
        if not self.quiet():
            _log.warning(
                "this process is forked while %d of its loading threads have been in a transform for %.0f s: locks "
                "that they hold now are locked for ever in the child",
                len(self._running - self._forking),
                PATIENCE,
            )


#: The gate of this process.
GATE = ForkGate()

os.register_at_fork(before=GATE.shut, after_in_parent=GATE.open, after_in_child=GATE.renew)
