"""Windows of stored recordings as a data set: its samples are cut when they are asked for."""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from neurofm_shards._process import mapped_bytes
from neurofm_shards._typing import Ints
from neurofm_shards.blocks import add_rows, shifted
from neurofm_shards.errors import ConfigError, FormatError, SampleNotFoundError
from neurofm_shards.format.keys import automatic_key, automatic_number
from neurofm_shards.format.metadata_table import (
    MetadataColumn,
    MetadataTable,
    TablePart,
    automatic_ids,
    taken_column,
)
from neurofm_shards.reading.address_space import IO
from neurofm_shards.reading.catalog import Pattern
from neurofm_shards.reading.collection import DEFAULT_CACHE_BYTES, ShardCollection
from neurofm_shards.reading.samples import SampleCollection, check_out, reopened, timing_of
from neurofm_shards.recordings.counting import COUNT_TYPES, count_trains
from neurofm_shards.recordings.spikes import BinnedEvents
from neurofm_shards.recordings.trials import Coded, MetadataValues
from neurofm_shards.recordings.windowing import RecordingSamples
from neurofm_shards.stored.options import LoadedWindows, WindowsArgument, window_options
from neurofm_shards.stored.placing import Placed, Placing
from neurofm_shards.stored.plan import WindowPlan, open_samples, training_statistics, window_identity, window_plan
from neurofm_shards.stored.recording import check_recordings
from neurofm_shards.types import ColumnData, ColumnSpec, Metadata, Ragged, SourcePlan
from neurofm_shards.values import sorted_unique, starts_of

if TYPE_CHECKING:
    from typing_extensions import Self

#: Windows that a shuffle takes for neighbours, as a shard of that size would hold them.
WINDOWS_PER_STRETCH = 1000
#: Recordings that are kept open: descriptions of their streams, their windows and their time stamps.
MOST_OPEN = 4096
#: Mapped bytes from which on a process lets all go; what it goes on reading it maps again, from the system's cache.
MAPPED_BYTES = 1 << 30
#: Reads from one look at the mapped bytes to the next.
_READS_BETWEEN = 8


class Picked(NamedTuple):
    """Rows of some columns, found out beforehand; see :meth:`WindowCollection.select`."""

    rows: Ints
    columns: tuple[str, ...]

    def cut(self, lengths: Iterable[int]) -> Iterable[Picked]:
        """Cut this selection into parts of so many rows each."""
        start = 0
        for length in lengths:
            yield Picked(self.rows[start : start + length], self.columns)
            start += length


class WindowCollection(SampleCollection):
    """Windows of stored recordings, cut when they are read.

    All recordings' windows one behind the other are the samples, split by split where there are splits. Values are
    those that converting with the same options gives, bit for bit; so are metadata and tables. What a shuffle takes for
    a shard are up to 1,000 windows of one recording.

    Parameters
    ----------
    collection : ShardCollection
        The data set, which this closes.
    windows : LoadedWindows
        What to cut, and how.
    verify : bool
        Whether to check the checksums of a recording's pieces when it is first used.

    Attributes
    ----------
    plan : WindowPlan
        Which recordings give how many windows.
    """

    def __init__(self, collection: ShardCollection, windows: LoadedWindows, *, verify: bool = False) -> None:
        self._collection = collection
        self.catalog = collection.catalog
        self.manifest = collection.manifest
        self._verify = verify
        self._windows = windows
        self._cuts = windows.cuts
        self.plan: WindowPlan = window_plan(collection, self._cuts)
        self._placing = Placing(self.plan, windows)
        self._first = self._placing.first
        self.num_samples = int(self._first[-1])
        self._bins = np.array([cut.window_bins for cut in self._cuts], dtype=np.int64)[self.plan.kinds]
        stretches = [_stretches(int(count)) for count in self.plan.runs[:, 2]]
        self.shard_sizes = np.concatenate(stretches)
        self.starts = starts_of(self.shard_sizes)
        self._group_of_stretch = np.repeat(self.plan.runs[:, 0], [len(sizes) for sizes in stretches])
        self.columns = {spec.name: spec for spec in self.plan.columns}
        self._open: OrderedDict[int, RecordingSamples] = OrderedDict()
        self._table: MetadataTable | None = None
        self._reads = itertools.count()
        self._may_fill_memory = int(self.catalog.file_bytes.sum()) > MAPPED_BYTES // 8  # others may be open, too

    @classmethod
    def open(
        cls,
        shard_dir: Path | str,
        windows: WindowsArgument,
        pattern: Pattern = None,
        *,
        io: IO = "auto",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        verify: bool = False,
    ) -> Self:
        """Open a data set of recordings as windows.

        Parameters
        ----------
        shard_dir : path-like
            Folder of a data set that was converted with ``--layout recordings``.
        windows : WindowOptions, mapping or path
            What to cut; see :func:`~neurofm_shards.stored.options.window_options`.
        pattern, io, cache_bytes, verify
            See :meth:`~neurofm_shards.reading.collection.ShardCollection.open`.

        Raises
        ------
        ConfigError
            The data set holds samples that are cut already, or an option is wrong.
        NothingToConvertError
            There is no window.
        """
        options = window_options(windows)
        folder = os.fspath(shard_dir)
        collection = ShardCollection.open(folder, pattern, io=io, cache_bytes=cache_bytes)
        try:
            check_recordings(collection)
            return cls(collection, options, verify=verify)
        except BaseException:
            collection.close()
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._collection, self._windows, self._verify, self.fingerprint)

    def close(self) -> None:
        """Wait for running gathers, then release the data set. Reading afterwards raises ClosedError."""
        self._collection.close()
        self._open.clear()

    # -- what the data set is

    @cached_property
    def shard_names(self) -> list[str]:
        """A name for each stretch of windows, for messages."""
        sessions = [self.plan.recordings[i].session_id for i in self._group_of_stretch.tolist()]
        return [f"{session}:{start}" for session, start in zip(sessions, self.starts[:-1].tolist(), strict=True)]

    @property
    def fingerprint(self) -> str:
        """Identity of the windows: the same for the same recordings cut with the same options, wherever they lie."""
        return self._marked(window_identity(self._collection, self._cuts))

    def prefix_fingerprint(self, num_shards: int) -> str:
        """Return the fingerprint of the recordings of the first stretches alone."""
        if num_shards == len(self.shard_sizes):
            return self.fingerprint
        number = int(self._group_of_stretch[num_shards])
        before = self.plan.recordings[self._group_of_stretch[max(num_shards, 1) - 1]]
        is_inside = num_shards and before.session_id == self.plan.recordings[number].session_id
        if is_inside or self._cuts[0].split is not None:
            return f"{self.fingerprint}:{num_shards}"  # a recording is appended as a whole, to each of its splits
        shards = max((shard for held in self.plan.recordings[:number] for shard in held.shards), default=-1) + 1
        return self._marked(window_identity(self._collection, self._cuts, shards))

    def _marked(self, identity: str) -> str:
        """Return an identity, with how windows are shifted where they are."""
        if not self._windows.moves:
            return identity
        how = "jitter" if self._windows.jitter else "random"
        return xxhash.xxh3_128_hexdigest(f"{identity} {how} {self._windows.seed}".encode())

    @property
    def moves(self) -> bool:
        """Whether windows lie elsewhere in every epoch."""
        return self._windows.moves

    def rows_in(self, epoch: int, rows: Ints) -> Ints:
        """Return the numbers under which an epoch has rows: its own where windows lie elsewhere in every epoch."""
        return self._placing.numbers(epoch, rows)

    def _placed(self, numbers: npt.ArrayLike) -> Placed:
        """Return where the windows of these numbers lie; an error where one is out of range."""
        epochs, rows = self._placing.divided(numbers)
        return self._placing.at(epochs, self._checked(rows))

    # -- values

    def select(self, rows: npt.ArrayLike, columns: Iterable[str] | None = None) -> Picked:
        """Check columns; there is nothing else to be found out beforehand."""
        names = tuple(self.columns) if columns is None else tuple(columns)
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise self._no_column(missing[0])
        return Picked(np.asarray(rows, dtype=np.int64), names)

    def read(
        self,
        selection: Picked,
        out: Mapping[str, npt.NDArray[Any]] | None = None,
        dtypes: Mapping[str, npt.DTypeLike] | None = None,
    ) -> dict[str, npt.NDArray[Any] | Ragged | list[Any]]:
        """Cut the windows that were selected."""
        names = selection.columns
        placed = self._placed(selection.rows)
        types, given = dtypes or {}, out or {}
        with self._collection.reading():
            found = self._counted(placed, names, types) if not given and len(placed.rows) else {}
            left = [name for name in names if name not in found]
            if left:
                found |= self._grouped(placed, left, given, types)
        if self._may_fill_memory and next(self._reads) % _READS_BETWEEN == 0 and mapped_bytes() > MAPPED_BYTES:
            self._collection.forget_pages()
        return {name: found[name] for name in names}

    def _counted(self, placed: Placed, names: Sequence[str], dtypes: Mapping[str, npt.DTypeLike]) -> dict[str, Any]:
        """Count events, and number their rows, for windows of all recordings at once."""
        found: dict[str, Any] = {}
        for name in names:
            spec = self.columns[name]
            ids = {"spikes": "unit_ids", "events": "event_codes"}.get(name)
            if ids is None or spec.unit != "count":
                continue
            distinct, which = _distinct(placed.groups)
            parts = [part for n in distinct.tolist() if (part := self._samples(n).counted(name)) is not None]
            if len(parts) < len(distinct):
                continue
            widths = np.array([part.width for part in parts])[which]
            found[name] = self._counts(spec, placed, parts, which, widths, dtypes.get(name))
            if ids in names:
                bases = np.array([self.plan.bases[n].get(self.columns[ids].table or "", 0) for n in distinct.tolist()])
                found[ids] = _numbered(self.columns[ids], widths, bases[which], dtypes.get(ids))
        return found

    def _counts(
        self,
        spec: ColumnSpec,
        placed: Placed,
        parts: Sequence[BinnedEvents],
        which: Ints,
        widths: Ints,
        dtype: npt.DTypeLike | None,
    ) -> npt.NDArray[Any] | list[Any]:
        bins, width = self._bins[placed.groups], self._cuts[0].bin_ticks
        wanted = _type_name(np.dtype(dtype or spec.dtype))
        types = (parts[0].dtype, wanted if wanted in COUNT_TYPES else parts[0].dtype)
        try:
            trains = [part.train for part in parts]
            counts = count_trains(trains, which, (placed.starts, placed.stops), bins, width, widths, types)
        except OverflowError as error:
            raise parts[0].too_many() from error
        except IndexError as error:
            raise FormatError(f"{self.catalog.folder}: {error}; run `neurofm-shards validate`") from error
        counts = counts.astype(wanted, copy=False)
        if None not in (spec.shape or ()):
            return counts.reshape(len(which), int(bins[0]), int(widths[0]))
        edges = np.cumsum(bins * widths).tolist()
        shapes = zip([0, *edges[:-1]], edges, bins.tolist(), widths.tolist(), strict=True)
        return [counts[first:last].reshape(shape) for first, last, *shape in shapes]

    def _grouped(
        self,
        placed: Placed,
        names: Sequence[str],
        out: Mapping[str, npt.NDArray[Any]],
        dtypes: Mapping[str, npt.DTypeLike],
    ) -> dict[str, Any]:
        """Cut windows group by group."""
        count = len(placed.rows)
        joined = {name: _column(self.columns[name], count, out.get(name), dtypes.get(name)) for name in names}
        for number in sorted_unique(placed.groups).tolist():
            places = np.flatnonzero(placed.groups == number)
            rows = self._placing.within(placed.rows[places])
            found = self._samples(number).gather(placed.starts[places], placed.stops[places], names, rows)
            bases = self.plan.bases[number]
            for name in names:
                base = bases.get(self.columns[name].table or "", 0)
                joined[name].put(places, shifted(found[name], base))
        return {name: column.finished() for name, column in joined.items()}

    def finds_while_copying(self, columns: Iterable[str] | None = None) -> bool:  # noqa: ARG002
        """Return True: looking for the windows of several batches together saves nothing."""
        return True

    def metadata(self, rows: npt.ArrayLike) -> list[Metadata]:
        """Return the metadata of samples."""
        placed = self._placed(rows)
        found: list[Metadata] = [{}] * len(placed.rows)
        modalities = list(self.columns)
        stretch = np.searchsorted(self.starts, placed.rows, side="right") - 1
        for number in sorted_unique(placed.groups).tolist():
            places = np.flatnonzero(placed.groups == number)
            with self._collection.reading():
                said = self._samples(number).metadata(self._placing.within(placed.rows[places]), placed.starts[places])
            length = {} if self._windows.lengths is None else {"window_bins": int(self._bins[number])}
            for place, own in zip(places.tolist(), said, strict=True):
                row, at = int(placed.rows[place]), int(stretch[place])
                found[place] = {
                    "sample_id": automatic_key(row + 1),
                    "modalities": modalities,
                    "shard_idx": at,
                    "sample_idx_in_shard": row - int(self.starts[at]),
                    **own,
                    **length,
                }
        return found

    def metadata_table(self) -> MetadataTable:
        """Return the scalar metadata of all windows, column by column; of windows that move, where they lie at rest."""
        if self._table is None:
            self._table = MetadataTable([self._part(run) for run in range(len(self.plan.runs))])
        return self._table

    def _part(self, run: int) -> TablePart:
        """Return the metadata of windows of one group that follow one another."""
        number, (first, last) = int(self.plan.runs[run, 0]), self._first[run : run + 2].tolist()
        rows = np.arange(first, last)
        stretch = np.searchsorted(self.starts, rows, side="right") - 1
        with self._collection.reading():
            own = self._samples(number).metadata_values(self._placing.within(rows))
        columns = {
            "sample_id": automatic_ids(first + 1, last - first),
            "shard_idx": MetadataColumn("int", stretch),
            "sample_idx_in_shard": MetadataColumn("int", rows - self.starts[stretch]),
            **{name: _metadata_column(values) for name, values in own.items()},
        }
        if self._windows.lengths is not None:
            columns["window_bins"] = taken_column([int(self._bins[number])], rows * 0)
        kept = {name: column for name, column in columns.items() if column is not None}
        return TablePart(len(rows), kept, ("modalities", *(name for name in columns if name not in kept)))

    def statistics(self, columns: Iterable[str] | None = None) -> Mapping[str, Any]:
        """Return the statistics of some columns, which are read the first time; where windows move, in epoch 0."""
        return training_statistics(self, tuple(self.columns) if columns is None else tuple(columns))

    def timing(self) -> Mapping[str, tuple[float, ...]]:
        """Return bins of the windows, and rates of the first recording of each length."""
        firsts = np.unique(self.plan.kinds, return_index=True)[1].tolist()
        with self._collection.reading():
            return timing_of(self._samples(number).plan().metadata for number in firsts)

    @property
    def tables(self) -> Mapping[str, int]:
        """Rows of each side table of all recordings together."""
        return self.plan.tables

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return a side table; ConfigError where there is none, which lists those that are there."""
        if name not in self.plan.tables:
            raise ConfigError(f"there is no table {name!r}; there are: {', '.join(self.plan.tables) or 'none'}")
        rows: list[Mapping[str, Any]] = []
        for number in self.plan.first_of_recordings:
            with self._collection.reading():
                samples = self._samples(number)
            add_rows(name, rows, samples.plan().tables.get(name, ()))
        return [dict(row) for row in rows]

    def trials_in(self, row: int) -> list[dict[str, Any]]:
        """Return the trials that share time with a window at rest: row in the file's table, ``start_s``, ``stop_s``."""
        placed = self._placed([row])
        with self._collection.reading():
            return self._samples(int(placed.groups[0])).trials_in(int(self._placing.within(placed.rows)[0]))

    def is_everywhere(self, column: str) -> bool:
        """Return whether every window has a column: each has all."""
        return column in self.columns

    def lengths(self, column: str) -> Ints:
        """Return the length of one column in every window; its values are read where it differs."""
        spec = self.columns[column]
        if spec.shape and spec.shape[0] is not None:
            return np.full(self.num_samples, spec.shape[0], dtype=np.int64)
        parts = []
        for start in range(0, self.num_samples, WINDOWS_PER_STRETCH):
            values = self.gather(np.arange(start, min(start + WINDOWS_PER_STRETCH, self.num_samples)), [column])[column]
            parts.append(np.diff(values.offsets) if isinstance(values, Ragged) else [len(value) for value in values])
        return np.concatenate(parts).astype(np.int64)

    # -- names

    def first_row_with(self, column: str) -> int | None:
        """Return the first row that has a column: each window has all."""
        return 0 if self.num_samples and column in self.columns else None

    def has(self, row: int, column: str) -> bool:
        """Return whether a sample has a field (the metadata counts as one)."""
        self._checked([row])
        return column in self.columns or column == "metadata"

    def payload(self, row: int, column: str) -> bytes:
        """Refuse: windows are made when they are read, and nothing is stored for them."""
        raise ConfigError(
            f"sample {self.describe(row)} has no stored bytes of {column!r}: windows are cut when they are read. Leave "
            "decode=False out, or convert the recordings to windows"
        )

    def keys(self, rows: npt.ArrayLike) -> list[str]:
        """Return the keys of rows."""
        return [automatic_key(row + 1) for row in self._placed(rows).rows.tolist()]

    def find(self, key: str) -> int:
        """Return the row of a key; SampleNotFoundError where no sample has it."""
        number = automatic_number(key)
        if number is None or not 0 < number <= self.num_samples:
            raise SampleNotFoundError(f"no sample has the key {key!r}; keys look like {automatic_key(1)!r}")
        return number - 1

    def describe(self, row: int) -> str:
        """Return key, session and folder of a row, for messages."""
        row %= self.num_samples
        number = int(self._placing.groups(np.array([row]))[0])
        session = self.plan.recordings[number].session_id
        return f"{automatic_key(row + 1)!r}, a window of {session} in {self.catalog.folder}"

    def grow_cache(self, cache_bytes: int, cache_dir: str | None = None) -> None:
        """See :meth:`SampleCollection.grow_cache`."""
        self._collection.grow_cache(cache_bytes, cache_dir)

    @property
    def keeps_decoded(self) -> bool:
        """See :attr:`SampleCollection.keeps_decoded`."""
        return self._collection.keeps_decoded

    # -- recordings

    def source_plans(self) -> Iterator[tuple[str, SourcePlan]]:
        """Yield the session of each group of windows, and what converting it with the same options would tell."""
        for number, recording in enumerate(self.plan.recordings):
            with self._collection.reading():
                yield recording.session_id, self._samples(number).plan()

    def _samples(self, number: int) -> RecordingSamples:
        """Return the windows of a recording, which stays open for some time."""
        found = self._open.get(number)
        if found is None:
            recording = self.plan.recordings[number]
            if self._verify:
                self._collection.check(recording.rows)
            options, split = self._cuts[self.plan.kinds[number]], self.plan.splits[number]
            others = self.plan.others[number]
            found = self._open[number] = open_samples(self._collection, recording, options, split, others)
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        return found


def open_windows(
    shard_dir: Path | str, windows: WindowsArgument, *, io: IO = "auto", verify: bool = False
) -> WindowCollection:
    """Open a data set of recordings as windows, for :func:`~neurofm_shards.mix` and :func:`~neurofm_shards.split`.

    Parameters
    ----------
    shard_dir : path-like
        Folder of a data set that was converted with ``--layout recordings``.
    windows : dict, WindowOptions or path of a job file
        What to cut.
    io, verify
        See :meth:`~neurofm_shards.reading.collection.ShardCollection.open`.

    Raises
    ------
    ConfigError
        The data set holds samples that are cut already, or an option is wrong.
    NothingToConvertError
        There is no window.

    Examples
    --------
    >>> both = mix([open_windows("a", {"stride": 5}), open_windows("b", {"stride": 5})])  # doctest: +SKIP
    """
    return WindowCollection.open(shard_dir, windows, io=io, verify=verify)


def _reopen(collection: ShardCollection, windows: LoadedWindows, verify: bool, fingerprint: str) -> WindowCollection:
    """Open the same windows in another process."""
    return reopened(WindowCollection(collection, windows, verify=verify), fingerprint)


@cache
def _type_name(dtype: np.dtype[Any]) -> str:
    return str(dtype.name)


def _metadata_column(values: MetadataValues) -> MetadataColumn | None:
    if isinstance(values, Coded):
        return taken_column(values.values, values.codes)
    return MetadataColumn("float" if values.dtype.kind == "f" else "int", values)


def _distinct(numbers: Ints) -> tuple[Ints, Ints]:
    """Return the different numbers, and the place of each among them; a batch of one recording costs no sorting."""
    if (numbers == numbers[0]).all():
        return numbers[:1], np.zeros(len(numbers), dtype=np.int64)
    distinct, which = np.unique(numbers, return_inverse=True)
    return distinct, which.reshape(-1)


def _stretches(count: int) -> Ints:
    """Return the sizes of the stretches that a recording's windows are taken for."""
    sizes = np.full(-(-count // WINDOWS_PER_STRETCH), WINDOWS_PER_STRETCH, dtype=np.int64)
    sizes[-1] = count - WINDOWS_PER_STRETCH * (len(sizes) - 1)
    return sizes


def _numbered(spec: ColumnSpec, widths: Ints, bases: Ints, dtype: npt.DTypeLike | None) -> npt.NDArray[Any] | Ragged:
    """Return the rows of a side table that each window's counts belong to."""
    wanted = np.dtype(dtype or spec.dtype)
    if None not in (spec.shape or ()):
        return (np.arange(int(widths[0])) + bases[:, None]).astype(wanted)
    offsets = starts_of(widths)
    within = np.arange(int(offsets[-1])) - np.repeat(offsets[:-1], widths)
    return Ragged((within + np.repeat(bases, widths)).astype(wanted), offsets)


def _column(
    spec: ColumnSpec, count: int, out: npt.NDArray[Any] | None, dtype: npt.DTypeLike | None
) -> _Constant | _Parts:
    if spec.shape is not None and None not in spec.shape:
        return _Constant(spec, count, out, dtype)
    check_out(spec, out, None)
    return _Parts(spec, count, dtype)


class _Constant:
    """A column whose values have one shape: put into one array."""

    def __init__(self, spec: ColumnSpec, count: int, out: npt.NDArray[Any] | None, dtype: npt.DTypeLike | None) -> None:
        self._shape = (count, *(int(length or 0) for length in spec.shape or ()))
        self._dtype = np.dtype(dtype or spec.dtype)
        self._out = out
        check_out(spec, out, self._shape)

    def put(self, places: Ints, values: ColumnData) -> None:
        if self._out is None and len(places) == self._shape[0]:
            self._out = np.asarray(values).astype(self._dtype, copy=False)
            return
        if self._out is None:
            self._out = np.empty(self._shape, self._dtype)
        self._out[places] = values

    def finished(self) -> npt.NDArray[Any]:
        return np.empty(self._shape, self._dtype) if self._out is None else self._out


class _Parts:
    """A column whose values differ in shape: kept one by one."""

    def __init__(self, spec: ColumnSpec, count: int, dtype: npt.DTypeLike | None) -> None:
        self._dtype = None if spec.dtype is None else np.dtype(dtype or spec.dtype)
        inner = (None,) if spec.shape is None else spec.shape[1:]
        self._inner = None if None in inner else tuple(int(length or 0) for length in inner)
        self._values: list[Any] = [None] * count

    def put(self, places: Ints, values: ColumnData) -> None:
        for i, place in enumerate(places.tolist()):
            self._values[place] = values[i]

    def finished(self) -> Ragged | list[Any]:
        values: Sequence[Any] = self._values
        if self._dtype is not None:
            values = [np.asarray(value).astype(self._dtype, copy=False) for value in values]
        if self._inner is None or self._dtype is None:
            return list(values)
        offsets = starts_of([len(value) for value in values])
        return Ragged(np.concatenate([np.empty((0, *self._inner), self._dtype), *values]), offsets)
