"""Keeps two writers of one output folder apart, by a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from neurofm_shards.errors import OutputExistsError, OutputLockedError
from neurofm_shards.format.manifest import SIDECAR_DIR

LOCK_NAME = "lock"


class OutputLock:
    """Holds ``<output>/.neurofm/lock``; a context manager.

    The lock is the kernel's (``flock``), so a killed process cannot hold it. The file is removed at the end, so that it
    is no part of a finished data set; so are folders that were made for it and are still empty.

    Raises
    ------
    OutputLockedError
        Another live writer, of this process or another, writes to the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / SIDECAR_DIR / LOCK_NAME
        self._made = not folder.exists()
        self._fd = -1
        self._release: Callable[[], object] | None = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock; a lock that nobody holds on to any more is released by itself."""
        if self._folder.exists() and not self._folder.is_dir():
            raise OutputExistsError(f"output {self._folder} is a file; name a folder")
        while not self._acquire():
            pass
        made = [self._path.parent, *([self._folder] if self._made else [])]
        self._release = weakref.finalize(self, _give_back, self._fd, self._path, made, os.getpid())

    def release(self) -> None:
        """Give the lock back; harmless when it was given back before."""
        if self._release is not None:
            self._release()

    def _acquire(self) -> bool:
        self._path.parent.mkdir(parents=True, exist_ok=True)  # a holder before us may have removed it
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            return False
        try:
            return self._lock(fd)
        finally:
            if self._fd != fd:
                os.close(fd)

    def _lock(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{self._folder} is being written by {_holder(fd)}, or choose another output"
            raise OutputLockedError(message) from error
        if not self._is_current(fd):  # the holder before us removed the file between our opening and locking it
            return False
        with contextlib.suppress(OSError):  # it is for messages alone, and the disk may be full
            os.truncate(fd, 0)
            os.write(fd, str(os.getpid()).encode())
        self._fd = fd
        return True

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))  # noqa: PTH116
        except FileNotFoundError:
            return False


def _holder(fd: int) -> str:
    said = os.pread(fd, 20, 0)
    if said == str(os.getpid()).encode():
        return "another writer of this program: finish it (finalize() or abort())"
    number = f" ({said.decode()})" if said.isdigit() else ""
    return f"another process{number}: wait for it"


def _give_back(fd: int, path: Path, made: list[Path], owner: int) -> None:
    if os.getpid() == owner:  # a forked child inherits the descriptor, and must not end the lock of its parent
        path.unlink(missing_ok=True)
    os.close(fd)
    if os.getpid() == owner:
        for folder in made:
            with contextlib.suppress(OSError):  # it is not empty: something was written
                folder.rmdir()
