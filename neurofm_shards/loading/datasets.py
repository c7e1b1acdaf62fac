"""Random access to samples, for any torch sampler, and opening a folder the same way for every loader."""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, Dataset
from typing_extensions import Self

from neurofm_shards._process import usable_memory
from neurofm_shards._typing import Ints, Rows
from neurofm_shards._wording import counted, html_table
from neurofm_shards.blocks import dtype_name
from neurofm_shards.compression.frames import FRAME_BYTES
from neurofm_shards.errors import ConfigError, MissingPluginError, SampleIndexError, SampleNotFoundError
from neurofm_shards.expressions import compile_expression, unknown_name
from neurofm_shards.format.shard_names import DEFAULT_SHARD_PATTERN
from neurofm_shards.loading.fetch import RowReader, SampleFetch
from neurofm_shards.loading.order.shuffle import INTERLEAVED
from neurofm_shards.loading.plans.mixing import MixPart
from neurofm_shards.loading.subsets import TableColumns, Where, distinct, select
from neurofm_shards.loading.tensors import Counts, Floats, delivered_dtypes
from neurofm_shards.loading.transforms import SampleFunction, TransformLike, bind, is_transform, make_transforms
from neurofm_shards.plugins.interfaces import PlotsSamples, Transform
from neurofm_shards.plugins.registry import registry
from neurofm_shards.reading.address_space import IO
from neurofm_shards.reading.collection import DEFAULT_CACHE_BYTES, ShardCollection
from neurofm_shards.reading.samples import SampleCollection
from neurofm_shards.reading.scratch import temporary_folder
from neurofm_shards.stored.options import WindowsArgument
from neurofm_shards.values import check_whole, sorted_unique

_log = logging.getLogger("neurofm_shards.loading")
#: Where decoded shards are kept that memory has no room for: a folder; "auto": the system's temporary folder, where it
#: is on a local disk with twice the room; None: nowhere.
CacheDir: TypeAlias = "str | os.PathLike[str] | None"
#: The part of the memory that this process may use which caches of decoded bytes may take.
_SHARE_OF_MEMORY = 0.5


def open_shards(
    shard_dir: str | os.PathLike[str],
    pattern: str,
    io: IO,
    verify: bool,
    cache_bytes: int | None = None,
    windows: WindowsArgument | None = None,
) -> SampleCollection:
    """Open a folder; the default pattern means what the manifest lists, where there is one.

    With ``windows``, recordings that are stored in it are cut when samples are read.
    """
    if cache_bytes is not None:
        meaning = "a number of bytes is needed, or None for what the order needs"
        check_whole("cache_bytes", cache_bytes, meaning, least=0)
    folder, names = os.fspath(shard_dir), None if pattern == DEFAULT_SHARD_PATTERN else pattern
    size = DEFAULT_CACHE_BYTES if cache_bytes is None else cache_bytes
    if windows is not None:
        from neurofm_shards.stored.windows import WindowCollection  # noqa: PLC0415  (needed by few)

        opened: SampleCollection = WindowCollection.open(folder, windows, names, io=io, cache_bytes=size, verify=verify)
        return opened
    return ShardCollection.open(folder, names, io=io, cache_bytes=size, verify=verify)


def grow_caches(
    collections: Sequence[SampleCollection],
    reach: int | None,
    cache_bytes: int | None,
    cache_dir: CacheDir,
    processes: int = 1,
) -> None:
    """Let caches of decoded bytes grow to what an order needs, as far as the memory of the job reaches.

    What memory has no room for, or what several processes decode, is kept on a disk.

    Parameters
    ----------
    collections : sequence of ShardCollection
        The data sets.
    reach : int or None
        How many samples an epoch draws from at any one time; None: all of them.
    cache_bytes : int or None
        What each is to keep in memory, whatever the order needs.
    cache_dir : path-like, "auto" or None
        See :data:`CacheDir`.
    processes : int
        Processes that each have caches of their own.
    """
    needed = [_cache_needed(collection, reach) for collection in collections]
    most = _SHARE_OF_MEMORY * usable_memory() / (processes * _ranks_here())
    part = min(1.0, most / max(1, sum(needed)))
    granted = [int(size * part) if cache_bytes is None else cache_bytes for size in needed]
    wanted = [size > 0 and (kept < size or processes > 1) for size, kept in zip(needed, granted, strict=True)]
    folder = _scratch_folder([each for each, wants in zip(collections, wanted, strict=True) if wants], cache_dir)
    for collection, size, kept, wants in zip(collections, needed, granted, wanted, strict=True):
        if size:
            collection.grow_cache(kept, folder if wants else None)
        if wants and folder is not None:
            _say_where(collection, folder, visibly=kept < size and cache_dir == "auto")
        elif kept < size:
            _log.warning(
                "%s: this order goes back to %d MB of decoded shards, and %d MB are kept in memory, so that they are "
                "decoded several times; cache_dir= names a folder of a local disk for them",
                collection.catalog.folder,
                size >> 20,
                kept >> 20,
            )


def _ranks_here() -> int:
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1))


def _scratch_folder(collections: Sequence[SampleCollection], cache_dir: CacheDir) -> str | None:
    """Return the folder for the decoded shards of these; each rank of this machine needs room for them."""
    if not collections or cache_dir is None:
        return None
    if cache_dir != "auto":
        return os.path.abspath(cache_dir)  # noqa: PTH100  (a copy in another process opens it again)
    return temporary_folder(_ranks_here() * sum(int(_decoded_bytes(each).sum()) for each in collections))


def _say_where(collection: SampleCollection, folder: str, *, visibly: bool) -> None:
    _log.log(
        logging.WARNING if visibly else logging.INFO,
        "%s: %d MB of decoded shards are kept in a file without a name in %s, whose room is free again when this "
        "process ends; cache_dir= names another folder, and with cache_dir=None they are decoded several times",
        *(collection.catalog.folder, int(_decoded_bytes(collection).sum()) >> 20, folder),
    )


def _cache_needed(collection: SampleCollection, reach: int | None) -> int:
    """Return the decoded bytes that one epoch goes back to; 0 where nothing is compressed."""
    catalog, decoded = collection.catalog, _decoded_bytes(collection)
    total = int(decoded.sum())
    if reach is None or not total:
        return total
    compression = catalog.compression(0)
    framed = catalog.manifest is not None and compression is not None and compression.random_access
    frame = FRAME_BYTES if framed else int(decoded.max())
    return min(total, reach * total // max(1, collection.num_samples) + 2 * INTERLEAVED * frame)


def _decoded_bytes(collection: SampleCollection) -> Ints:
    """Return the decoded size of each compressed shard."""
    catalog = collection.catalog
    return np.asarray(catalog.tar_bytes[catalog.tar_bytes != catalog.file_bytes], np.int64)


def chosen_rows(
    collection: SampleCollection,
    where: Where | None,
    keys: Iterable[str] | None,
    split: str | None,
    rows: npt.ArrayLike | None = None,
) -> Rows | None:
    """Return the selected rows, ascending, or None for all (raises ConfigError)."""
    found = select(collection, where=where, keys=keys, split=split)
    if rows is not None:
        wanted = sorted_unique(np.asarray(rows, dtype=np.int64))
        found = wanted if found is None else np.intersect1d(found, wanted, assume_unique=True)
    if found is not None and len(found) == 0:
        raise ConfigError(
            f"no sample of {collection.catalog.folder} is left: where={where!r}, split={split!r}, keys and rows "
            f"together select none{_values_there(collection, where)}"
        )
    return found


def _values_there(collection: SampleCollection, where: Where | None) -> str:
    """Return, for messages, the values that there are of the columns that an expression names."""
    if not isinstance(where, str):
        return "; see `neurofm-shards info` for what there is"
    columns = TableColumns(collection.metadata_table())
    names = sorted(compile_expression(where).names)
    return "; there are: " + "; ".join(f"{name} {distinct(columns[name])}" for name in names)


def make_reader(
    collection: SampleCollection,
    columns: Sequence[str] | None,
    counts: Counts,
    floats: Floats,
    transforms: Sequence[Transform],
    part: MixPart | None = None,
) -> RowReader:
    """Make a reader with its transforms bound to the data set (raises ConfigError)."""
    wanted = None if columns is None else tuple(dict.fromkeys(columns))
    missing = [name for name in wanted or () if name not in collection.columns]
    if missing:
        raise ConfigError(f"{collection.catalog.folder}: {unknown_name('column', missing[0], collection.columns)}")
    dtypes = delivered_dtypes(collection.columns, counts, floats)
    if wanted is not None:
        dtypes = {name: dtype for name, dtype in dtypes.items() if name in wanted}
    return RowReader(collection, wanted, dtypes, bind(transforms, collection, wanted), part)


def sample_bytes(reader: RowReader) -> int:
    """Estimate the bytes of one sample as it is delivered (lengths that differ count as one)."""
    collection, dtypes = reader.collection, reader.dtypes or {}
    total = 0
    for name in collection.columns if reader.columns is None else reader.columns:
        spec = collection.columns[name]
        if spec.dtype is not None and spec.shape is not None:
            total += int(np.prod([n or 1 for n in spec.shape])) * np.dtype(dtypes.get(name, spec.dtype)).itemsize
    return total


class LoadedSample(dict[str, Any]):
    """A sample of a :class:`ShardDataset`: a dict of its fields that can be drawn; copies and pickles are plain dicts.

    Parameters
    ----------
    fields : mapping of str to object
        The fields.
    collection : SampleCollection
        Where the sample is from; it tells names, regions and physical units.
    """

    def __init__(self, fields: Mapping[str, Any], collection: SampleCollection) -> None:
        super().__init__(fields)
        self._collection = collection

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)

    def plot(self, **options: Any) -> Any:
        """Draw the sample, one panel per column, by the plugin that provides the command ``show``.

        Parameters
        ----------
        **options
            Of that plugin. Ours (``pip install 'neurofm-shards[report]'``) takes ``columns``, ``axes`` and ``width``.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        MissingPluginError
            No installed plugin draws samples.
        """
        command = registry().commands.instance("show")
        if not isinstance(command, PlotsSamples):
            raise MissingPluginError(f"the command 'show' of {type(command).__module__} draws no samples in Python")
        return command.plot(self, self._collection, **options)


class ShardDataset(Dataset[dict[str, Any]]):
    """Samples by number or key. Works with any sampler, and with DataLoader workers that are forked or spawned.

    Parameters
    ----------
    shard_dir : path-like
        A folder of shards, or one shard.
    shard_pattern : str
        Which files of the folder are shards. The default takes what the manifest lists, where there is one.
    windows : dict, WindowOptions or path of a job file, optional
        How to cut the recordings that a data set stores (``convert --layout recordings``); see
        :class:`~neurofm_shards.recordings.options.WindowOptions`.
    columns : sequence of str, optional
        Fields to load; others are not read.
    decode : bool
        False: every field, the metadata too, is given as the bytes that are stored.
    transforms : Transform, name, configuration, or a sequence of them, optional
        Run first, on numpy arrays.
    transform : callable or Transform, optional
        Given each sample as a dict of tensors, returns the sample to use. A Transform, its name or configuration is
        also taken.
    where, keys, split, rows : optional
        Select samples by metadata, key, named split, or row; the data set then has these samples only.
    counts : {"float32", "stored"}
        How spike counts, stored as small integers, are delivered.
    floats : {"float32", "stored"}
        How columns of float64 are delivered.
    metadata : bool
        Whether samples have ``metadata``.
    io : {"auto", "mmap", "pread"}
        How shards are read; see :meth:`~neurofm_shards.reading.collection.ShardCollection.open`.
    verify : bool
        Check every sample's checksum before it is delivered.
    cache_bytes : int, optional
        Decoded bytes of compressed shards to keep in memory; 256 MiB by default.
    cache_dir : path-like, "auto" or None
        Folder of a local disk where they are kept instead, if they are more, in a file without a name that ends with
        the process. ``"auto"``: the system's temporary folder, where it is on a local disk with twice the room.

    Attributes
    ----------
    collection : ShardCollection
        The shards.
    columns : dict of str to ColumnSpec
        The fields that are loaded.

    Raises
    ------
    InputNotFoundError, NoShardsError
        There is no such folder, or no shard in it.
    ConfigError
        There is no such column, or no sample is selected.

    Examples
    --------
    >>> dataset = ShardDataset("./shards")  # doctest: +SKIP
    >>> dataset[-1]["spikes"].shape, dataset["sample_000000001"]["metadata"]  # doctest: +SKIP
    """

    def __init__(
        self,
        shard_dir: str | os.PathLike[str],
        shard_pattern: str = DEFAULT_SHARD_PATTERN,
        *,
        windows: WindowsArgument | None = None,
        columns: Sequence[str] | None = None,
        decode: bool = True,
        transforms: TransformLike | Sequence[TransformLike] | None = None,
        transform: SampleFunction | TransformLike | None = None,
        where: Where | None = None,
        keys: Sequence[str] | None = None,
        split: str | None = None,
        rows: npt.ArrayLike | None = None,
        counts: Counts = "float32",
        floats: Floats = "stored",
        metadata: bool = True,
        io: IO = "auto",
        verify: bool = False,
        cache_bytes: int | None = None,
        cache_dir: CacheDir = "auto",
    ) -> None:
        made = list(make_transforms(transforms))
        if transform is not None and is_transform(transform):
            made += make_transforms(transform)
            transform = None
        if not decode and (made or transform is not None):
            raise ConfigError("decode=False gives bytes as they are stored: transforms cannot be used with it")
        collection = open_shards(shard_dir, shard_pattern, io, verify, cache_bytes, windows)
        try:
            grow_caches([collection], None, DEFAULT_CACHE_BYTES if cache_bytes is None else cache_bytes, cache_dir)
            reader = make_reader(collection, columns, counts, floats, made)
            chosen = chosen_rows(collection, where, keys, split, rows)
        except BaseException:
            collection.close()
            raise
        self._set(reader, chosen, transform, decode=decode, metadata=metadata)

    @classmethod
    def of(
        cls,
        reader: RowReader,
        rows: Rows | None = None,
        transform: SampleFunction | None = None,
        *,
        metadata: bool = True,
    ) -> Self:
        """Make a data set of shards that are open already.

        Parameters
        ----------
        reader : RowReader
            Reads and transforms rows.
        rows : numpy.ndarray of int64, optional
            Which rows these are; all by default.
        transform, metadata
            See the class.
        """
        made = cls.__new__(cls)
        made._set(reader, rows, transform, decode=True, metadata=metadata)  # noqa: SLF001  (its own)
        return made

    def _set(self, reader: RowReader, rows: Rows | None, transform: Any, *, decode: bool, metadata: bool) -> None:
        self._fetch = SampleFetch(reader, transform, metadata, "raise", decode)
        self._epoch = 0
        self._rows = rows
        self.collection: SampleCollection = reader.collection
        names = self.collection.columns if reader.columns is None else reader.columns
        self.columns = {name: self.collection.columns[name] for name in names}

    def __repr__(self) -> str:
        selected = "" if self._rows is None else f"{len(self):,} selected from "
        return f"ShardDataset({selected}{self.collection.catalog.summary()})"

    def _repr_html_(self) -> str:
        """Return the columns as a table, for notebooks."""
        rows = [(name, dtype_name(spec.dtype), spec.shape, spec.unit) for name, spec in self.columns.items()]
        title = f"{len(self):,} of {counted(self.collection.num_samples, 'sample')}"
        return html_table(title, rows, ("column", "dtype", "shape", "unit"))

    def __len__(self) -> int:
        return self.collection.num_samples if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int | str) -> LoadedSample: ...

    @overload
    def __getitem__(self, index: slice) -> list[LoadedSample]: ...

    def __getitem__(self, index: int | str | slice) -> Any:
        """Return one :class:`LoadedSample`, by number (negative ones count from the end) or key; a list for a slice.

        Raises
        ------
        SampleIndexError
            There is no such number.
        SampleNotFoundError
            There is no such key.
        """
        if isinstance(index, slice):
            return [self._sample(found) for found in self.__getitems__(list(range(*index.indices(len(self)))))]
        return self._sample(self.__getitems__([self.position(index) if isinstance(index, str) else index])[0])

    def _sample(self, found: Any) -> Any:
        """Let a sample draw itself, unless the caller's transform made something else of it."""
        return LoadedSample(found, self.collection) if type(found) is dict else found

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several samples at once; torch's DataLoader calls it for every batch."""
        rows = self._chosen(np.array([operator.index(index) for index in indices], dtype=np.int64))
        samples: list[dict[str, Any]] = self._fetch(self.collection.rows_in(self._epoch, rows)).batch
        return samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose windows samples are, where ``windows`` lie elsewhere in each (``jitter``, ``random``).

        Call it before iterating over a DataLoader: persistent workers keep the epoch they were started in.
        """
        self._epoch = operator.index(epoch)

    def position(self, key: str) -> int:
        """Return the number of the sample with this key."""
        row = self.collection.find(key)
        if self._rows is None:
            return row
        at = int(np.searchsorted(self._rows, row))
        if at == len(self._rows) or self._rows[at] != row:
            raise SampleNotFoundError(f"the sample {key!r} is not among those selected from this data set")
        return at

    def keys(self) -> list[str]:
        """Return the keys of all samples, in order."""
        return self.collection.keys(self._chosen(np.arange(len(self))))

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return a side table, to which the numbers in columns such as ``unit_ids`` refer: one dict per row.

        Examples
        --------
        >>> units = dataset.table("units")  # doctest: +SKIP
        >>> [units[row]["id"] for row in dataset[0]["unit_ids"]]  # doctest: +SKIP

        Raises
        ------
        ConfigError
            There is no such table; the message lists those that are there.
        FormatError
            It is damaged.
        """
        return self.collection.table(name)

    def close(self) -> None:
        """Release the shards; reading afterwards raises ClosedError."""
        self.collection.close()

    def _chosen(self, indices: Rows) -> Rows:
        wrong = (indices < -len(self)) | (indices >= len(self))
        if wrong.any():
            raise SampleIndexError(
                f"there is no sample {int(indices[wrong][0])}: the data set has {counted(len(self), 'sample')}"
            )
        places = np.where(indices < 0, indices + len(self), indices)
        return places if self._rows is None else self._rows[places]


class MixedDataset(ConcatDataset[dict[str, Any]]):
    """The samples of several data sets by number, one data set behind the other.

    Parameters
    ----------
    datasets : sequence of ShardDataset
        The data sets.
    parts : sequence of MixPart
        What each is in the mixture.
    """

    def __init__(self, datasets: Sequence[ShardDataset], parts: Sequence[MixPart]) -> None:
        super().__init__(datasets)
        self._pairs = tuple(zip(datasets, parts, strict=True))

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return the joint side table, to which the numbers in columns such as ``unit_ids`` refer: one dict per row.

        Raises
        ------
        ConfigError
            No data set has such a table; the message lists those that are there.
        """
        joint: dict[int, dict[str, Any]] = {}
        for data, part in self._pairs:
            if name in part.bases:
                part.place(name, data.table(name), joint)
        if not any(name in part.bases for _, part in self._pairs):
            known = sorted({each for _, part in self._pairs for each in part.bases})
            raise ConfigError(unknown_name("table", name, known))
        return [joint[i] for i in range(len(joint))]
