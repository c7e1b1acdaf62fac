"""Write a checkpoint file while a loader is iterated, and when a signal ends the process."""

from __future__ import annotations

import glob
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeAlias

from neurofm_shards.errors import ConfigError
from neurofm_shards.format.files import remove_stale_partials
from neurofm_shards.loading.state import LoaderState, read_state, save_state

OnSignal: TypeAlias = Literal["checkpoint"]

#: What Slurm and clouds send before they end a process.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Checkpoint:
    """A checkpoint file, and when it is written.

    Parameters
    ----------
    path : path-like
        The file; means the same place after the working directory changed.
    on_signal : "checkpoint" or None
        Whether SIGTERM and SIGUSR1 write it, while an iteration runs.

    Raises
    ------
    ConfigError
        ``on_signal`` is something else.
    """

    def __init__(self, path: str | os.PathLike[str], on_signal: OnSignal | None = None) -> None:
        if on_signal not in (None, "checkpoint"):
            raise ConfigError(f"on_signal={on_signal!r}; choose 'checkpoint' or None")
        self.path = Path(path).absolute()
        self._on_signal = on_signal
        self._saved: LoaderState | None = None

    def save(self, state: LoaderState) -> None:
        """Write it, unless it says so already."""
        if state == self._saved and self.path.exists():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_state(self.path, state)
        self._saved = state

    def load(self) -> LoaderState | None:
        """Read it; None where there is none yet.

        Raises
        ------
        StateError
            See :func:`~neurofm_shards.loading.state.read_state`.
        """
        try:
            return read_state(self.path)
        except FileNotFoundError:
            return None

    def clear_up(self) -> None:
        """Remove what a process that was killed left of a checkpoint."""
        remove_stale_partials(self.path.parent, glob.escape(self.path.name))

    @contextmanager
    def during(self, state: Callable[[], LoaderState]) -> Iterator[None]:
        """Write it when the iteration inside ends, however it ends, and on signals."""
        handlers = SignalHandlers(lambda: self.save(state())) if self._on_signal else None
        try:
            yield
        finally:
            self.save(state())
            if handlers is not None:
                handlers.remove()


def make_checkpoint(path: str | os.PathLike[str] | None, on_signal: OnSignal | None) -> Checkpoint | None:
    """Return the checkpoint of a loader; None where no path is given."""
    if path is None and on_signal is not None:
        raise ConfigError(f"on_signal={on_signal!r} needs checkpoint_path=, the file to write")
    return None if path is None else Checkpoint(path, on_signal)


class SignalHandlers:
    """Does something on SIGTERM and SIGUSR1, and then what was done before.

    Parameters
    ----------
    action : callable
        Called in the main thread, before the handler that was there, or before the process ends.

    Raises
    ------
    ConfigError
        This is not the main thread, which alone may handle signals.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise ConfigError("on_signal='checkpoint': signals are handled in the main thread; iterate there")
        self._action: Callable[[], None] | None = action
        self._process = os.getpid()
        self._handler = self._handle  # one object, by which it is known again
        self._before: dict[int, Any] = {number: signal.signal(number, self._handler) for number in SIGNALS}

    def remove(self) -> None:
        """Put back the handlers that were there, where nobody came after this."""
        self._action = None
        if threading.current_thread() is not threading.main_thread():  # an iteration that was forgotten ends anywhere
            return
        for number, before in self._before.items():
            if signal.getsignal(number) is self._handler and before is not None:
                signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._action is not None and os.getpid() == self._process:
            self._action()
        before = self._before[number]
        if callable(before):
            before(number, frame)
        elif before != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
