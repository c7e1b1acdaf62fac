"""The spool: a folder in which a program leaves calls and workers take them, by renaming files.

``calls/N`` waits; ``taken/N@WORKER`` is being run; ``answers/N`` is the result. Beside each worker, a process of its
own touches ``workers/WORKER`` now and then, whatever the worker is doing, and removes it when the worker is gone; the
program touches ``driver``. Whoever has not been heard of for a while is taken for dead: no scheduler is asked.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from neurofm_shards._process import WatchedTime
from neurofm_shards.errors import portable

_POLL_S = 0.1
#: Beats in the time that somebody may be silent.
_BEATS = 6
#: How much longer than a worker the program may be silent.
_PROGRAM = 4


@dataclass
class _Heard:
    """When somebody was heard of last, and how long that has been."""

    silence: WatchedTime
    modified: float = 0.0


@dataclass(frozen=True)
class Spool:
    """Both sides' view of the folder.

    Attributes
    ----------
    folder : Path
        Where it is; every machine sees it under this path.
    lost_after_s : float
        How long somebody may be silent.
    heard : dict of str to _Heard
        What is known of the others, by file.
    """

    folder: Path
    lost_after_s: float
    heard: dict[str, _Heard] = field(default_factory=dict, compare=False)

    @property
    def look_s(self) -> float:
        """How often to look at who is alive."""
        return self.lost_after_s / 10

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

    def taken(self) -> list[str]:
        """Return the calls that workers have taken, as ``N@WORKER``."""
        return _names(self.folder / "taken")

    def take_back(self, taken: Iterable[str], alive: Container[str]) -> Iterator[tuple[int, str]]:
        """Take back the calls of workers that are not alive; give numbers and workers."""
        for name in taken:
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
        """Return the workers that have been heard of lately."""
        names = _names(self.folder / "workers")
        return {name for name in names if self.silent_s(f"workers/{name}") <= self.lost_after_s}

    def beat(self, name: str) -> None:
        """Be heard of."""
        path = self.folder / name
        path.touch()
        os.utime(path)

    def is_over(self) -> bool:
        """Return whether the program has ended, or has not been heard of for long."""
        return (self.folder / "stop").exists() or self.silent_s("driver") > _PROGRAM * self.lost_after_s

    def silent_s(self, name: str) -> float:
        """Return for how long somebody has not been heard of, by changes of the file: clocks may differ."""
        modified = _modified(self.folder / name)
        if name not in self.heard:  # while a file system hangs, it hangs for both sides: a look counts little
            self.heard[name] = _Heard(WatchedTime(2 * self.look_s))
        heard = self.heard[name]
        is_silent, heard.modified = modified == heard.modified, modified
        return heard.silence.look(is_so=is_silent)


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

    def run(self) -> int:
        for name in self._spool.taken():  # what this very job had before it was requeued
            if name.partition("@")[2] == self._name:
                self._spool.give_back(self._spool.folder / "taken" / name)
        signal.signal(signal.SIGTERM, self._leave)
        self._spool.beat(self._mark)
        heart = _heart(self._spool, self._mark)
        count = 0
        while not self._spool.is_over():
            found = self._spool.take(self._name)
            if found is None:
                time.sleep(_POLL_S)
                continue
            self._taken = found[0]
            self._spool.answer(found[0], _answered(found[1]))
            self._taken = None
            count += 1
        os.kill(heart, signal.SIGKILL)
        os.waitpid(heart, 0)
        self._unmark()
        return count

    @property
    def _mark(self) -> str:
        return f"workers/{self._name}"

    def _unmark(self) -> None:
        (self._spool.folder / self._mark).unlink(missing_ok=True)

    def _leave(self, *_: object) -> NoReturn:
        """Leave the call to others: the job is cancelled or preempted."""
        if self._taken is not None:
            self._spool.give_back(self._taken)
        self._unmark()
        os._exit(143)


def _heart(spool: Spool, mark: str) -> int:
    """Start the process that is heard of while this one lives; return its number."""
    # A thread would not do: a call may hold the interpreter for as long as a file system likes.
    worker = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _beat_while(worker, spool, mark)
    finally:
        os._exit(0)


def _beat_while(worker: int, spool: Spool, mark: str) -> None:
    path = spool.folder / mark
    beaten = 0.0
    with contextlib.suppress(FileNotFoundError):  # the worker has left, or the program has removed the folder
        while os.getppid() == worker:
            if time.monotonic() - beaten > spool.lost_after_s / _BEATS:
                beaten = time.monotonic()
                os.utime(path)
            time.sleep(_POLL_S)
        path.unlink()


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
    """Return when a file was changed; it is opened, because NFS asks its server then instead of its cache."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0.0
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_bytes(data)
    partial.rename(path)
