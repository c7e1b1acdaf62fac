"""Keeps two writers of one output folder apart, by a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from neurofm_shards.errors import OutputExistsError, OutputLockedError
from neurofm_shards.shards.manifest_model import SIDECAR_DIR

LOCK_NAME = "lock"


class OutputLock:
    """Holds ``<output>/.neurofm/lock``; a context manager.

    The lock is the kernel's (``flock``), so a killed process cannot hold it. The file is removed at the end, so that it
    is no part of a finished data set; so are folders that were made for it and are still empty.

    Raises
    ------
    OutputLockedError
        Another live process writes to the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / SIDECAR_DIR / LOCK_NAME
        self._made = not folder.exists()
        self._fd = -1

    def __enter__(self) -> Self:
        if self._folder.exists() and not self._folder.is_dir():
            raise OutputExistsError(f"output {self._folder} is a file; name a folder")
        while not self._acquire():
            pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._fd)
        for folder in (self._path.parent, *([self._folder] if self._made else [])):
            with contextlib.suppress(OSError):  # it is not empty: something was written
                folder.rmdir()

    def _acquire(self) -> bool:
        self._path.parent.mkdir(parents=True, exist_ok=True)  # a holder before us may have removed it
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            return False
        return self._lock(fd)

    def _lock(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise OutputLockedError(
                f"{self._path.parent.parent} is being written by another process; wait for it, or choose another output"
            ) from error
        if not self._is_current(fd):  # the holder before us removed the file between our opening and locking it
            os.close(fd)
            return False
        self._fd = fd
        return True

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))  # noqa: PTH116
        except FileNotFoundError:
            return False
