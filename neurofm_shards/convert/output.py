"""The output folder: what is in it, whether it may be written, and how shards get there."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from neurofm_shards.errors import ConfigError, FormatError, OutputExistsError
from neurofm_shards.format.card import CARD_NAME, is_our_card
from neurofm_shards.format.files import sync_folder, write_atomically
from neurofm_shards.format.index_io import index_path, read_index
from neurofm_shards.format.manifest import MANIFEST_NAME, SIDECAR_DIR, Manifest
from neurofm_shards.shards.fingerprints import shard_fingerprint
from neurofm_shards.shards.index_builder import build_index
from neurofm_shards.shards.lock import LOCK_NAME
from neurofm_shards.shards.manifest import manifest_bytes, read_manifest
from neurofm_shards.shards.sidecars import sidecar_paths
from neurofm_shards.shards.unfinished import (
    COMMITTED_PREFIX,
    DOOMED_NAME,
    JOURNAL_NAME,
    REPLACEMENT_NAME,
    UNFINISHED_NAME,
)
from neurofm_shards.writing.journal import JournalContent, JournalHeader, boot_id, read_journal, remove_journal

_STAGING = "staging-"
_REMOVED = "removed.json"


def checksum(manifest: Manifest) -> str:
    """Return what additions remember of the data set that they add to."""
    return xxhash.xxh3_128_hexdigest(manifest_bytes(manifest))


@dataclass(frozen=True)
class Output:
    """An output folder.

    Attributes
    ----------
    folder : Path
        Where shards and manifest go.
    """

    folder: Path

    @property
    def sidecars(self) -> Path:
        """The hidden folder of indexes, tables and the journal."""
        return self.folder / SIDECAR_DIR

    def manifest(self) -> Manifest | None:
        """Read the manifest, None where there is none."""
        return read_manifest(self.folder)

    def journal(self) -> JournalContent | None:
        """Read the journal of an unfinished conversion, None where there is none."""
        return read_journal(self.sidecars)

    def check_free(self) -> None:
        """Refuse a folder that holds anything.

        Raises
        ------
        OutputExistsError
            Saying what it holds and which option goes on.
        """
        journal = self.journal()
        if self._has_manifest():
            raise OutputExistsError(
                f"{self.folder} already holds a data set; add to it with --append, replace it with --overwrite, or "
                "choose another output"
            )
        if journal is not None:
            raise OutputExistsError(
                f"{self.folder} holds an unfinished conversion ({len(journal.shards)} of "
                f"{journal.header.total_shards} shards are written); go on with --resume, or start again with "
                "--overwrite"
            )
        if (self.sidecars / UNFINISHED_NAME).exists():
            raise OutputExistsError(
                f"{self.folder} holds what an interrupted writer left; start again with --overwrite, or choose another "
                "output"
            )
        others = self._others()
        if others:
            raise OutputExistsError(
                f"{self.folder} is not empty: it holds {', '.join(others[:3])}{' ...' if len(others) > 3 else ''}, "
                "which is no data set of ours; choose another output (--overwrite deletes nothing that is not ours)"
            )

    def clean(self) -> None:
        """Finish the steps that dead runs had decided, and remove what is of no use to go on with."""
        if not self.sidecars.is_dir():
            return
        for path in sorted(self.sidecars.glob(f"{COMMITTED_PREFIX}*")):
            self._apply(path)
        for path in self.sidecars.glob(f"{_STAGING}*"):
            shutil.rmtree(path)
        self._drop_spent_journal()
        if self.replacement() is None:
            self.give_up_replacement()
        for folder in (self.folder, self.sidecars, self.sidecars / "tables"):
            for path in folder.glob(".*.partial"):
                path.unlink()
        if (self.sidecars / DOOMED_NAME).exists():
            self._finish_deleting()

    def _drop_spent_journal(self) -> None:
        """Remove the journal of a conversion whose manifest stands already, or of an addition to an older manifest."""
        manifest, journal = self._manifest_if_sound(), self.journal()
        if manifest is None or journal is None:
            return
        if journal.header.kind == "convert" or journal.header.identity["base"] != checksum(manifest):
            self.give_up_addition()

    def give_up_addition(self) -> int:
        """Forget an unfinished addition to a data set; return how many of its shards were deleted."""
        manifest, journal = self._manifest_if_sound(), self.journal()
        if manifest is None or journal is None:
            return 0
        lines = (line["shard"] for line in journal.shards.values())
        unlisted = {shard["shard_name"] for shard in lines if shard is not None} - self._listed()
        for name in unlisted:
            self._delete_shard(name)
        remove_journal(self.sidecars)
        return len(unlisted)

    def delete(self) -> None:
        """Delete the data set or unfinished conversion in this folder, and nothing else.

        The names are written down first, so that a deletion that is interrupted is finished by the next run.
        """
        if not self.folder.is_dir():
            return
        names = sorted(self._our_names())
        self.sidecars.mkdir(exist_ok=True)
        write_atomically(self.sidecars / DOOMED_NAME, [json.dumps(names).encode()], durable=True)
        self._finish_deleting()

    def begin_overwriting(self) -> Output:
        """Return where the new data set goes: beside the present one, or here where there is no whole one to keep."""
        if self.manifest() is None:
            self.delete()
            return self
        self.give_up_addition()
        self.give_up_replacement()
        replacement = Output(self.sidecars / REPLACEMENT_NAME)
        replacement.sidecars.mkdir(parents=True)
        return replacement

    def finish_overwriting(self, new: Output, *, durable: bool) -> None:
        """Put the finished data set in place of the present one, as one step; see :meth:`replace`.

        Raises
        ------
        OutputExistsError
            A file that is not ours has the name of a new shard.
        """
        if new == self:
            return
        present, names = self.shard_names(), new.shard_names()
        strangers = sorted(name for name in names - present if (self.folder / name).exists())
        if strangers:
            raise OutputExistsError(
                f"{self.folder / strangers[0]} is no part of the data set here, and would be replaced; move it, and "
                "run the same command again with --resume"
            )
        self.replace(new.folder, present - names, durable=durable)
        (self.sidecars / UNFINISHED_NAME).unlink(missing_ok=True)

    def replacement(self) -> Output | None:
        """Return what an interrupted run wrote of a replacement; None where it came to record nothing."""
        replacement = Output(self.sidecars / REPLACEMENT_NAME)
        return replacement if replacement.is_ours() else None

    def check_not_being_replaced(self) -> None:
        """Refuse to change a data set that an interrupted run was replacing.

        Raises
        ------
        ConfigError
            Saying how to finish that, or to give it up.
        """
        if self.replacement() is not None:
            raise ConfigError(
                f"{self.folder} has an unfinished replacement, begun with --overwrite; finish it first with the same "
                "command and --resume, or give it up with repair"
            )

    def give_up_replacement(self) -> bool:
        """Forget an unfinished replacement; say whether there was one."""
        path = self.sidecars / REPLACEMENT_NAME
        if not path.exists():
            return False
        spent = self.sidecars / f"{_STAGING}{secrets.token_hex(4)}"
        os.replace(path, spent)  # noqa: PTH105  (what is half deleted must not be taken for what can be finished)
        shutil.rmtree(spent)
        return True

    def new_staging(self) -> Path:
        """Make a folder in which workers write; shards are moved out of it when they are whole."""
        staging = self.sidecars / f"{_STAGING}{secrets.token_hex(4)}"
        staging.mkdir(parents=True)
        return staging

    def publish(self, staged: Path, *, durable: bool) -> None:
        """Move everything in a task's staging folder into place: sidecars first, the shard last."""
        files = sorted((path for path in staged.rglob("*") if path.is_file()), key=lambda path: path.parent == staged)
        folders = set()
        for path in files:
            target = self.folder / path.relative_to(staged)
            if target.parent not in folders:
                target.parent.mkdir(parents=True, exist_ok=True)
                folders.add(target.parent)
            os.replace(path, target)  # noqa: PTH105  (the same call)
        if durable:
            for folder in folders:
                sync_folder(folder)
        shutil.rmtree(staged)

    def replace(self, staged: Path, removed: Iterable[str], *, durable: bool) -> None:
        """Put a staging folder's files, the manifest among them, in place of the present ones, as one step.

        The decision is the renaming of the staging folder: from then on every run that locks the output finishes what a
        crash may have interrupted. Readers see the present data set until the manifest is renamed, provided that no
        file takes the name of one that the present manifest lists; otherwise the present manifest goes first.

        Parameters
        ----------
        staged : Path
            From :meth:`new_staging`; laid out like the output.
        removed : iterable of str
            Names of files to remove.
        durable : bool
            Whether the files are synced, and the renames are to be.
        """
        write_atomically(staged / _REMOVED, [json.dumps(list(removed)).encode()], durable=durable)
        committed = staged.with_name(COMMITTED_PREFIX + staged.name.removeprefix(_STAGING))
        os.replace(staged, committed)  # noqa: PTH105  (the same call)
        if durable:
            sync_folder(self.sidecars)
        self._apply(committed)

    def _apply(self, committed: Path) -> None:
        removed = json.loads((committed / _REMOVED).read_bytes())
        files = sorted(path for path in committed.rglob("*") if path.is_file() and path.name != _REMOVED)
        if self._listed() & {path.name for path in files}:
            (self.folder / MANIFEST_NAME).unlink()
        card = self.folder / CARD_NAME
        if card.exists() and not is_our_card(card):
            files = [path for path in files if path != committed / CARD_NAME]
        for path in sorted(files, key=lambda path: path.name == MANIFEST_NAME):
            target = self.folder / path.relative_to(committed)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)  # noqa: PTH105  (the same call)
        for name in removed:
            self._delete_shard(name)
        self._delete_unlisted_tables()
        for folder in (self.folder, self.sidecars):
            sync_folder(folder)
        spent = committed.with_name(_STAGING + committed.name.removeprefix(COMMITTED_PREFIX))
        os.replace(committed, spent)  # noqa: PTH105  (a deletion that is interrupted must not be taken for a step)
        shutil.rmtree(spent)

    def _delete_unlisted_tables(self) -> None:
        manifest = self._manifest_if_sound()
        listed = {entry.file for entry in manifest.tables.values()} if manifest is not None else set()
        for path in self.sidecars.glob("tables/*.json"):
            if str(path.relative_to(self.folder)) not in listed:
                path.unlink()

    def _delete_shard(self, name: str) -> None:
        path = self.folder / os.path.basename(name)  # noqa: PTH119  (never leaves the folder)
        for file in (path, *sidecar_paths(path)):
            file.unlink(missing_ok=True)

    def _listed(self) -> set[str]:
        manifest = self._manifest_if_sound()
        return {entry.shard_name for entry in manifest.shards} if manifest is not None else set()

    def _manifest_if_sound(self) -> Manifest | None:
        try:
            return self.manifest()
        except FormatError:
            return None  # damaged ones are for repair, and say so where they are used

    def is_sound(self, line: Mapping[str, Any], header: JournalHeader) -> bool:
        """Say whether a recorded shard is still what was written.

        A killed process loses nothing that was written, so a look at the shard's ends is enough; after a power loss
        (another boot), a run that did not sync may have lost any part of it, so all of it is read.
        """
        entry = line["shard"]
        if entry is None:
            return True
        path = self.folder / entry["shard_name"]
        if not all(sidecar.is_file() for sidecar in (path, *sidecar_paths(path))):
            return False
        try:
            index = read_index(index_path(path), path.name, path.stat().st_size, shard_fingerprint(path))
            if not header.durable and header.boot != boot_id():
                index = build_index(path)
        except FormatError:
            return False
        return bool(index.checksum == entry["checksum"])

    def shard_names(self) -> set[str]:
        """Return the names of all shards of the data set or unfinished conversion in this folder."""
        manifest, journal = self.manifest(), self.journal()
        listed = {entry.shard_name for entry in manifest.shards} if manifest is not None else set()
        written = [line["shard"] for line in journal.shards.values()] if journal is not None else []
        return listed | {shard["shard_name"] for shard in written if shard is not None} | self._left_by_writer()

    def _left_by_writer(self) -> set[str]:
        if not (self.sidecars / UNFINISHED_NAME).exists():
            return set()
        files = [path for path in self.folder.iterdir() if path.is_file()]
        return {path.name for path in files if all(sidecar.is_file() for sidecar in sidecar_paths(path))}

    def is_ours(self) -> bool:
        """Say whether the folder holds a data set or an unfinished conversion."""
        marked = (self.sidecars / UNFINISHED_NAME).exists()
        return self._has_manifest() or self.journal() is not None or marked

    def _has_manifest(self) -> bool:
        return (self.folder / MANIFEST_NAME).exists()

    def _our_names(self) -> Iterable[str]:
        yield from self.shard_names()
        if is_our_card(self.folder / CARD_NAME):
            yield CARD_NAME

    def _finish_deleting(self) -> None:
        names = json.loads((self.sidecars / DOOMED_NAME).read_bytes())
        (self.folder / MANIFEST_NAME).unlink(missing_ok=True)  # first: what is not in a manifest does not exist
        for name in names:
            (self.folder / os.path.basename(name)).unlink(missing_ok=True)  # noqa: PTH119  (never leaves the folder)
        for path in self.sidecars.iterdir():
            if path.name in (LOCK_NAME, DOOMED_NAME):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        sync_folder(self.folder)
        (self.sidecars / DOOMED_NAME).unlink()

    def _others(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        ours = {LOCK_NAME, JOURNAL_NAME, DOOMED_NAME}
        inside = [path.name for path in self.sidecars.iterdir()] if self.sidecars.is_dir() else []
        hidden = [f"{SIDECAR_DIR}/{name}" for name in inside if name not in ours and not name.startswith(_STAGING)]
        return sorted(path.name for path in self.folder.iterdir() if path.name != SIDECAR_DIR) + hidden
