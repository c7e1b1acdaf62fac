"""The data loader: a torch DataLoader whose batches are gathered instead of collated."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from multiprocessing.context import BaseContext
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler

from neurofm_shards._typing import Rows
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.datasets import (
    DEFAULT_PATTERN,
    Counts,
    ShardDataset,
    chosen_rows,
    make_reader,
    open_shards,
    sample_bytes,
)
from neurofm_shards.loading.device import copier, has_accelerator, pinned, prefetch
from neurofm_shards.loading.fetch import BatchFetch, Finish, OnError, RowReader, SkipCounter, restored
from neurofm_shards.loading.order.bijection import derive_key
from neurofm_shards.loading.plans.plan import EpochPlan, Even, Request, SinglePlan
from neurofm_shards.loading.state import Cursor, Ranks, ranks
from neurofm_shards.loading.subsets import Where
from neurofm_shards.loading.tensors import RaggedAs
from neurofm_shards.loading.transforming import (
    BatchFunction,
    SampleFunction,
    TransformLike,
    WorkerType,
    as_list,
    choose_workers,
    is_transform,
    make_transforms,
)
from neurofm_shards.loading.workers.pipeline import Fetched, Workers, run
from neurofm_shards.loading.workers.select import WorkerOptions
from neurofm_shards.plugins.interfaces import Transform
from neurofm_shards.reading.address_space import IO
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.types import ColumnSpec


@dataclass(frozen=True)
class Shelf:
    """One data set of a loader: where its samples are in ``loader.dataset``.

    Attributes
    ----------
    subset : numpy.ndarray of int64 or None
        The selected rows, ascending; None for all.
    start : int
        Number of the first of them.
    """

    subset: Rows | None
    start: int

    def numbers(self, rows: Rows) -> list[int]:
        """Return the numbers of rows."""
        found = rows if self.subset is None else np.searchsorted(self.subset, rows)
        return [number + self.start for number in found.tolist()]


class PlanSampler(Sampler[list[int]]):
    """What each batch of the loader's epoch holds, as numbers of ``loader.dataset``.

    For code that asks a DataLoader for its sampler; ``DataLoader(loader.dataset, batch_sampler=loader.batch_sampler)``
    gives the same samples.
    """

    def __init__(self, plan: EpochPlan, cursor: Cursor, shelves: Sequence[Shelf]) -> None:
        self._plan = plan
        self._cursor = cursor
        self._shelves = shelves

    def __iter__(self) -> Iterator[list[int]]:
        for request in self._plan.requests(self._cursor.epoch):
            found = [i for number, rows in request.parts for i in self._shelves[number].numbers(rows)]
            yield found if request.order is None else [found[i] for i in request.order.tolist()]

    def __len__(self) -> int:
        return self._plan.num_batches(self._cursor.epoch)


class ShardDataLoader(DataLoader[Any]):
    """Batches of shards, in an order that depends neither on workers nor on ranks.

    Made by :func:`~neurofm_shards.loading.dataloader.create_webdataset_dataloader`. Iterating again is the next epoch.

    Parameters
    ----------
    plan : EpochPlan
        What is iterated.
    fetch : BatchFetch
        Makes the batches.
    dataset : torch.utils.data.Dataset
        The same samples for random access.
    shelves : sequence of Shelf
        Where the samples of each data set are in ``dataset``.
    place : Ranks
        The rank that the plan was made for.
    batch_size : int or None
        For information; None where batches differ in size.
    drop_last : bool
        For information.
    workers : WorkerOptions
        Who makes the batches.
    pin_memory : bool
        Whether batches come in page-locked memory.
    device : torch.device or None
        Where batches are copied to, some in advance.
    seed : int
        What random numbers in worker processes start from.

    Attributes
    ----------
    skips : SkipCounter
        Counts samples left out because they could not be read (``on_error="skip"``).
    """

    # Accelerate asks for these: prepare() leaves the loader as it is (ranks are divided already), save_state() and
    # load_state() include its state.
    _is_accelerate_prepared = True
    use_stateful_dataloader = True

    def __init__(
        self,
        plan: EpochPlan,
        fetch: BatchFetch,
        *,
        dataset: Dataset[Any],
        shelves: Sequence[Shelf],
        place: Ranks,
        batch_size: int | None,
        drop_last: bool,
        workers: WorkerOptions,
        pin_memory: bool,
        device: torch.device | None,
        seed: int,
    ) -> None:
        self._plan = plan
        self._fetch = fetch
        self._cursor = Cursor(plan, place)
        self._options = workers
        self._kept: Workers | None = None
        self._copies = None if device is None else copier(device)
        self._seed = seed
        self.skips = SkipCounter()
        super().__init__(dataset, batch_sampler=PlanSampler(plan, self._cursor, shelves))
        self.num_workers = workers.count
        self.prefetch_factor = workers.prefetch_factor if workers.count else None
        self.pin_memory = pin_memory
        # torch forbids to change these: it made its sampler from them, which here is the plan's
        object.__setattr__(self, "batch_size", batch_size)
        object.__setattr__(self, "drop_last", drop_last)
        object.__setattr__(self, "persistent_workers", workers.persistent)

    @property
    def epoch(self) -> int:
        """The epoch that is running, or comes next where none has begun."""
        return self._cursor.epoch

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch on this rank; the same on every rank."""
        return self._plan.num_batches(self._cursor.epoch)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Iterate over one epoch's batches; stopping early is fine, and ends the workers."""
        iteration, epoch, position = self._cursor.begin()
        requests = self._plan.requests(epoch, position)
        workers = self._take_workers()
        workers.begin(derive_key(self._seed, epoch))
        stream = run(requests, workers, self._group())
        try:
            batches = map(self._completed, stream)
            arriving = batches if self._copies is None else prefetch(batches, self._copies)
            # a map, because the variable of a loop here would keep each batch alive until the next is there
            yield from map(self._handed_over, arriving, repeat(iteration))
        finally:
            stream.close()
            self._leave_workers(workers)

    def set_epoch(self, epoch: int) -> None:
        """Choose the next iteration's epoch; a loaded position inside that very epoch is kept."""
        self._cursor.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the training loop stands: behind the last batch it was given (below 1 KB; JSON values)."""
        return self._cursor.state().to_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue there with the next iteration, with whatever number of workers and ranks.

        Raises
        ------
        StateError
            The state belongs to another data set or other settings; says what differs.
        """
        self._cursor.load(dict(state_dict))

    def close(self) -> None:
        """End workers that were kept for the next epoch."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def _group(self) -> int:
        size = max(sample_bytes(reader) for reader in self._fetch.readers)
        return self._options.group(size * (self.batch_size or 1))

    def _take_workers(self) -> Workers:
        kept, self._kept = self._kept, None
        finish = self._finished if self.pin_memory else None
        return self._options.start(self._fetch, finish) if kept is None else kept

    def _leave_workers(self, workers: Workers) -> None:
        if self._options.persistent and self._kept is None:
            self._kept = workers
        else:
            workers.close()

    def _handed_over(self, delivered: tuple[Any, Request], iteration: int) -> Any:
        """Note that the training loop has this batch from now on."""
        batch, request = delivered
        self._cursor.move(iteration, request.position_after)
        return batch

    def _finished(self, fetched: Fetched) -> Fetched:
        return fetched._replace(batch=pinned(fetched.batch))

    def _completed(self, delivered: tuple[Fetched, Request]) -> tuple[Any, Request]:
        """Do what is left to do in the caller's thread."""
        fetched, request = delivered
        self.skips.add(fetched, request)
        if self._options.remote:
            fetched = restored(self._fetch, fetched, request)
            if self.pin_memory:
                fetched = self._finished(fetched)
        return fetched.batch, request


_log = logging.getLogger("neurofm_shards.loading")


def create_webdataset_dataloader(
    shard_dir: str | os.PathLike[str] | Any,
    batch_size: int = 32,
    num_workers: int = 4,
    shuffle: bool | str = True,
    buffer_size: int = 1000,
    prefetch_factor: int = 2,
    pin_memory: bool = True,
    *,
    drop_last: bool = False,
    seed: int = 42,
    shard_pattern: str = DEFAULT_PATTERN,
    columns: Sequence[str] | None = None,
    where: Where | None = None,
    keys: Sequence[str] | None = None,
    split: str | None = None,
    rows: npt.ArrayLike | None = None,
    transform: SampleFunction | TransformLike | None = None,
    transforms: TransformLike | Sequence[TransformLike] | None = None,
    batch_transform: BatchFunction | None = None,
    ragged: RaggedAs = "list",
    pad_value: float = 0.0,
    counts: Counts = "float32",
    metadata: bool = True,
    shuffle_shards: bool | None = None,
    batching: Any = None,
    even: Even = "pad",
    rank: int | None = None,
    world_size: int | None = None,
    worker_type: WorkerType = "auto",
    persistent_workers: bool = False,
    multiprocessing_context: str | BaseContext | None = None,
    device: torch.device | str | None = None,
    io: IO = "auto",
    verify: bool = False,
    on_error: OnError = "raise",
) -> ShardDataLoader:
    """Make a :class:`torch.utils.data.DataLoader` over a folder of shards.

    The order of batches depends on the data, ``seed``, epoch and shuffle settings alone: not on workers or on threads
    and processes, and ranks only divide it.

    Parameters
    ----------
    shard_dir : path-like or mixture
        A folder of shards, or what :func:`~neurofm_shards.loading.plans.mixing.mix` made of several.
    batch_size : int
        Samples per batch and rank.
    num_workers : int
        Threads or processes that make batches in advance; 0: made when asked for.
    shuffle : bool or "global"
        False: storage order. True: shards in random order and samples shuffled within ``buffer_size``. ``"global"``: a
        pseudo-random permutation of all samples.
    buffer_size : int
        Samples that are shuffled together, for ``shuffle=True``.
    prefetch_factor : int
        Batches (of small ones: groups of them, 2 MiB at most) under way per worker.
    pin_memory : bool
        Put batches into page-locked memory; without effect where there is no accelerator.
    drop_last : bool
        Leave out a last batch that is not full.
    seed : int
        Decides the order.
    shard_pattern : str
        Which files of the folder are shards. The default takes what the manifest lists, where there is one.
    columns : sequence of str, optional
        Fields to load; others are not read.
    where : str or callable, optional
        Selects samples by their metadata: ``'subject == "M1"'``, or a function of the columns.
    keys : sequence of str, optional
        Selects samples by key.
    split : str, optional
        Selects a named split.
    rows : array of int64, optional
        Selects samples by number (``splits.rows["train"]``, say).
    transform : callable or Transform, optional
        Given each sample as a dict of tensors, returns the sample to use. A Transform, its name or configuration is
        also taken.
    transforms : Transform, name, configuration, or a sequence of them, optional
        Run first, on whole batches of numpy arrays.
    batch_transform : callable, optional
        Given the finished batch, returns the batch to use.
    ragged : "list", "pad", "packed" or "nested"
        What becomes of arrays that differ in length.
    pad_value : float
        What ``ragged="pad"`` fills with.
    counts : "float32" or "stored"
        How spike counts, stored as small integers, are delivered.
    metadata : bool
        Whether batches have ``metadata``: the list of the samples' dicts, decoded when used.
    shuffle_shards : bool, optional
        None: as ``shuffle`` says.
    batching : optional
        A rule for what goes into one batch, see :mod:`neurofm_shards.loading.plans.batching`.
    even : "pad", "drop" or "error"
        What happens to a last global batch that the ranks cannot share evenly: every rank gets the same number of
        batches in any case.
    rank, world_size : int, optional
        By default from torch.distributed, else from ``RANK`` and ``WORLD_SIZE``.
    worker_type : "auto", "thread" or "process"
        ``"auto"``: threads, unless a transform holds the GIL (a function given as ``transform`` is taken to do so).
    persistent_workers : bool
        Keep workers for the next epoch.
    multiprocessing_context : str or context, optional
        How worker processes start.
    device : torch.device or str, optional
        Copy batches to this device in advance, beside the training loop's work.
    io : "auto", "mmap" or "pread"
        How shards are read; ``"pread"`` for file systems that memory maps cannot be trusted with.
    verify : bool
        Check every sample's checksum before it is delivered.
    on_error : "raise" or "skip"
        ``"skip"``: samples that cannot be read are logged, counted (``loader.skips.total``) and left out, so such
        batches are smaller; the number of batches stays the same, on every rank. A batch without any readable sample,
        or 100 unreadable samples in a row, is an error all the same.

    Returns
    -------
    ShardDataLoader
        Batches are dicts of tensors, with ``metadata``.

    Raises
    ------
    ConfigError
        An argument is wrong.
    NoShardsError
        The folder holds no shards.

    Examples
    --------
    >>> loader = create_webdataset_dataloader("./shards", batch_size=32)  # doctest: +SKIP
    >>> for batch in loader:  # doctest: +SKIP
    ...     loss = model(batch["spikes"])
    """
    made = make_transforms([*as_list(transforms), *(as_list(transform) if is_transform(transform) else [])])
    function = None if is_transform(transform) else cast("SampleFunction | None", transform)
    kind = choose_workers(worker_type, made, function, batch_transform)
    workers = WorkerOptions(kind, num_workers, prefetch_factor, multiprocessing_context, persistent_workers)
    place = ranks(rank, world_size)
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "buffer_size": buffer_size,
        "seed": seed,
        "rank": place.rank,
        "world_size": place.world_size,
        "even": even,
        "drop_last": drop_last,
    }
    if isinstance(shard_dir, (str, os.PathLike)):
        collections = [open_shards(shard_dir, shard_pattern, io, verify)]
        subsets = [chosen_rows(collections[0], where, keys, split, rows)]
        settings |= {"shuffle_shards": shuffle_shards, "subset": subsets[0]}
        make = SinglePlan if batching is None else batching.plan
        plan: EpochPlan = make(collections[0], shuffle, **settings)
    else:
        _refuse(where=where, keys=keys, split=split, rows=rows, batching=batching, shuffle_shards=shuffle_shards)
        collections = list(shard_dir.collections)
        subsets = [None] * len(collections)
        plan = shard_dir.plan(shuffle, **settings)
    _report(plan, place)
    readers = [make_reader(collection, columns, counts, made) for collection in collections]
    dataset, shelves = _random_access(readers, subsets, function, metadata)
    finish = Finish(function, batch_transform, ragged, pad_value, _specs(collections, made), metadata)
    return ShardDataLoader(
        plan,
        BatchFetch(readers, finish, on_error),
        dataset=dataset,
        shelves=shelves,
        place=place,
        batch_size=batch_size,
        drop_last=drop_last,
        workers=workers,
        pin_memory=pin_memory and has_accelerator(),
        device=None if device is None else torch.device(device),
        seed=derive_key(seed, place.rank),
    )


def _refuse(**selection: Any) -> None:
    """Refuse to select from a mixture a second time."""
    given = [f"{name}=" for name, value in selection.items() if value is not None]
    if given:
        raise ConfigError(f"{', '.join(given)} cannot be used with a mixture: choose when making it (mix(subsets=...))")


def _report(plan: EpochPlan, place: Ranks) -> None:
    """Say, before the first batch, what this rank gets; refuse what cannot be shared evenly."""
    shares = plan.shares(0)
    _log.info(
        "rank %d of %d: %d batches per epoch, on every rank; %d samples repeated and %d left out to make that so",
        *(place.rank, place.world_size, shares.num_batches, shares.padded, shares.dropped),
    )


def _specs(collections: Sequence[ShardCollection], transforms: Sequence[Transform]) -> dict[str, ColumnSpec]:
    """Return what is known of the columns of every batch; nothing where transforms may change them."""
    specs: dict[str, ColumnSpec] = {}
    for collection in [] if transforms else collections:
        for name, spec in collection.columns.items():
            specs[name] = specs[name].merge(spec) if name in specs else spec
    return specs


def _random_access(
    readers: Sequence[RowReader], subsets: Sequence[Rows | None], transform: SampleFunction | None, metadata: bool
) -> tuple[Dataset[Any], tuple[Shelf, ...]]:
    """Return the samples by number, those of several data sets one behind the other, and who is where."""
    pairs = zip(readers, subsets, strict=True)
    sets = [ShardDataset.of(reader, subset, transform, metadata=metadata) for reader, subset in pairs]
    starts = np.cumsum([0, *(len(data) for data in sets)]).tolist()
    shelves = tuple(Shelf(subset, start) for subset, start in zip(subsets, starts, strict=False))
    return (sets[0] if len(sets) == 1 else ConcatDataset(sets)), shelves
