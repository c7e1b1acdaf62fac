"""The folder that a data set is written to: what is in it, whether it may be written, and how files get there or go.

Everything is done through descriptors of folders (:class:`~neurofm_shards.format.files.Folder`), so that a link in the
hidden folder leads nothing astray.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from operator import and_
from pathlib import Path
from typing import Any

import orjson
import xxhash
from typing_extensions import Self

from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError, FormatError, OutputExistsError, UnsafePathError
from neurofm_shards.format.card import CARD_NAMES, our_cards
from neurofm_shards.format.files import SIDECAR_DIR, TABLES_DIR, Folder, is_partial, names_in
from neurofm_shards.format.index_io import build_index, read_index, shard_fingerprint
from neurofm_shards.format.manifest import MANIFEST_NAME, Manifest, manifest_bytes, read_manifest
from neurofm_shards.format.packed_index import PACK_NAME
from neurofm_shards.format.shard_names import is_shard_name
from neurofm_shards.format.sidecar import SIDECAR_SUFFIXES, sidecar_names, sidecar_paths
from neurofm_shards.format.unfinished import (
    COMMITTED_PREFIX,
    PENDING_DELETIONS_NAME,
    REPLACED_NAME,
    REPLACEMENT_NAME,
    STAGING_PREFIX,
    UNFINISHED_NAME,
    belongs_to_conversion,
    why_unfinished,
)
from neurofm_shards.writing.journal import JournalContent, JournalHeader, read_journal, remove_journal
from neurofm_shards.writing.lock import LOCK_NAME, boot_id

_REMOVED = "removed.json"


def manifest_checksum(manifest: Manifest) -> str:
    """Return the checksum by which an addition knows the data set that it adds to."""
    return xxhash.xxh3_128_hexdigest(manifest_bytes(manifest))


@dataclass(frozen=True)
class Remedies:
    """How a caller says in its arguments what to do with a folder that is taken."""

    add: str
    go_on: str
    replace: str


#: Of conversions, which have a mode.
MODES = Remedies("add to it with mode='append', ", "go on with mode='resume'", "mode='overwrite'")
#: Of what can only replace a data set.
REPLACING = Remedies("", "finish it as it was begun", "overwrite=True")


@dataclass(frozen=True)
class OutputFolder:
    """An output folder; whoever changes it holds its :class:`~neurofm_shards.writing.lock.OutputLock`.

    Attributes
    ----------
    folder : Path
        Where shards and manifest go.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.folder.absolute())  # the working directory may change

    @property
    def sidecars(self) -> Path:
        """The hidden folder of indexes, tables and the journal."""
        return self.folder / SIDECAR_DIR

    # -- what is there

    def manifest(self) -> Manifest | None:
        """Read the manifest; None where there is none."""
        return read_manifest(self.folder)

    def journal(self) -> JournalContent | None:
        """Read the journal of an unfinished conversion; None where there is none."""
        return read_journal(self.sidecars)

    def is_ours(self) -> bool:
        """Return whether the folder holds a data set or an unfinished one; indexes may lie beside foreign shards."""
        return self._has_manifest() or self.journal() is not None or self.is_marked or self._is_pending

    @property
    def is_marked(self) -> bool:
        """Whether a Python writer is, or was when it was killed, writing here."""
        return (self.sidecars / UNFINISHED_NAME).exists()

    @property
    def _is_pending(self) -> bool:
        """Whether a step that was decided, or a deletion, is to be finished."""
        return any(self.sidecars.glob(f"{COMMITTED_PREFIX}*")) or (self.sidecars / PENDING_DELETIONS_NAME).exists()

    def listed(self) -> set[str]:
        """Return the names of the shards that the manifest lists; none where it is damaged or absent."""
        manifest = self._manifest_if_sound()
        return {entry.shard_name for entry in manifest.shards} if manifest is not None else set()

    def shard_names(self) -> set[str]:
        """Return the names of all shards of the data set or unfinished conversion in this folder."""
        journal = self.journal()
        written = journal.shard_names() if journal is not None else set()
        return self.listed() | written | self._left_by_writer()

    def mode(self) -> int | None:
        """Return the permission bits that new files get: what the present manifest and shards have in common.

        None where there is no data set yet; a replacement gets those of what it replaces.
        """
        if self.folder.name == REPLACEMENT_NAME and self.folder.parent.name == SIDECAR_DIR:
            return OutputFolder(self.folder.parent.parent).mode()
        return self.common_mode([MANIFEST_NAME, *sorted(self.listed())]) if self._has_manifest() else None

    def common_mode(self, names: Iterable[str]) -> int | None:
        """Return the permission bits that files of the folder have in common; None where there are none."""
        with Folder.open(self.folder) as root:
            modes = [mode & 0o666 for name in names if (mode := root.mode(name)) is not None]
        return reduce(and_, modes) if modes else None

    def check_free(self, remedies: Remedies = MODES) -> None:
        """Refuse a folder that holds anything, with remedies in the caller's arguments; nothing is changed."""
        journal = self.journal()
        if self._has_manifest():
            raise OutputExistsError(
                f"{self.folder} already holds a data set; {remedies.add}replace it with {remedies.replace}, or choose "
                "another output"
            )
        if journal is not None:
            written, total = len(journal.shards), journal.header.total_shards
            known = f"{written:,} of {counted(total, 'shard')}" if total else counted(written, "shard")
            raise OutputExistsError(
                f"{self.folder} holds an unfinished conversion ({known} written); "
                f"{remedies.go_on}, or start again with {remedies.replace}"
            )
        if self.is_marked:
            raise OutputExistsError(
                f"{self.folder} holds what an interrupted writer left; start again with {remedies.replace}, or choose "
                "another output"
            )
        if any(self.sidecars.glob(f"{COMMITTED_PREFIX}*")):
            raise OutputExistsError(f"{why_unfinished(self.folder)}, and {remedies.replace} replaces it")
        others = self._others()
        if others:
            raise OutputExistsError(
                f"{self.folder} is not empty: it holds {', '.join(others[:3])}{' ...' if len(others) > 3 else ''}, "
                f"which is no data set of ours; choose another output ({remedies.replace} deletes nothing that is not "
                "ours)"
            )

    def check_no_links(self) -> None:
        """Refuse a hidden folder that holds links, pipes or devices; nothing is changed."""
        if os.path.lexists(self.sidecars):
            with Folder.open(self.sidecars) as folder:
                for _ in folder.files():
                    pass

    def is_sound(self, line: Mapping[str, Any], header: JournalHeader) -> bool:
        """Return whether a recorded shard is still what was written.

        A killed process loses nothing that was written, so a look at the shard's ends is enough; after a power loss
        (another boot), a run that did not sync may have lost any part of it, so all of it is read.
        """
        entry = line["shard"]
        if entry is None:
            return True
        path = self.folder / entry["shard_name"]
        if not all(file.is_file() for file in (path, *sidecar_paths(path))):
            return False
        try:
            index = read_index(sidecar_paths(path)[0], path.name, path.stat().st_size, shard_fingerprint(path))
            if not header.durable and header.boot != boot_id():
                index = build_index(path)
        except FormatError:
            return False
        return bool(index.checksum == entry["checksum"])

    def _has_manifest(self) -> bool:
        return (self.folder / MANIFEST_NAME).exists()

    def _manifest_if_sound(self) -> Manifest | None:
        try:
            return self.manifest()
        except FormatError:
            return None  # damaged ones are for repair, and say so where they are used

    def _left_by_writer(self) -> set[str]:
        """Return the shards that an interrupted Python writer left: they have their index beside them."""
        if not self.is_marked:
            return set()
        return {path.name for path in self.folder.iterdir() if is_shard_name(path.name) and _has_index(path)}

    def _others(self) -> list[str]:
        """Return the names of what is there and is not ours, nor about to be deleted."""
        if not self.folder.is_dir():
            return []
        pending = set(self._pending_deletions())
        others = sorted(name for name in names_in(self.folder) if name not in {SIDECAR_DIR, *pending})
        if pending or not self.sidecars.is_dir():
            return others
        ours = {LOCK_NAME, PENDING_DELETIONS_NAME, PACK_NAME}
        found = sorted(names_in(self.sidecars))
        inside = (name for name in found if not (name in ours or belongs_to_conversion(name) or is_partial(name)))
        return others + [f"{SIDECAR_DIR}/{name}" for name in inside if not name.startswith(STAGING_PREFIX)]

    # -- cleaning up after the dead

    def clean(self) -> None:
        """Finish the steps that dead runs had decided, and remove what is of no use to go on with."""
        if not self.sidecars.is_dir():
            return
        self.check_no_links()
        with Folder.open(self.folder) as root, root.child(SIDECAR_DIR) as sidecars:
            for name in sidecars.names():
                if name.startswith(COMMITTED_PREFIX):
                    self._apply(name)
            for name in sidecars.names():
                if name.startswith(STAGING_PREFIX):
                    sidecars.remove_tree(name)
            self._drop_spent_journal()
            if self.replacement() is None:
                self.give_up_replacement()
            root.remove_partials(lambda name: is_data_set_file((name,)))
            sidecars.remove_partials(bool)
            if sidecars.has_folder(TABLES_DIR):
                with sidecars.child(TABLES_DIR) as tables:
                    tables.remove_partials(bool)
            if sidecars.has(PENDING_DELETIONS_NAME):
                self._finish_deleting()

    def _drop_spent_journal(self) -> None:
        """Remove the journal of a conversion whose manifest stands already, or of an addition to an older manifest."""
        manifest, journal = self._manifest_if_sound(), self.journal()
        if manifest is None or journal is None:
            return
        if journal.header.kind == "convert" or journal.header.identity["base"] != manifest_checksum(manifest):
            self.give_up_addition()

    def give_up_addition(self) -> int:
        """Forget an unfinished addition to a data set; return how many of its shards were deleted."""
        if self._manifest_if_sound() is None or (self.journal() is None and not self.is_marked):
            return 0
        unlisted = self.shard_names() - self.listed()
        found = sum(self._delete_shard(name) for name in sorted(unlisted))
        remove_journal(self.sidecars)
        self.unmark()
        return found

    def remove_replaced(self) -> None:
        """Delete the shards that ``repair`` has replaced and kept."""
        with Folder.open(self.sidecars) as sidecars:
            sidecars.remove_tree(REPLACED_NAME)

    def remove_orphans(self) -> None:
        """Delete the sidecars of shards that are not there and that no manifest lists."""
        listed = self.listed()
        with Folder.open(self.folder) as root, root.child(SIDECAR_DIR) as sidecars:
            for name in sidecars.names():
                shard = name.removesuffix(next(filter(name.endswith, SIDECAR_SUFFIXES), ""))
                if shard != name and shard not in listed and not root.has(shard):
                    sidecars.remove(name)

    # -- the mark of Python writers

    def mark(self) -> None:
        """Mark the folder: a data set is being written here."""
        with Folder.open(self.sidecars, create=True) as folder:
            folder.write(UNFINISHED_NAME, [b"a data set is being written here\n"])

    def unmark(self) -> None:
        """Take the mark away."""
        with Folder.open(self.sidecars) as folder:
            folder.remove(UNFINISHED_NAME)

    # -- deleting

    def delete(self) -> None:
        """Delete the data set or unfinished conversion in this folder, and nothing else.

        The names are written down first, so that a deletion that is interrupted is finished by the next run.
        """
        if not self.folder.is_dir():
            return
        names = sorted(self._our_names())
        with Folder.open(self.sidecars, create=True) as folder:
            folder.write(PENDING_DELETIONS_NAME, [orjson.dumps(names)], durable=True)
        self._finish_deleting()

    def discard(self, shard_names: Iterable[str]) -> None:
        """Delete shards that were written and never listed; those that the manifest lists stay, whoever asks."""
        if (self.folder / MANIFEST_NAME).exists():
            manifest = self.manifest()  # where it cannot be read nothing is deleted
            listed = {entry.shard_name for entry in manifest.shards} if manifest is not None else set()
        else:
            listed = set()
        for name in shard_names:
            if name not in listed:
                self._delete_shard(name)
        self.unmark()

    def _our_names(self) -> Iterator[str]:
        yield from self.shard_names()
        if self._manifest_if_sound() is None and self._has_manifest():  # what a damaged one listed has its index
            yield from (path.name for path in self.folder.iterdir() if is_shard_name(path.name) and _has_index(path))
        yield from our_cards(self.folder)

    def _pending_deletions(self) -> list[str]:
        with Folder.open(self.folder) as root:
            if not root.has_folder(SIDECAR_DIR):
                return []
            with root.child(SIDECAR_DIR) as sidecars:
                if not sidecars.has(PENDING_DELETIONS_NAME):
                    return []
                return _names(sidecars, PENDING_DELETIONS_NAME, also=CARD_NAMES)

    def _finish_deleting(self) -> None:
        names = self._pending_deletions()
        with Folder.open(self.folder) as root, root.child(SIDECAR_DIR) as sidecars:
            root.remove(MANIFEST_NAME)  # first: what is not in a manifest does not exist
            for name in names:
                root.remove(name)
            for name in sidecars.names():
                if name not in (LOCK_NAME, PENDING_DELETIONS_NAME):
                    sidecars.remove_tree(name)
            root.sync()
            sidecars.remove(PENDING_DELETIONS_NAME)

    def _delete_shard(self, name: str) -> bool:
        """Delete a shard and its sidecars; return whether the shard was there."""
        with Folder.open(self.folder) as root:
            if root.has_folder(SIDECAR_DIR):
                with root.child(SIDECAR_DIR) as sidecars:
                    for sidecar in sidecar_names(name):
                        sidecars.remove(sidecar)
            return root.remove(name)

    # -- overwriting

    def begin_overwriting(self) -> OutputFolder:
        """Return where the new data set goes: beside the present one, or here where there is no whole one to keep."""
        if self.manifest() is None:
            self.delete()
            return self
        self.give_up_addition()
        self.give_up_replacement()
        replacement = OutputFolder(self.sidecars / REPLACEMENT_NAME)
        Folder.open(replacement.sidecars, create=True).close()
        return replacement

    def finish_overwriting(self, new: OutputFolder, *, durable: bool) -> None:
        """Put the finished data set in place of the present one, as one step; see :meth:`replace`.

        Raises
        ------
        OutputExistsError
            A file that is not ours has the name of a new shard.
        """
        if new == self:
            return
        present, names = self.shard_names(), new.shard_names()
        strangers = sorted(name for name in names - present if os.path.lexists(self.folder / name))
        if strangers:
            raise OutputExistsError(
                f"{self.folder / strangers[0]} is no part of the data set here, and would be replaced; move it, and "
                "do the same again with mode='resume'"
            )
        self.replace(new.folder, present - names, durable=durable)
        self.unmark()

    def replacement(self) -> OutputFolder | None:
        """Return the replacement that an interrupted run has begun; None where it recorded nothing."""
        replacement = OutputFolder(self.sidecars / REPLACEMENT_NAME)
        return replacement if replacement.is_ours() else None

    def check_not_being_replaced(self) -> None:
        """Refuse to change a data set that an interrupted run was replacing."""
        if self.replacement() is not None:
            raise ConfigError(
                f"{self.folder} has an unfinished replacement, begun with mode='overwrite'; finish it first with the "
                "same inputs and mode='resume', or give it up with repair"
            )

    def give_up_replacement(self) -> bool:
        """Forget an unfinished replacement; return whether there was one."""
        with Folder.open(self.sidecars) as sidecars:
            if not sidecars.has(REPLACEMENT_NAME):
                return False
            spent = _new_name(STAGING_PREFIX)
            sidecars.move(REPLACEMENT_NAME, sidecars, spent)  # what is half deleted must not be taken for a data set
            sidecars.remove_tree(spent)
        return True

    # -- moving files into place

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Give a staging folder whose files go into place with :meth:`replace`; nothing is left of it otherwise."""
        staging = self.new_staging()
        try:
            yield staging
        finally:
            self.remove_staging(staging)

    def new_staging(self, name: str | None = None) -> Path:
        """Make a folder in which workers write; shards are moved out of it when they are whole."""
        name = name or _new_name(STAGING_PREFIX)
        with Folder.open(self.sidecars, create=True) as sidecars:
            sidecars.child(name, create=True).close()
        return self.sidecars / name

    def remove_staging(self, staging: Path) -> None:
        """Delete a staging folder, or a task's part of one."""
        with Folder.open(staging.parent) as folder:
            folder.remove_tree(staging.name)

    def publish(self, staging: Path, tasks: Iterable[str], *, durable: bool) -> None:
        """Move what tasks wrote into folders of theirs in a staging folder into place: sidecars first, shards last."""
        with Folder.open(staging) as folder, Places(self.folder) as places:
            for task in tasks:
                with folder.child(task) as source:
                    move_all(source, places, sorted(source.files(), key=lambda parts: len(parts) == 1))
                folder.remove_tree(task)
            if durable:
                places.sync()

    def replace(self, staged: Path, removed: Iterable[str], *, durable: bool) -> None:
        """Put a staging folder's files, the manifest among them, in place of the present ones, as one step.

        The decision is the renaming of the staging folder: from then on every run that locks the output finishes what a
        crash may have interrupted. Readers see the present data set until the manifest is renamed, provided that no
        file takes the name of one that the present manifest lists; otherwise the present manifest goes first.

        Parameters
        ----------
        staged : Path
            From :meth:`new_staging`; with folders like the output's.
        removed : iterable of str
            Names of shards to remove.
        durable : bool
            Whether the files are synced, and the renames are to be.
        """
        committed = _new_name(COMMITTED_PREFIX)
        with Folder.open(staged) as folder:
            folder.write(_REMOVED, [orjson.dumps(sorted(removed))], durable=durable)
        with Folder.open(self.sidecars) as sidecars:
            sidecars.move(staged.name, sidecars, committed)
            if durable:
                sidecars.sync()
        self._apply(committed)

    def _apply(self, committed: str) -> None:
        """Carry out a step that was decided."""
        with Folder.open(self.folder) as root, root.child(SIDECAR_DIR) as sidecars:
            with sidecars.child(committed) as step:
                removed = _names(step, _REMOVED)
                files = [parts for parts in step.files() if parts != (_REMOVED,) and not is_leftover(parts)]
                for parts in files:
                    if not is_data_set_file(parts):
                        raise UnsafePathError(
                            f"{step.path.joinpath(*parts)} is nothing that belongs into a data set; remove it"
                        )
                if self.listed() & {parts[-1] for parts in files}:
                    root.remove(MANIFEST_NAME)
                theirs = {name for name in CARD_NAMES if root.has(name)} - set(our_cards(self.folder))
                files = [parts for parts in files if parts[0] not in theirs]
                if (SIDECAR_DIR, PACK_NAME) not in files:
                    sidecars.remove(PACK_NAME)  # it is of other shards
                with Places(self.folder) as places:
                    move_all(step, places, sorted(files, key=lambda parts: parts == (MANIFEST_NAME,)))
            for name in removed:
                self._delete_shard(name)
            self._delete_unlisted_tables()
            root.sync()
            sidecars.sync()
            spent = STAGING_PREFIX + committed.removeprefix(COMMITTED_PREFIX)
            sidecars.move(committed, sidecars, spent)  # a deletion that is interrupted must not be taken for a step
            sidecars.remove_tree(spent)

    def _delete_unlisted_tables(self) -> None:
        manifest = self._manifest_if_sound()
        listed = {entry.file for entry in manifest.tables.values()} if manifest is not None else set()
        with Folder.open(self.sidecars) as sidecars:
            if not sidecars.has_folder(TABLES_DIR):
                return
            with sidecars.child(TABLES_DIR) as tables:
                for name in tables.names():
                    if f"{SIDECAR_DIR}/{TABLES_DIR}/{name}" not in listed:
                        tables.remove_tree(name)


def _names(folder: Folder, file: str, *, also: tuple[str, ...] = ()) -> list[str]:
    """Read a list of shards' names that an earlier run wrote; what stands there may come from anyone."""
    try:
        names = orjson.loads(folder.read(file))
    except orjson.JSONDecodeError as error:
        raise FormatError(f"{folder.path / file} is damaged ({error}); remove it") from error
    if not isinstance(names, list):
        raise FormatError(f"{folder.path / file} is damaged: it is no list of names; remove it")
    for name in names:
        if not (isinstance(name, str) and (is_shard_name(name) or name in also)):
            raise UnsafePathError(f"{folder.path / file} names {name!r:.100}, which is no shard; remove it")
    return names


def _new_name(prefix: str) -> str:
    return prefix + secrets.token_hex(4)


def _has_index(path: Path) -> bool:
    """Return whether a shard of an unfinished data set has its index beside it."""
    try:
        read_index(sidecar_paths(path)[0], path.name, path.stat().st_size, shard_fingerprint(path))
    except (FormatError, OSError):
        return False
    return True


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
