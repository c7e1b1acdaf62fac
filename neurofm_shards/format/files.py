"""Files that appear whole or not at all."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from neurofm_shards.errors import FormatError, InputNotFoundError
from neurofm_shards.types import Buffer

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
