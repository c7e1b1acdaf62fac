"""The spool: a folder in which a program leaves calls and workers take them, by renaming files.

``calls/N`` waits; ``taken/N@WORKER`` is being run; ``answers/N`` is the result. A worker touches ``workers/WORKER``
now and then, and the program ``driver``. Whoever has not been heard of for a while is taken for dead: no scheduler is
asked.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from neurofm_shards.errors import portable

_POLL_S = 0.1


@dataclass(frozen=True)
class Spool:
    """Both sides' view of the folder.

    Attributes
    ----------
    folder : Path
        Where it is; every machine sees it under this path.
    lost_after_s : float
        How long somebody may be silent.
    """

    folder: Path
    lost_after_s: float

    def make(self) -> None:
        """Make the folders."""
        for name in ("calls", "taken", "answers", "workers"):
            (self.folder / name).mkdir(parents=True)
        self.beat("driver")

    def put(self, number: int, call: bytes) -> None:
        """Leave a call."""
        _write(self.folder / "calls" / f"{number:09d}", call)

    def take(self, worker: str) -> tuple[Path, bytes] | None:
        """Take the first call that nobody else takes; return its file and itself."""
        for name in sorted(_names(self.folder / "calls")):
            taken = self.folder / "taken" / f"{name}@{worker}"
            with contextlib.suppress(FileNotFoundError):  # somebody else was quicker
                (self.folder / "calls" / name).rename(taken)
                return taken, taken.read_bytes()
        return None

    def give_back(self, taken: Path) -> None:
        """Leave a call that was taken to others."""
        with contextlib.suppress(FileNotFoundError):  # it was answered meanwhile
            taken.rename(self.folder / "calls" / taken.name.partition("@")[0])

    def answer(self, taken: Path, answer: bytes) -> None:
        """Leave the answer to a call."""
        _write(self.folder / "answers" / taken.name.partition("@")[0], answer)
        taken.unlink(missing_ok=True)

    def answers(self) -> Iterator[tuple[int, bytes]]:
        """Take the answers that are there."""
        for name in sorted(_names(self.folder / "answers")):
            path = self.folder / "answers" / name
            yield int(name), path.read_bytes()
            path.unlink()

    def lost(self) -> Iterator[tuple[int, str]]:
        """Take back the calls of workers that have not been heard of; give numbers and workers."""
        alive = self.workers()
        for name in _names(self.folder / "taken"):
            number, _, worker = name.partition("@")
            if worker not in alive:
                (self.folder / "taken" / name).unlink(missing_ok=True)
                yield int(number), worker

    def withdraw(self) -> None:
        """Take back all calls that nobody has taken, and tell the workers to end."""
        (self.folder / "stop").touch()
        for name in _names(self.folder / "calls"):
            (self.folder / "calls" / name).unlink(missing_ok=True)

    def workers(self) -> set[str]:
        """Return the workers that have been heard of lately, by the clock of the file system."""
        now = (self.folder / "driver").stat().st_mtime
        return {name for name in _names(self.folder / "workers") if now - self._heard(name) <= self.lost_after_s}

    def beat(self, name: str) -> None:
        """Be heard of."""
        path = self.folder / name
        path.touch()
        os.utime(path)

    def is_over(self, since: float) -> bool:
        """Return whether the program has ended, or has not been heard of since it was last looked at."""
        return (self.folder / "stop").exists() or time.monotonic() - since > 2 * self.lost_after_s

    def _heard(self, worker: str) -> float:
        try:
            return (self.folder / "workers" / worker).stat().st_mtime
        except FileNotFoundError:
            return 0.0


def serve(folder: str, lost_after_s: float) -> int:
    """Run calls until the program ends; return how many (runs in a job)."""
    spool = Spool(Path(folder), lost_after_s)
    worker = _Worker(spool)
    return worker.run()


class _Worker:
    def __init__(self, spool: Spool) -> None:
        job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ.get("SLURM_JOB_ID", str(os.getpid())))
        self._name = f"{job}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')} on {socket.gethostname()}"
        self._spool = spool
        self._taken: Path | None = None
        self._stop = threading.Event()

    def run(self) -> int:
        for name in _names(self._spool.folder / "taken"):  # what this very job had before it was requeued
            if name.partition("@")[2] == self._name:
                self._spool.give_back(self._spool.folder / "taken" / name)
        signal.signal(signal.SIGTERM, self._leave)
        self._spool.beat(f"workers/{self._name}")
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        count, beat, since = 0, 0.0, time.monotonic()
        while True:
            found = self._spool.take(self._name)
            if found is not None:
                self._taken = found[0]
                self._spool.answer(found[0], _answered(found[1]))
                self._taken = None
                count += 1
                continue
            heard = _modified(self._spool.folder / "driver")
            if heard != beat:
                beat, since = heard, time.monotonic()
            if self._spool.is_over(since):
                self._stop.set()
                (self._spool.folder / "workers" / self._name).unlink(missing_ok=True)
                return count
            time.sleep(_POLL_S)

    def _beat(self) -> None:
        with contextlib.suppress(OSError):  # the program has removed the folder
            while not self._stop.wait(self._spool.lost_after_s / 6):
                self._spool.beat(f"workers/{self._name}")

    def _leave(self, *_: object) -> NoReturn:
        """Leave the call to others: the job is cancelled or preempted."""
        if self._taken is not None:
            self._spool.give_back(self._taken)
        (self._spool.folder / "workers" / self._name).unlink(missing_ok=True)
        os._exit(143)


def _answered(call: bytes) -> bytes:
    try:
        function, args, kwargs = pickle.loads(call)  # noqa: S301  (the program that started this job made it)
        return pickle.dumps((function(*args, **kwargs), None))
    except BaseException as error:  # noqa: BLE001  (raised again in the program)
        return pickle.dumps((None, portable(error)))


def call_bytes(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Return a call as workers take it."""
    return pickle.dumps((function, args, kwargs))


def _names(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if not name.startswith(".")]  # noqa: PTH208  (a third of the time)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_bytes(data)
    partial.rename(path)
