"""Write a data set sample by sample, with unique keys and one type for each field."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError
from neurofm_shards.format.dataset_record import ShardRecord
from neurofm_shards.format.manifest import summary
from neurofm_shards.format.shard_names import DEFAULT_SHARD_NAMES
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.types import Metadata, Sample
from neurofm_shards.writing.shard_writer import ShardWriter
from neurofm_shards.writing.writer_session import WriterSession, WriterSettings, check_one_each, progress_bar

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_FINISHED = "this writer is finished: make another one (it adds to the data set that is there)"
_GIVEN_UP = "this writer was given up: make another one"


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
        settings = WriterSettings.of(shard_size, shard_name_pattern, compression, codec, codecs, durable=durable)
        self._session = WriterSession(Path(output_dir), settings, overwrite=overwrite)
        self._session.warn_of_addition()
        self._records: list[ShardRecord] = []
        self._shard: ShardWriter | None = None
        self._keys = self._session.keys()
        self._warned = self._session.field_warnings()
        self._types = self._session.field_types()
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
            if self._shard is not None and self._shard.num_samples >= self._session.settings.shard_size:
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
        with progress_bar(show=show_progress) as bar:
            steps: Iterable[Any] = zip(rows, ids, said)  # noqa: B905  (some of them repeat for ever)
            steps = steps if bar is None else bar.track(steps, total=len(rows), description="writing samples")
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
        manifest = session.manifest(self._records, self._keys.next_number)
        result = summary(session.folder, manifest)
        try:
            session.commit(manifest)
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
        self._shard = ShardWriter(path, shard_idx, mode=self._session.mode, **self._session.settings.options)
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
    check_one_each(values, count, name)
    return values
