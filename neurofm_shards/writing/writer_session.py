"""What one Python writer does to an output folder: it locks, adds, and in the end commits or takes everything back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from neurofm_shards._wording import counted
from neurofm_shards.errors import OutputExistsError
from neurofm_shards.format.card import write_cards
from neurofm_shards.format.dataset_record import check_compression
from neurofm_shards.format.files import Folder
from neurofm_shards.format.index_io import load_index
from neurofm_shards.format.manifest import MANIFEST_NAME, Manifest, manifest_bytes
from neurofm_shards.format.packed_index import commit_manifest
from neurofm_shards.format.shard_names import ShardNames
from neurofm_shards.format.unfinished import JOURNAL_NAME, pending_step
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.writing.lock import OutputLock
from neurofm_shards.writing.output_folder import OutputFolder


class WriterSession:
    """An output folder while a Python writer has it: a finished data set afterwards, or what it held before.

    Parameters
    ----------
    folder : Path
        Made where it does not exist.
    names : ShardNames
        What shards are called.
    compression : Compression or None
        Of the shards that will be written.
    overwrite : bool
        Replace a data set of ours that is there; otherwise a finished one is added to.

    Attributes
    ----------
    base : Manifest or None
        The data set that is added to.
    mode : int or None
        Permission bits of new shards, as strict as those of the data set that is added to.

    Raises
    ------
    OutputExistsError
        The folder holds shards that are not part of a finished data set.
    ConfigError
        The data set that is added to has another compression.
    """

    def __init__(self, folder: Path, names: ShardNames, compression: Compression | None, *, overwrite: bool) -> None:
        self.output = OutputFolder(folder)
        self.names = names
        self._lock = OutputLock(self.output.folder)
        self._lock.acquire()
        try:
            self.base = self._begin(compression, overwrite=overwrite)
        except BaseException:
            self._lock.release()
            raise
        self.mode = self.output.mode() if self.base else None
        self.first_shard = max((shard.shard_idx for shard in self.base.shards), default=-1) + 1 if self.base else 0

    @property
    def folder(self) -> Path:
        """Where shards and manifest go."""
        return self.output.folder

    def _begin(self, compression: Compression | None, *, overwrite: bool) -> Manifest | None:
        """Mark the folder as unfinished, and return the data set that is added to."""
        output = self.output
        output.check_no_links()
        if overwrite and output.is_ours():
            output.mark()  # first, so that a deletion that is interrupted leaves no data set
            output.delete()
            output.clean()
            output.mark()
            return None
        base = output.manifest()
        if base is None:
            self._check_free()
        elif (pending := pending_step(self.folder)) is not None:
            raise OutputExistsError(f"{pending}; or pass overwrite=True")
        else:
            check_compression(base, compression or "none")
            output.give_up_addition()
        output.clean()
        output.mark()
        return base

    def warn_of_addition(self) -> None:
        """Tell the caller of a writer that samples are added to others."""
        if self.base is None:
            return
        lost = "; its statistics, which do not cover what is added, are left out" if self.base.statistics else ""
        warnings.warn(
            f"{self.folder} already holds a data set of {counted(self.base.total_samples, 'sample')}: new samples "
            f"are added to it{lost} (overwrite=True would replace it)",
            UserWarning,
            stacklevel=3,
        )

    def shard_path(self, shard_idx: int) -> Path:
        """Return where a new shard goes (raises OutputExistsError)."""
        path = self.folder / self.names.name(shard_idx)
        if os.path.lexists(path):
            raise OutputExistsError(
                f"{path} exists and is no part of the data set here; move it, or name another folder"
            )
        return path

    def existing_keys(self) -> Iterator[str]:
        """Yield the keys of the data set that is added to."""
        for shard in self.base.shards if self.base else ():
            yield from load_index(self.folder / shard.shard_name, shard.checksum).keys()

    def commit(self, manifest: Manifest, *, durable: bool) -> None:
        """Make what was written a data set: the manifest last."""
        write_cards(self.folder, manifest, durable=durable)
        commit_manifest(self.folder, manifest, durable=durable)

    def is_committed(self, manifest: Manifest) -> bool:
        """Return whether the manifest in the folder is this one, whatever interrupted the call that wrote it."""
        with Folder.open(self.folder) as folder:
            return folder.has(MANIFEST_NAME) and folder.read(MANIFEST_NAME) == manifest_bytes(manifest)

    def end(self) -> None:
        """Take the mark away and give the lock back, once the manifest stands."""
        try:
            self.output.unmark()
        finally:
            self.release()

    def release(self) -> None:
        """Give the lock back; what was written stays as it is."""
        self._lock.release()

    def discard(self, shard_names: Iterable[str]) -> None:
        """Delete what was written and is not listed, so that the folder holds what it held before."""
        try:
            self.output.discard(shard_names)
        finally:
            self.release()

    def _check_free(self) -> None:
        if (self.output.sidecars / JOURNAL_NAME).exists():
            raise OutputExistsError(
                f"{self.folder} holds an unfinished conversion: finish it by running the same conversion again with "
                "mode='resume', or pass overwrite=True"
            )
        found = next(self.names.found(self.folder), None) if self.folder.is_dir() else None
        if found is not None:
            state = "an interrupted writer left" if self.output.is_marked else "there is"
            raise OutputExistsError(
                f"{state} {found.name} in {self.folder}, and no {MANIFEST_NAME}: pass overwrite=True to replace shards "
                "that this program wrote, or name another folder"
            )
