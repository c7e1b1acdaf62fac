"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from neurofm_shards.types import Buffer


def partial_path(path: Path) -> Path:
    """Return the hidden name under which a file grows before it is whole; no shard pattern matches it."""
    return path.with_name(f".{path.name}.partial")


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
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
