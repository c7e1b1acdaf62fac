"""Files that appear whole or not at all, and the lock that keeps two writers of a folder apart."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import stat
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from neurofm_shards.errors import FormatError, InputNotFoundError, OutputExistsError, OutputLockedError
from neurofm_shards.types import Buffer

#: Hidden folder of a data set: indexes, tables, the journal.
SIDECAR_DIR = ".neurofm"

#: On x86-64, and on ARM with pages of 4 KiB.
HUGE_PAGE = 2 << 20

_PARTIAL = re.compile(r"\..*\.(\d{1,9})-\d+\.partial")


_numbers = itertools.count()


def open_regular(path: Path | str) -> int:
    """Open a file that somebody else made, for reading; return its descriptor.

    Only regular files, or links to them, are opened: a named pipe would wait for ever, a device might never end.

    Raises
    ------
    InputNotFoundError
        There is no such file.
    FormatError
        It is no regular file, or cannot be opened (permissions, links in a circle).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputNotFoundError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be opened ({error}); check its permissions") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FormatError(f"{path} is no regular file (a folder, a pipe or a device); remove it")
    return descriptor


def names_in(folder: Path) -> list[str]:
    """Return the names of all that lies in a folder; FormatError where that is not allowed."""
    try:
        return [entry.name for entry in folder.iterdir()]
    except (PermissionError, NotADirectoryError) as error:
        raise FormatError(f"{folder} cannot be read ({error}); check its permissions") from error


def partial_path(path: Path) -> Path:
    """Return a hidden name, new at each call, under which a file grows until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.partial")


def remove_stale_partials(folder: Path, name: str = "*") -> None:
    """Delete the half-written files (of one name) of processes of this machine that are no more."""
    for path in folder.glob(f".{name}.*.partial"):
        owner = _PARTIAL.fullmatch(path.name)
        if owner is not None and not _alive(int(owner[1])):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's, and running
    return True


def publish(temporary: Path, path: Path, *, durable: bool) -> None:
    """Give a finished (and, if durable, synced) file its name."""
    os.replace(temporary, path)  # noqa: PTH105  (the same call, without building two more paths)
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, pieces: Iterable[Buffer], *, durable: bool = False) -> None:
    """Write a small file under a temporary name, then rename it; on any error nothing is left."""
    temporary = partial_path(path)
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:  # never through a link that somebody put there
            file.writelines(pieces)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        publish(temporary, path, durable=durable)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
