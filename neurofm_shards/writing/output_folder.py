"""The output folder: what is there already, what may go, what is pending, and how shards get there."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from neurofm_shards.errors import ConfigError, FormatError, OutputExistsError
from neurofm_shards.format.card import CARD_NAME, is_our_card, write_card
from neurofm_shards.format.files import (
    LOCK_NAME,
    SIDECAR_DIR,
    OutputLock,
    remove_stale_partials,
    sync_folder,
    write_atomically,
)
from neurofm_shards.format.index_io import build_index, index_path, load_index, read_index, shard_fingerprint
from neurofm_shards.format.manifest import (
    MANIFEST_NAME,
    Manifest,
    manifest_bytes,
    plain_file_name,
    read_manifest,
    write_manifest,
)
from neurofm_shards.format.metadata_table import sidecar_paths
from neurofm_shards.format.unfinished import (
    COMMITTED_PREFIX,
    DOOMED_NAME,
    JOURNAL_NAME,
    REPLACEMENT_NAME,
    UNFINISHED_NAME,
    JournalContent,
    JournalHeader,
    boot_id,
    pending_step,
    read_journal,
    remove_journal,
)

DEFAULT_PATTERN = "shard_{shard_idx:06d}.tar"
#: The number may be padded; a width of a billion, or an attribute, is nothing that a name needs.
_PATTERN = re.compile(r"([^{}]|\{shard_idx(:0?\d{1,2}d?)?\})*")


class ShardNames:
    """Names of shards by number.

    Parameters
    ----------
    pattern : str
        With ``{shard_idx}``, ending in ``.tar``; the compression's suffix is added.
    suffix : str
        Of the compression, with its dot; empty for plain tar.
    """

    def __init__(self, pattern: str, suffix: str) -> None:
        if not _PATTERN.fullmatch(pattern):
            raise ConfigError(
                f"shard_name_pattern {pattern!r:.120} gives no plain file name: its one field is {{shard_idx}}, with a "
                "width of at most two digits, as in '{shard_idx:06d}'"
            )
        self._pattern = pattern if suffix and pattern.endswith(f".tar{suffix}") else pattern + suffix
        try:
            first, second = self.name(0), self.name(1)
            plain_file_name(first)
        except ValueError as error:
            raise ConfigError(f"shard_name_pattern {pattern!r} gives no plain file name: {error}") from error
        if first == second:
            raise ConfigError(f"shard_name_pattern {pattern!r} gives all shards one name: it needs '{{shard_idx:06d}}'")
        if not first.endswith(f".tar{suffix}") or first.startswith("."):
            raise ConfigError(
                f"shard_name_pattern {pattern!r} must end in '.tar{suffix}' for the readers to find shards"
            )
        self._glob = re.sub(r"\d+", "*", first)

    def name(self, shard_idx: int) -> str:
        """Return one shard's file name."""
        return self._pattern.format(shard_idx=shard_idx)

    def found(self, folder: Path) -> Iterator[Path]:
        """Yield files that have such names."""
        yield from sorted(folder.glob(self._glob))


class Target:
    """An output folder; holds a finished data set afterwards, or what it held before.

    Parameters
    ----------
    folder : Path
        Made where it does not exist.
    names : ShardNames
        What shards are called.
    overwrite : bool
        Replace a data set of ours that is there; otherwise a finished one is added to.

    Attributes
    ----------
    base : Manifest or None
        The data set that is added to.

    Raises
    ------
    OutputExistsError
        The folder holds shards that are not part of a finished data set.
    """

    def __init__(self, folder: Path, names: ShardNames, *, overwrite: bool) -> None:
        self.folder = folder
        self.names = names
        self._lock = OutputLock(folder)
        self._lock.acquire()
        try:
            self.base = self._begin(overwrite=overwrite)
        except BaseException:
            self._lock.release()
            raise
        self.first_shard = max((shard.shard_idx for shard in self.base.shards), default=-1) + 1 if self.base else 0

    def _begin(self, *, overwrite: bool) -> Manifest | None:
        """Clean up after dead writers, mark the folder as unfinished, and return the data set that is added to."""
        remove_stale_partials(self.folder)
        remove_stale_partials(self._sidecars)
        if overwrite and self._is_ours():
            self._mark()  # first, so that a deletion that is interrupted leaves no data set
            self._delete_ours()
            return None
        base = read_manifest(self.folder)
        if base is None:
            self._check_free()
        elif (pending := pending_step(self.folder)) is not None:
            raise OutputExistsError(f"{pending}; or pass overwrite=True")
        else:
            self._remove_left_by_writer(base)
            _warn_of_addition(self.folder, base)
        self._mark()
        return base

    def _mark(self) -> None:
        write_atomically(self._sidecars / UNFINISHED_NAME, [b"a data set is being written here\n"])

    def _remove_left_by_writer(self, base: Manifest) -> None:
        """Delete the shards that a killed writer added without coming to list them."""
        if not (self._sidecars / UNFINISHED_NAME).exists():
            return
        listed = {shard.shard_name for shard in base.shards}
        for path in list(self.names.found(self.folder)):
            if path.name not in listed and _has_index(path):
                _delete_shard(path)

    @property
    def _sidecars(self) -> Path:
        return self.folder / SIDECAR_DIR

    def shard_path(self, shard_idx: int) -> Path:
        """Return where a new shard goes.

        Raises
        ------
        OutputExistsError
            A file is there.
        """
        path = self.folder / self.names.name(shard_idx)
        if path.exists():
            raise OutputExistsError(
                f"{path} exists and is no part of the data set here; move it, or name another folder"
            )
        return path

    def existing_keys(self) -> Iterator[str]:
        """Yield the keys of the data set that is added to."""
        for shard in self.base.shards if self.base else ():
            yield from load_index(self.folder / shard.shard_name, shard.num_samples).keys()

    def commit(self, manifest: Manifest, *, durable: bool) -> None:
        """Make what was written a data set: the manifest last."""
        write_card(self.folder, manifest, durable=durable)
        write_manifest(self.folder, manifest, durable=durable)
        (self._sidecars / UNFINISHED_NAME).unlink(missing_ok=True)
        self._lock.release()

    def discard(self, shard_names: list[str]) -> None:
        """Delete what was written, so that the folder holds what it held before."""
        for name in shard_names:
            _delete_shard(self.folder / name)
        (self._sidecars / UNFINISHED_NAME).unlink(missing_ok=True)
        self._lock.release()

    def _check_free(self) -> None:
        if (self._sidecars / JOURNAL_NAME).exists():
            raise OutputExistsError(
                f"{self.folder} holds an unfinished conversion: go on with `neurofm-shards convert --resume`, or pass "
                "overwrite=True"
            )
        found = next(self.names.found(self.folder), None) if self.folder.is_dir() else None
        if found is not None:
            state = "an interrupted writer left" if (self._sidecars / UNFINISHED_NAME).exists() else "there is"
            raise OutputExistsError(
                f"{state} {found.name} in {self.folder}, and no {MANIFEST_NAME}: pass overwrite=True to replace shards "
                "that this program wrote, or name another folder"
            )

    def _is_ours(self) -> bool:
        """Say whether there is a data set of ours, finished or not; indexes alone may lie beside shards of others."""
        marks = (self.folder / MANIFEST_NAME, self._sidecars / UNFINISHED_NAME, self._sidecars / JOURNAL_NAME)
        return any(mark.exists() for mark in marks)

    def _delete_ours(self) -> None:
        names = self._listed()
        replacement = self._sidecars / REPLACEMENT_NAME
        marks = [self._sidecars / name for name in (JOURNAL_NAME, DOOMED_NAME)]
        for mark in (self.folder / MANIFEST_NAME, *marks, replacement / MANIFEST_NAME):
            mark.unlink(missing_ok=True)  # the manifest first: what no manifest names does not exist
        shutil.rmtree(replacement, ignore_errors=True)
        for path in self._sidecars.glob(f"{COMMITTED_PREFIX}*"):
            shutil.rmtree(path)
        for path in [*(self.folder / name for name in sorted(names)), *self.names.found(self.folder)]:
            if path.name in names or _has_index(path):
                _delete_shard(path)
        if is_our_card(self.folder / CARD_NAME):
            (self.folder / CARD_NAME).unlink()
        shutil.rmtree(self._sidecars / "tables", ignore_errors=True)

    def _listed(self) -> set[str]:
        try:
            manifest = read_manifest(self.folder)
        except FormatError:
            return set()  # what a damaged manifest listed is found by its sidecars
        return {shard.shard_name for shard in manifest.shards} if manifest else set()


def _warn_of_addition(folder: Path, base: Manifest) -> None:
    lost = "; its statistics, which do not cover what is added, are left out" if base.statistics else ""
    warnings.warn(
        f"{folder} already holds a data set of {base.total_samples:,} samples: new samples are added to it{lost} "
        "(overwrite=True would replace it)",
        UserWarning,
        stacklevel=5,
    )


def _has_index(path: Path) -> bool:
    """Say whether a shard of an unfinished data set has its index beside it."""
    try:
        read_index(sidecar_paths(path)[0], path.name, path.stat().st_size, shard_fingerprint(path))
    except (FormatError, OSError):
        return False
    return True


def _delete_shard(path: Path) -> None:
    path.unlink(missing_ok=True)
    for sidecar in sidecar_paths(path):
        sidecar.unlink(missing_ok=True)


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
