"""A lock that survives ``fork``."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable


class ForkSafeCondition:
    """Gives each process a condition of its own, so that a child is not stuck on a lock held by its parent's threads.

    Parameters
    ----------
    reset : callable
        A method, called once in each forked child with the new lock held: forgets what the parent's threads were
        doing. It is held weakly, so that its object is released as soon as nobody else holds it.
    """

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = weakref.WeakMethod(reset)
        self._conditions = {os.getpid(): threading.Condition()}

    def get(self) -> threading.Condition:
        """Return this process's condition."""
        found = self._conditions.get(os.getpid())
        return found if found is not None else self._after_fork()

    def _after_fork(self) -> threading.Condition:
        new = threading.Condition()
        with new:
            found = self._conditions.setdefault(os.getpid(), new)  # atomic: one of the child's threads wins
            reset = self._reset()
            if found is new and reset is not None:
                reset()
        return found
