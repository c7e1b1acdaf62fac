"""Write a data set of whole arrays: its shards in parallel, each in blocks."""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._process import usable_cpus
from neurofm_shards._wording import counted
from neurofm_shards.blocks import column_of, rows_between
from neurofm_shards.errors import ConfigError, EncodeError, FormatError, InputNotFoundError
from neurofm_shards.format.dataset_record import ShardRecord
from neurofm_shards.format.index_io import load_index
from neurofm_shards.format.keys import automatic_number
from neurofm_shards.format.manifest import Manifest, ShardEntry, summary
from neurofm_shards.format.shard_names import DEFAULT_SHARD_NAMES
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.types import Block, ColumnData, Metadata, Ragged
from neurofm_shards.values import as_array, check_whole
from neurofm_shards.writing.field_types import FieldTypes
from neurofm_shards.writing.shard_writer import ShardContent, ShardWriter
from neurofm_shards.writing.sinks import NoSink
from neurofm_shards.writing.writer_session import WriterSession, WriterSettings, check_one_each, progress_bar

#: Rows of mapped files are read, written and let go in pieces of about this much.
_PIECE_BYTES = 1 << 23
_THREADS = 4


def drop_pages(data: Any, start: int, stop: int) -> None:
    """Let go of the memory behind rows of a memory-mapped array that were read; a later access reads them again.

    Parameters
    ----------
    data : anything
        Only arrays that lie in a file mapped for reading, or shared, are touched.
    start, stop : int
        Rows along the first axis (of a Ragged: samples).
    """
    if isinstance(data, Ragged):
        data, start, stop = data.values, int(data.offsets[start]), int(data.offsets[stop])
    owner = _memmap(data)
    if owner is None or stop <= start or not data.flags.c_contiguous:
        return
    # A private map ("c") may hold changes that are nowhere else.
    mapping, mode = owner._mmap, owner.mode  # type: ignore[attr-defined]  # noqa: SLF001  (numpy's documented attribute)
    if mode not in ("r", "r+", "w+") or not isinstance(mapping, mmap.mmap):
        return
    base = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
    first = data[start:stop].__array_interface__["data"][0] - base
    low = first // mmap.PAGESIZE * mmap.PAGESIZE
    high = (first + data[start:stop].nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if high > low and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED, low, high - low)


def is_mapped(data: Any) -> bool:
    """Return whether a column lies in a mapped file."""
    return _memmap(data.values if isinstance(data, Ragged) else data) is not None


def _memmap(array: Any) -> npt.NDArray[Any] | None:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return array
        array = array.base
    return None


def create_shards_from_arrays(
    output_dir: str | os.PathLike[str],
    data_dict: Mapping[str, Any],
    shard_size: int = 1000,
    metadata: Mapping[str, Any] | Sequence[Metadata] | None = None,
    *,
    sample_ids: Sequence[str | int] | None = None,
    shard_name_pattern: str = DEFAULT_SHARD_NAMES,
    compression: str | Mapping[str, Any] | Compression = "none",
    codec: str = "pyd",
    codecs: Mapping[str, str] | None = None,
    durable: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Write arrays as a data set: row ``i`` of every array is sample ``i``.

    Parameters
    ----------
    output_dir : path-like
        The folder; made where it does not exist. A finished data set there is added to, with a warning; where these
        very samples were added by an earlier call, they are not added again, and one line says so.
    data_dict : mapping of str to array
        Arrays, memory maps or tensors of shape (n, ...); :class:`~neurofm_shards.types.Ragged`; or lists of n values.
        Memory maps are read in pieces, so that they may be larger than the memory.
    shard_size : int
        Samples per shard.
    metadata : dict, or sequence of dict, optional
        One dict per sample, or one dict for all. In a dict for all, a numpy array (or tensor) of n values along its
        first axis gives one value to each sample; everything else, lists too, is said of every sample as it is.
    sample_ids : sequence of str or int, optional
        One per sample; see :meth:`WebDatasetWriter.write_sample`.
    shard_name_pattern, compression, codec, codecs, durable, overwrite
        See :class:`WebDatasetWriter`.
    workers : int, optional
        Threads that write shards at once; by default the number of processors, at most 4. It does not change the files.
    show_progress : bool
        Show a progress bar, where standard error is a terminal.

    Returns
    -------
    dict
        The summary; see :meth:`WebDatasetWriter.finalize`.

    Raises
    ------
    ConfigError
        The arrays do not have the same first dimension, or an argument does not fit them.
    EncodeError
        An array cannot be stored, or would have to be changed to have the type of its field; see
        :meth:`WebDatasetWriter.write_sample`.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> data = {"spikes": np.zeros((10, 100, 96)), "behavior": np.zeros((10, 100, 2))}
    >>> create_shards_from_arrays(tempfile.mkdtemp(), data, shard_size=4)["total_shards"]
    3
    """
    if workers is not None:
        check_whole("workers", workers, "a number of threads is needed, 1 or more", least=1)
    settings = WriterSettings.of(shard_size, shard_name_pattern, compression, codec, codecs, durable=durable)
    columns = _columns(data_dict)
    count = len(next(iter(columns.values())))
    described = _Described(metadata, sample_ids, count)
    session = WriterSession(Path(output_dir), settings, overwrite=overwrite)
    base = session.base
    keys = session.keys()
    written: list[str] = []
    try:
        job = _Job.of(columns, described, keys.next_number, session)
        if base is not None and _is_stored(job, base):
            session.discard([])
            _tell_of_repetition(session.folder, count)
            return summary(session.folder, base)
        session.warn_of_addition()
        session.field_warnings().check(columns)
        if sample_ids is None:
            keys.take_automatic(count)
        else:
            keys.take_named(sample_ids)
        records = _run(job, workers, written, show_progress=show_progress)
    except BaseException:
        session.discard(written)
        raise
    try:
        manifest = session.manifest(records, keys.next_number)
        session.commit(manifest)
        session.end()
    finally:
        session.release()
    return summary(session.folder, manifest)


def _columns(data_dict: Mapping[str, Any]) -> dict[str, ColumnData]:
    if not isinstance(data_dict, Mapping) or not data_dict:
        raise ConfigError("data_dict must be a dict of at least one array")
    columns = {name: _column(name, values) for name, values in data_dict.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise ConfigError(f"all arrays must have the same first dimension (one row per sample): {said}")
    if 0 in lengths.values():
        raise ConfigError("the arrays hold no samples: their first dimension is 0")
    return columns


def _column(name: str, values: Any) -> ColumnData:
    if isinstance(values, Ragged):
        return values
    try:
        array = as_array(values)
    except EncodeError as error:
        raise EncodeError(f"data_dict[{name!r}]: {error}") from error
    if array is None:
        if not isinstance(values, (list, tuple)):
            raise ConfigError(
                f"data_dict[{name!r}] is a {type(values).__name__}; give an array of shape (n, ...) or a list"
            )
        return column_of(values)
    if array.ndim == 0:
        raise ConfigError(
            f"data_dict[{name!r}] is a single number; give an array of shape (n, ...), one row per sample"
        )
    return array


class _Described:
    """Ids and metadata of all samples, given out by shard."""

    def __init__(
        self, metadata: Mapping[str, Any] | Sequence[Metadata] | None, ids: Sequence[str | int] | None, count: int
    ) -> None:
        for name, values in (("sample_ids", ids), ("metadata", metadata)):
            if values is not None and not isinstance(values, Mapping):
                check_one_each(values, count, name)
        self._ids = ids
        self._metadata = metadata
        said = metadata.items() if isinstance(metadata, Mapping) else ()
        arrays = {name: as_array(value) for name, value in said}
        self._by_sample = {name: a for name, a in arrays.items() if a is not None and a.shape[:1] == (count,)}
        self._by_all = {name: value for name, value in said if name not in self._by_sample}

    def ids(self, start: int, stop: int) -> list[str] | None:
        """Return the ids of some samples."""
        return None if self._ids is None else [str(value) for value in self._ids[start:stop]]

    def metadata(self, start: int, stop: int) -> list[Metadata]:
        """Return the metadata of some samples."""
        if self._metadata is not None and not isinstance(self._metadata, Mapping):
            return list(self._metadata[start:stop])
        if not self._by_sample:
            return [self._by_all] * (stop - start)
        # Nanoseconds have no type in Python: tolist makes bare numbers of them.
        parts = (array[start:stop] for array in self._by_sample.values())
        rows = zip(*(list(part) if part.dtype.kind in "mM" else part.tolist() for part in parts), strict=True)
        return [{**self._by_all, **dict(zip(self._by_sample, row, strict=True))} for row in rows]


@dataclass(frozen=True)
class _Job:
    """All there is to write."""

    columns: dict[str, ColumnData]
    described: _Described
    first_key: int
    session: WriterSession
    types: FieldTypes

    @classmethod
    def of(cls, columns: dict[str, ColumnData], described: _Described, first_key: int, session: WriterSession) -> _Job:
        """Give lists, whose values may differ, one type each; arrays are looked at piece by piece."""
        types = session.field_types()
        job = cls(columns, described, first_key, session, types)
        lists = {
            name: [data[i] for i in range(len(data))]
            for name, data in columns.items()
            if isinstance(data, list) or types.is_json(name)
        }
        alone = len(columns) == 1
        typed = {name: column_of(types.values(name, data, job.sample, alone=alone)) for name, data in lists.items()}
        return replace(job, columns={**columns, **typed})

    def sample(self, row: int) -> str:
        """Return what messages call a sample."""
        ids = self.described.ids(row, row + 1)
        return f"sample {self.first_key + row if ids is None else ids[0]!r}"

    def rows(self, name: str, low: int, high: int) -> ColumnData:
        """Return the values of some samples."""
        data = rows_between(self.columns[name], low, high)
        return data if isinstance(data, list) else self.types.rows(name, data, lambda row: self.sample(low + row))

    @property
    def shard_size(self) -> int:
        return self.session.settings.shard_size

    @property
    def count(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def starts(self) -> range:
        return range(0, self.count, self.shard_size)

    @property
    def sizes(self) -> list[int]:
        return [min(self.shard_size, self.count - start) for start in self.starts]

    def fill(self, content: ShardContent, start: int, stop: int, advance: Callable[[int], object]) -> None:
        """Put samples into a shard."""
        for low, high in _pieces(self.columns, start, stop):
            columns = {name: self.rows(name, low, high) for name in self.columns}
            content.write_block(Block(columns, self.described.metadata(low, high), keys=self.described.ids(low, high)))
            for data in self.columns.values():
                drop_pages(data, low, high)
            advance(high - low)


def _is_stored(job: _Job, base: Manifest) -> bool:
    """Return whether an earlier call wrote these very samples: shards in a row have the bytes that they would have."""
    sizes = [entry.num_samples for entry in base.shards]
    wanted = job.sizes
    runs = (base.shards[i : i + len(wanted)] for i in range(len(sizes) - len(wanted) + 1))
    return any(_holds(job, run) for i, run in enumerate(runs) if sizes[i : i + len(wanted)] == wanted)


def _holds(job: _Job, run: Sequence[ShardEntry]) -> bool:
    first = automatic_number(str(run[0].samples[0].get("sample_id", ""))) if run[0].samples else None
    if first is None and job.described.ids(0, 1) is None:
        return False
    try:
        known = load_index(job.session.folder / run[0].shard_name, run[0].checksum).digests[0]
    except (FormatError, InputNotFoundError):
        return False  # a shard that is damaged or gone holds them no longer
    if _content(job, run[0], 0, 1, first).digests[0] != known:  # one sample tells most other samples apart
        return False
    shards = zip(run, job.starts, job.sizes, strict=True)
    return all(
        _content(job, entry, start, start + size, first).checksum() == entry.checksum for entry, start, size in shards
    )


def _content(job: _Job, entry: ShardEntry, start: int, stop: int, first: int | None) -> ShardContent:
    """Lay samples out as the shard of an entry would hold them."""
    options = {name: job.session.settings.options[name] for name in ("codec", "codecs")}
    content = ShardContent(NoSink(), entry.shard_name, entry.shard_idx, first_idx=(first or 1) + start, **options)
    job.fill(content, start, stop, _count_nothing)
    return content


def _count_nothing(samples: int) -> None:
    """Take the place of a progress bar that nobody would see."""


def _tell_of_repetition(folder: Path, count: int) -> None:
    warnings.warn(
        f"{folder} holds these {counted(count, 'sample')} already, from an earlier call: nothing was added",
        UserWarning,
        stacklevel=3,
    )


def _run(job: _Job, workers: int | None, written: list[str], *, show_progress: bool) -> list[ShardRecord]:
    threads = max(1, min(_THREADS, usable_cpus()) if workers is None else workers)
    with progress_bar(show=show_progress) as bar, ThreadPoolExecutor(threads, "shards") as pool:
        advance: Callable[[int], object] = (
            _count_nothing if bar is None else partial(bar.advance, bar.add_task("writing samples", total=job.count))
        )
        futures = [pool.submit(_write_shard, job, start, threads, advance) for start in job.starts]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        finally:
            written.extend(_finished(futures))


def _finished(futures: list[Future[ShardRecord]]) -> list[str]:
    """Wait for what is running; return the names of the shards that were written."""
    done = [future for future in futures if not future.cancelled() and future.exception() is None]
    return [future.result().entry.shard_name for future in done]


def _write_shard(job: _Job, start: int, threads: int, advance: Callable[[int], object]) -> ShardRecord:
    stop = min(start + job.shard_size, job.count)
    shard_idx = job.session.first_shard + start // job.shard_size
    writer = ShardWriter(
        job.session.shard_path(shard_idx),
        shard_idx,
        mode=job.session.mode,
        first_idx=job.first_key + start,
        overlap=threads == 1,
        threads=None if len(job.starts) == 1 else 1,
        **job.session.settings.options,
    )
    try:
        job.fill(writer, start, stop, advance)
        return writer.close()
    except BaseException:
        writer.abort()
        raise


def _pieces(columns: Mapping[str, ColumnData], start: int, stop: int) -> list[tuple[int, int]]:
    """Cut a shard so that a piece of mapped columns is small; in memory one piece is best."""
    mapped = sum(_row_bytes(data) for data in columns.values() if is_mapped(data))
    step = max(1, _PIECE_BYTES // mapped) if mapped else stop - start
    return [(low, min(low + step, stop)) for low in range(start, stop, step)]


def _row_bytes(data: ColumnData) -> int:
    values = data.values if isinstance(data, Ragged) else data
    return int(values.nbytes) // max(len(data), 1) if isinstance(values, np.ndarray) else 0
