"""Where each file of a finished data set has its place in the output folder, and moving files there."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

from typing_extensions import Self

from neurofm_shards.format.card import CARD_NAMES
from neurofm_shards.format.files import SIDECAR_DIR, TABLES_DIR, Folder
from neurofm_shards.format.manifest import MANIFEST_NAME
from neurofm_shards.format.packed_index import PACK_NAME
from neurofm_shards.format.shard_names import is_shard_name
from neurofm_shards.format.sidecar import SIDECAR_SUFFIXES
from neurofm_shards.format.unfinished import STAGING_PREFIX
from neurofm_shards.writing.lock import LOCK_NAME


def is_data_set_file(parts: tuple[str, ...]) -> bool:
    """Return whether a path inside a folder is one that this program gives to a file of a finished data set."""
    match parts:
        case (name,):
            return name in (MANIFEST_NAME, *CARD_NAMES) or is_shard_name(name)
        case (folder, name) if folder == SIDECAR_DIR:
            if name == PACK_NAME:
                return True
            return any(name.endswith(end) and is_shard_name(name.removesuffix(end)) for end in SIDECAR_SUFFIXES)
        case (folder, tables, name) if (folder, tables) == (SIDECAR_DIR, TABLES_DIR):
            return name.endswith(".json") and not name.startswith(".")
    return False


def is_leftover(parts: tuple[str, ...]) -> bool:
    """Return whether a file of a step is what a run that ended left: half-written, or in its own staging folder."""
    if parts[-1].startswith(".") and parts[-1].endswith(".partial"):
        return True
    return len(parts) > 1 and parts[0] == SIDECAR_DIR and (parts[1].startswith(STAGING_PREFIX) or parts[1] == LOCK_NAME)


class Places:
    """Folders of an output that files are moved into, each of which is opened once; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self._folders: dict[tuple[str, ...], Folder] = {(): self._stack.enter_context(Folder.open(folder))}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def folder(self, parents: tuple[str, ...]) -> Folder:
        """Return a folder of the output, which is made where it is missing."""
        if parents not in self._folders:
            child = self.folder(parents[:-1]).child(parents[-1], create=True)
            self._folders[parents] = self._stack.enter_context(child)
        return self._folders[parents]

    def sync(self) -> None:
        """Make what was moved survive a power cut."""
        for folder in self._folders.values():
            folder.sync()


def move_all(source: Folder, places: Places, files: Iterable[tuple[str, ...]]) -> None:
    """Move files into the same places of an output; those that replace others keep their permissions."""
    for parents, group in groupby(files, key=lambda parts: parts[:-1]):
        there = places.folder(parents)
        with _below(source, parents) as here:
            for *_, name in group:
                mode = there.mode(name)
                if mode is not None:
                    here.set_mode(name, mode)
                here.move(name, there)


def _below(folder: Folder, parts: Iterable[str]) -> Folder:
    found = folder.duplicate()
    for name in parts:
        with found:
            found = found.child(name)
    return found
