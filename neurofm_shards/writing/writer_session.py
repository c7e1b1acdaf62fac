"""What Python writers share: their settings, the output folder while they have it, keys that are taken, warnings."""

from __future__ import annotations

import os
import sys
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError, OutputExistsError
from neurofm_shards.format.card import write_cards
from neurofm_shards.format.dataset_record import ShardRecord, check_compression, dataset_manifest, unused_codecs
from neurofm_shards.format.files import Folder
from neurofm_shards.format.index_io import load_index
from neurofm_shards.format.keys import automatic_key, automatic_number, named_keys
from neurofm_shards.format.manifest import MANIFEST_NAME, Manifest, manifest_bytes
from neurofm_shards.format.packed_index import commit_manifest
from neurofm_shards.format.resolve import compression_object
from neurofm_shards.format.shard_names import ShardNames
from neurofm_shards.format.unfinished import JOURNAL_NAME, pending_step
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.values import check_whole
from neurofm_shards.writing.field_types import FieldTypes, stored_types
from neurofm_shards.writing.lock import OutputLock
from neurofm_shards.writing.output_folder import OutputFolder


@dataclass(frozen=True)
class WriterSettings:
    """How a Python writer makes shards.

    Attributes
    ----------
    shard_size : int
        Samples per shard.
    names : ShardNames
        What shards are called.
    options : mapping
        Of :class:`~neurofm_shards.writing.shard_writer.ShardWriter`: codec, codecs, compression and durable.
    """

    shard_size: int
    names: ShardNames
    options: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        shard_size: int,
        pattern: str,
        compression: str | Mapping[str, Any] | Compression,
        codec: str,
        codecs: Mapping[str, str] | None,
        *,
        durable: bool,
    ) -> WriterSettings:
        """Check a writer's arguments (raises ConfigError)."""
        check_whole("shard_size", shard_size, "a whole number of samples is needed, 1 or more", least=1)
        found = compression_object(compression)
        options = {"codec": codec, "codecs": dict(codecs or {}), "compression": found or "none", "durable": durable}
        return cls(int(shard_size), ShardNames(pattern, found.suffix if found else ""), options)


class WriterSession:
    """An output folder while a Python writer has it: a finished data set afterwards, or what it held before.

    Parameters
    ----------
    folder : Path
        Made where it does not exist.
    settings : WriterSettings
        How shards are made.
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

    def __init__(self, folder: Path, settings: WriterSettings, *, overwrite: bool) -> None:
        self.output = OutputFolder(folder)
        self.settings = settings
        self._lock = OutputLock(self.output.folder)
        self._lock.acquire()
        try:
            self.base = self._begin(overwrite=overwrite)
        except BaseException:
            self._lock.release()
            raise
        self.mode = self.output.mode() if self.base else None
        self.first_shard = max((shard.shard_idx for shard in self.base.shards), default=-1) + 1 if self.base else 0

    @property
    def folder(self) -> Path:
        """Where shards and manifest go."""
        return self.output.folder

    def _begin(self, *, overwrite: bool) -> Manifest | None:
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
            check_compression(base, self.settings.options["compression"])
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
        path = self.folder / self.settings.names.name(shard_idx)
        if os.path.lexists(path):
            raise OutputExistsError(
                f"{path} exists and is no part of the data set here; move it, or name another folder"
            )
        return path

    def existing_keys(self) -> Iterator[str]:
        """Yield the keys of the data set that is added to."""
        for shard in self.base.shards if self.base else ():
            yield from load_index(self.folder / shard.shard_name, shard.checksum).keys()

    def keys(self) -> KeyRegistry:
        """Return the keys that are taken."""
        return KeyRegistry(self.existing_keys, self.base.next_key if self.base else 1)

    def field_types(self) -> FieldTypes:
        """Return the types of the fields, as the data set that is added to has them."""
        return stored_types(self.folder, self.base)

    def field_warnings(self) -> FieldWarnings:
        """Return warnings that know the fields of the samples before."""
        return FieldWarnings(self.base.modalities if self.base else None)

    def manifest(self, records: Sequence[ShardRecord], next_key: int) -> Manifest:
        """Make the manifest of the data set with these shards."""
        return dataset_manifest(self.base, records, self.settings.shard_size, self.settings.options, next_key)

    def commit(self, manifest: Manifest) -> None:
        """Make what was written a data set: the manifest last."""
        if unused := unused_codecs(self.settings.options["codecs"], [column.name for column in manifest.columns]):
            warnings.warn(unused, UserWarning, stacklevel=4)
        durable = self.settings.options["durable"]
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
        found = next(self.settings.names.found(self.folder), None) if self.folder.is_dir() else None
        if found is not None:
            state = "an interrupted writer left" if self.output.is_marked else "there is"
            raise OutputExistsError(
                f"{state} {found.name} in {self.folder}, and no {MANIFEST_NAME}: pass overwrite=True to replace shards "
                "that this program wrote, or name another folder"
            )


class KeyRegistry:
    """Remembers keys: automatic ones as stretches of numbers, others one by one.

    Parameters
    ----------
    existing : callable
        Returns the keys that were there before; called when the first key that is not automatic comes.
    next_number : int
        Number of the next automatic key.
    """

    def __init__(self, existing: Callable[[], Iterable[str]], next_number: int) -> None:
        self._existing: Callable[[], Iterable[str]] | None = existing
        self._named: set[str] = set()
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.next_number = next_number

    def take_automatic(self, count: int) -> int:
        """Take the next numbers; return the first.

        Raises
        ------
        ConfigError
            A sample was given one of these automatic keys by name.
        """
        first = self.next_number
        if self._named:
            taken = next((n for n in range(first, first + count) if automatic_key(n) in self._named), None)
            if taken is not None:
                raise ConfigError(
                    f"the automatic key {automatic_key(taken)!r} was given to another sample by name; give all samples "
                    "ids, or none"
                )
        if self._stops and self._stops[-1] == first:
            self._stops[-1] = first + count
        else:
            self._starts.append(first)
            self._stops.append(first + count)
        self.next_number = first + count
        return first

    def take_named(self, ids: Sequence[str | int]) -> None:
        """Take keys that their caller named.

        Raises
        ------
        ConfigError
            One was used before.
        """
        if self._existing is not None:
            self._named.update(self._existing())
            self._existing = None
        keys = named_keys(ids).keys
        before = len(self._named)
        fresh = set(keys)
        if len(fresh) < len(keys) or not fresh.isdisjoint(self._named) or any(map(self._is_automatic, keys)):
            raise ConfigError(self._explained(ids, keys))
        self._named.update(keys)
        self.next_number += len(self._named) - before

    def give_back(self, sample_id: str | int | None) -> None:
        """Forget the key that was taken last (None: an automatic one), whose sample was not written after all."""
        self.next_number -= 1
        if sample_id is None:
            self._stops[-1] -= 1
        else:
            self._named.difference_update(named_keys([sample_id]).keys)

    def _is_automatic(self, key: str) -> bool:
        number = automatic_number(key)
        if number is None:
            return False
        place = bisect_right(self._starts, number) - 1
        return place >= 0 and number < self._stops[place]

    def _explained(self, ids: Sequence[str | int], keys: Sequence[str]) -> str:
        seen = set(self._named)
        for given, key in zip(ids, keys, strict=True):
            if key in seen or self._is_automatic(key):
                return f"sample id {given!r} is used a second time; ids must be unique over the whole data set"
            seen.add(key)
        raise AssertionError("some key was used before")


class FieldWarnings:
    """Warns, once each, of what makes shards harder to read for other programs.

    Parameters
    ----------
    fields : sequence of str, optional
        Fields of the samples before.
    """

    def __init__(self, fields: Sequence[str] | None) -> None:
        self._fields = set(fields) if fields else None
        self._differs = False
        self._upper: set[str] = set()

    def check(self, sample: Iterable[str]) -> None:
        """Look at the fields of one sample."""
        if self._fields is None:
            self._fields = set(sample)
            self._check_case(self._fields)
        elif not self._differs and self._fields != set(sample):
            self._differs = True
            differing = sorted(self._fields.symmetric_difference(sample))
            self._check_case(differing)
            warnings.warn(
                f"samples differ in their fields ({', '.join(differing)}): nothing is lost, but Hugging Face datasets "
                "takes the columns of the first five samples for all, and batches get masks (NAME_valid) or lists with "
                "gaps",
                UserWarning,
                stacklevel=3,
            )

    def _check_case(self, fields: Iterable[str]) -> None:
        upper = {field for field in fields if field != field.lower()} - self._upper
        if upper:
            self._upper |= upper
            warnings.warn(
                f"field names {sorted(upper)} have upper-case letters: webdataset gives them in lower case, and file "
                "systems that ignore case confuse them",
                UserWarning,
                stacklevel=4,
            )


def check_one_each(values: Sized, count: int, name: str) -> None:
    """Refuse ids or metadata of which there are not as many as samples."""
    if len(values) != count:
        raise ConfigError(f"{name} has {len(values)} entries for {counted(count, 'sample')}: give one per sample")


def progress_bar(*, show: bool) -> AbstractContextManager[Progress | None]:
    """Return bars on standard error; None where that is no terminal: making them costs as much as writing a sample."""
    return Progress(console=Console(stderr=True)) if show and sys.stderr.isatty() else nullcontext()
