"""Files that appear whole or not at all."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path

from neurofm_shards.types import Buffer

_PARTIAL = re.compile(r"\..*\.(\d{1,9})-\d+\.partial")


_numbers = itertools.count()


def partial_path(path: Path) -> Path:
    """Return a hidden name, new at each call, under which a file grows until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.partial")


def remove_stale_partials(folder: Path) -> None:
    """Delete the half-written files of processes of this machine that are no more."""
    for path in folder.glob(".*.partial"):
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
    try:
        with temporary.open("wb") as file:
            file.writelines(pieces)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        publish(temporary, path, durable=durable)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
