"""Write a data set sample by sample, with unique keys."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import track

from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError
from neurofm_shards.format.dataset_record import ShardRecord, dataset_manifest
from neurofm_shards.format.keys import automatic_key, automatic_number, named_keys
from neurofm_shards.format.manifest import summary
from neurofm_shards.format.resolve import compression_object
from neurofm_shards.format.shard_names import DEFAULT_SHARD_NAMES, ShardNames
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.types import Metadata, Sample
from neurofm_shards.writing.field_types import FieldTypes
from neurofm_shards.writing.shard_writer import ShardWriter
from neurofm_shards.writing.writer_session import WriterSession

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


_FINISHED = "this writer is finished: make another one (it adds to the data set that is there)"
_GIVEN_UP = "this writer was given up: make another one"


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


class WebDatasetWriter:
    """Writes samples into shards of a folder; several threads may use one writer.

    Used as a context manager it finishes the data set at the end of the block; an exception in the block leaves the
    folder as it was. A finished data set that is there already is added to, with a warning.

    Parameters
    ----------
    output_dir : path-like
        The folder; made where it does not exist.
    shard_size : int
        Samples per shard.
    shard_name_pattern : str
        Names of the shards; the compression's suffix is added.
    compression : str, dict or Compression
        ``"none"``, ``"gz"``, ``"bz2"``, ``"xz"``, or what a plugin provides.
    codec : str
        How arrays are stored: ``"pyd"`` or ``"npy"`` (which Hugging Face datasets and Ray decode too).
    codecs : mapping of str to str, optional
        Codecs of single fields.
    durable : bool
        Sync every file to the disk. Costs more than the writing itself.
    overwrite : bool
        Replace the data set that is there. Files that are no part of it stay.

    Raises
    ------
    OutputExistsError
        The folder holds shards that are no finished data set of ours.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> with WebDatasetWriter(tempfile.mkdtemp()) as writer:
    ...     for trial in range(3):
    ...         writer.write_sample({"spikes": np.zeros((100, 96), "u1")}, metadata={"trial": trial})
    'sample_000000001'
    'sample_000000002'
    'sample_000000003'
    >>> writer.finalize()["total_samples"]
    3
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        shard_size: int = 1000,
        shard_name_pattern: str = DEFAULT_SHARD_NAMES,
        compression: str | Mapping[str, Any] | Compression = "none",
        *,
        codec: str = "pyd",
        codecs: Mapping[str, str] | None = None,
        durable: bool = False,
        overwrite: bool = False,
    ) -> None:
        if isinstance(shard_size, bool) or not isinstance(shard_size, int) or shard_size < 1:
            raise ConfigError(f"shard_size is {shard_size!r}; it must be a whole number of samples, at least 1")
        self._compression = compression_object(compression)
        suffix = self._compression.suffix if self._compression else ""
        names = ShardNames(shard_name_pattern, suffix)
        self._options: dict[str, Any] = {
            "codec": codec,
            "codecs": dict(codecs or {}),
            "compression": self._compression or "none",
            "durable": durable,
        }
        self._shard_size = shard_size
        self._session = WriterSession(Path(output_dir), names, self._compression, overwrite=overwrite)
        self._session.warn_of_addition()
        self._records: list[ShardRecord] = []
        self._shard: ShardWriter | None = None
        base = self._session.base
        self._keys = KeyRegistry(self._session.existing_keys, base.next_key if base else 1)
        self._warned = FieldWarnings(base.modalities if base else None)
        self._types = FieldTypes([column.spec for column in base.columns] if base else [])
        self._summary: dict[str, Any] | None = None
        self._closed_because = ""
        self._one_at_a_time = threading.RLock()

    def write_sample(self, sample: Sample, sample_id: str | int | None = None, metadata: Metadata | None = None) -> str:
        """Write one sample.

        Parameters
        ----------
        sample : dict
            Field name to value: arrays, tensors, or JSON values.
        sample_id : str or int, optional
            Any text or number, unique in the data set; by default ``sample_000000001`` and so on. What a key cannot
            hold is escaped; the metadata keep the text as it was given.
        metadata : dict, optional
            JSON values and numpy scalars; written beside ``sample_id``, ``modalities``, ``shard_idx`` and
            ``sample_idx_in_shard``, which are always there and are always the writer's own.

        Returns
        -------
        str
            The sample's key.

        Raises
        ------
        ConfigError
            The writer is finished, the id was used before, or a field name cannot be written.
        EncodeError
            A value cannot be stored, or would have to be changed to have the type of its field: numbers of one kind
            go together, None among them is a gap (batches say where, in ``NAME_valid``). Nothing of the sample was
            written, and the next one may be.
        """
        with self._one_at_a_time:
            self._check_open()
            if not isinstance(sample, Mapping) or not sample:
                raise ConfigError(f"a sample is a dict of at least one field, not {sample!r:.80}")
            where = f"sample {self._keys.next_number if sample_id is None else sample_id!r}"
            try:
                key = self._write_typed(self._types.unified(sample, where), sample_id, metadata)
            except BaseException:
                self._types.forget()
                raise
            self._warned.check(sample)
            if self._shard is not None and self._shard.num_samples >= self._shard_size:
                self._close_shard()
            return key

    def _write_typed(self, sample: Sample, sample_id: str | int | None, metadata: Metadata | None) -> str:
        shard = self._shard or self._next_shard()
        if sample_id is None:
            shard.first_idx = self._keys.next_number - shard.num_samples
            self._keys.take_automatic(1)
        else:
            self._keys.take_named([sample_id])
        try:
            return shard.write_sample(sample_id, sample, metadata)
        except BaseException:
            self._keys.give_back(sample_id)
            raise

    def write_batch(
        self,
        samples: Sequence[Sample] | Mapping[str, Any],
        sample_ids: Sequence[str | int] | None = None,
        metadata: Sequence[Metadata] | Metadata | None = None,
        show_progress: bool = True,
    ) -> list[str]:
        """Write many samples; return their keys.

        Parameters
        ----------
        samples : sequence of dict, or dict of arrays
            Samples, or their fields as arrays of shape (n, ...).
        sample_ids : sequence of str or int, optional
            One per sample.
        metadata : dict or sequence of dict, optional
            Of all samples, or one per sample.
        show_progress : bool
            Show a progress bar, where standard error is a terminal.

        Raises
        ------
        ConfigError
            There are not as many ids or metadata as samples. See also :meth:`write_sample`.
        """
        rows = _rows(samples)
        ids = _matching(sample_ids, len(rows), "sample_ids")
        said = repeat(metadata) if isinstance(metadata, Mapping) else _matching(metadata, len(rows), "metadata")
        steps: Iterable[Any] = zip(rows, ids, said)  # noqa: B905  (some of them repeat for ever)
        if show_progress and sys.stderr.isatty():
            steps = track(steps, "writing samples", total=len(rows), console=_console())
        return [self.write_sample(sample, sample_id, of_it) for sample, sample_id, of_it in steps]

    def finalize(self) -> dict[str, Any]:
        """Write what is left and the manifest.

        Returns
        -------
        dict
            ``total_samples``, ``total_shards``, ``shard_size``, ``compression``, ``modalities`` and more, of the whole
            folder. A second call returns the same.

        Raises
        ------
        ConfigError
            The writer was given up.
        OSError
            Something cannot be written. Shards that are finished stay: call this again, or :meth:`abort`. Once the
            manifest stands the data set is whole, whatever is raised.
        """
        with self._one_at_a_time:
            return self._finish() if self._summary is None else self._summary

    def _finish(self) -> dict[str, Any]:
        self._check_open()
        self._close_shard()
        session = self._session
        manifest = dataset_manifest(
            session.base, self._records, self._shard_size, self._options, self._keys.next_number
        )
        result = summary(session.folder, manifest)
        try:
            session.commit(manifest, durable=self._options["durable"])
        finally:
            if session.is_committed(manifest):
                self._summary = result
                session.end()
        return result

    def abort(self) -> None:
        """Give up: delete what was written since the writer was made. Harmless after :meth:`finalize`."""
        with self._one_at_a_time:
            if self._summary is None and self._closed_because != _GIVEN_UP:
                self._closed_because = _GIVEN_UP
                if self._shard is not None:
                    self._shard.abort()
                self._session.discard([record.entry.shard_name for record in self._records])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self.finalize()
        except BaseException as failure:
            self._closed_because = self._closed_because or f"this writer could not be finished ({failure})"
            self._session.release()
            raise

    def _check_open(self) -> None:
        if self._summary is not None or self._closed_because:
            raise ConfigError(self._closed_because or _FINISHED)

    def _next_shard(self) -> ShardWriter:
        shard_idx = self._session.first_shard + len(self._records)
        path = self._session.shard_path(shard_idx)
        self._shard = ShardWriter(path, shard_idx, mode=self._session.mode, **self._options)
        return self._shard

    def _close_shard(self) -> None:
        shard, self._shard = self._shard, None
        if shard is None:
            return
        if not shard.num_samples:
            shard.abort()
            return
        try:
            self._records.append(shard.close())
        except BaseException as error:
            self._closed_because = (
                f"{shard.path.name} could not be written ({error}), and is lost with its "
                f"{counted(shard.num_samples, 'sample')}: give this writer up with abort(), or keep the shards "
                "before with `neurofm-shards repair`"
            )
            raise


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


def _rows(samples: Sequence[Sample] | Mapping[str, Any]) -> Sequence[Sample]:
    if not isinstance(samples, Mapping):
        return list(samples)
    lengths = {name: len(values) for name, values in samples.items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(f"all arrays must have the same first dimension, but they have {lengths}")
    count = next(iter(lengths.values()), 0)
    return [{name: values[i] for name, values in samples.items()} for i in range(count)]


def _matching(values: Sequence[Any] | None, count: int, name: str) -> Iterable[Any]:
    if values is None:
        return repeat(None)
    if len(values) != count:
        raise ConfigError(f"{name} has {len(values)} entries for {counted(count, 'sample')}: give one per sample")
    return values


def _console() -> Any:
    from rich.console import Console  # noqa: PLC0415  (only on a terminal)

    return Console(stderr=True)
