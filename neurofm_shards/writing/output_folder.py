"""The folder a Python writer writes to: what is there already, what may go, and what is left after an error."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

from neurofm_shards.errors import ConfigError, FormatError, OutputExistsError
from neurofm_shards.format.card import CARD_NAME, is_our_card, write_card
from neurofm_shards.format.files import remove_stale_partials, write_atomically
from neurofm_shards.format.index_io import load_index, read_index
from neurofm_shards.format.manifest import MANIFEST_NAME, SIDECAR_DIR, Manifest, plain_file_name
from neurofm_shards.shards.fingerprints import shard_fingerprint
from neurofm_shards.shards.lock import OutputLock
from neurofm_shards.shards.manifest import read_manifest, write_manifest
from neurofm_shards.shards.sidecars import sidecar_paths
from neurofm_shards.shards.unfinished import (
    COMMITTED_PREFIX,
    DOOMED_NAME,
    JOURNAL_NAME,
    REPLACEMENT_NAME,
    UNFINISHED_NAME,
    pending_step,
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
