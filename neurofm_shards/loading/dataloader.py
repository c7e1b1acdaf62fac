"""The data loader: a torch DataLoader whose batches are gathered instead of collated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from multiprocessing.context import BaseContext
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from neurofm_shards._typing import Rows
from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError
from neurofm_shards.format.shard_names import DEFAULT_SHARD_PATTERN
from neurofm_shards.loading.datasets import (
    CacheDir,
    MixedDataset,
    ShardDataset,
    chosen_rows,
    grow_caches,
    make_reader,
    open_shards,
    sample_bytes,
)
from neurofm_shards.loading.device import copier, has_accelerator, page_locked, pinned, prefetch
from neurofm_shards.loading.fetch import BatchFetch, Finish, OnError, RemoteFetch, RowReader, SkipCounter, restored
from neurofm_shards.loading.order.bijection import derive_key
from neurofm_shards.loading.plans.batching import BatchingRule
from neurofm_shards.loading.plans.mixing import Mix, MixPart, parts_of
from neurofm_shards.loading.plans.options import PlanOptions, RemainderPolicy
from neurofm_shards.loading.plans.plan import EpochPlan, Request, SinglePlan
from neurofm_shards.loading.progress import Progress
from neurofm_shards.loading.ranks import RankRequest
from neurofm_shards.loading.samplers import EpochSampler, NumberedRows, PlanSampler
from neurofm_shards.loading.state import Checkpoint, LoaderState, OnSignal, make_checkpoint
from neurofm_shards.loading.subsets import Where
from neurofm_shards.loading.tensors import Batch, Counts, Floats, RaggedAs, TensorOptions
from neurofm_shards.loading.transforms import (
    BatchFunction,
    SampleFunction,
    TransformLike,
    WorkerType,
    as_list,
    choose_workers,
    is_transform,
    make_transforms,
)
from neurofm_shards.loading.workers.pipeline import Fetched, Step, Workers, run
from neurofm_shards.loading.workers.select import WorkerOptions
from neurofm_shards.reading.address_space import IO
from neurofm_shards.reading.buffers import BufferPool
from neurofm_shards.stored.options import WindowsArgument
from neurofm_shards.types import ColumnSpec
from neurofm_shards.values import sorted_unique


@dataclass(frozen=True)
class LoaderSetup:
    """What a :class:`ShardDataLoader` is made of.

    Attributes
    ----------
    make_plan, options, request
        See :class:`~neurofm_shards.loading.progress.Progress`.
    fetch : BatchFetch
        Makes the batches.
    numbering : tuple of NumberedRows
        Where the samples of each data set are in ``dataset``.
    workers : WorkerOptions
        Who makes the batches.
    pin_memory : bool
        Whether batches come in page-locked memory.
    device : torch.device or None
        Where batches are copied to, some in advance.
    checkpoint : Checkpoint or None
        Written when an iteration ends.
    """

    make_plan: Callable[[PlanOptions], EpochPlan]
    options: PlanOptions
    request: RankRequest
    fetch: BatchFetch
    numbering: tuple[NumberedRows, ...]
    workers: WorkerOptions
    pin_memory: bool
    device: torch.device | None
    checkpoint: Checkpoint | None = None

    def sampler(self) -> PlanSampler:
        """Return the sampler of a loader that starts anew."""
        progress = Progress(self.make_plan, self.options, self.request)
        sampler = EpochSampler(progress, self.numbering)
        return PlanSampler(sampler, self.options.batch_size, self.options.drop_last)


class ShardDataLoader(DataLoader[Batch]):
    """Batches of shards, in an order that depends neither on workers nor on ranks.

    Made by :func:`~neurofm_shards.loading.dataloader.create_webdataset_dataloader`. Iterating again is the next epoch.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        The same samples for random access.
    setup : LoaderSetup
        All else.
    batch_sampler : iterable of list of int, optional
        Another order, by which frameworks replace the loader's own (Lightning's ``predict`` and ``overfit_batches``).
    **others
        What a framework that rebuilds a DataLoader from its attributes gives as well; ``setup`` says it already.

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
        dataset: Dataset[Any],
        setup: LoaderSetup,
        batch_sampler: Iterable[list[int]] | None = None,
        **others: Any,  # noqa: ARG002
    ) -> None:
        self.setup = setup
        planned = setup.sampler() if batch_sampler is None else batch_sampler
        progress = planned.progress if isinstance(planned, PlanSampler) else None
        self._numbers = None if progress is not None else planned
        self._progress = Progress(setup.make_plan, setup.options, setup.request) if progress is None else progress
        self._kept: Workers | None = None
        self._batch_bytes = setup.options.batch_size * max(map(sample_bytes, setup.fetch.readers))
        self._workers = setup.workers.worth(self._batch_bytes, copied=setup.fetch.copies and setup.device is None)
        self._copies = None if setup.device is None else copier(setup.device)
        # only where this loader copies itself does it know when such memory may be written to again
        self._gathered_into = BufferPool(page_locked) if setup.pin_memory and setup.device is not None else None
        self.skips = SkipCounter()
        state = None if setup.checkpoint is None or batch_sampler is not None else setup.checkpoint.load()
        if state is not None:
            self._progress.load(state)
        super().__init__(dataset, batch_sampler=planned, collate_fn=setup.fetch.collate)
        self.num_workers = setup.workers.count
        self.prefetch_factor = setup.workers.prefetch_factor if setup.workers.count else None
        self.pin_memory = setup.pin_memory
        # torch forbids to change these: it made its sampler from them, which here is the plan's
        object.__setattr__(self, "sampler", getattr(planned, "sampler", None))
        object.__setattr__(self, "batch_size", setup.options.batch_size)
        object.__setattr__(self, "drop_last", setup.options.drop_last)
        object.__setattr__(self, "persistent_workers", setup.workers.persistent)

    def __repr__(self) -> str:
        data = " + ".join(reader.collection.catalog.summary() for reader in self.setup.fetch.readers)
        size = f"{counted(len(self), 'batch')} of up to {self.setup.options.batch_size:,}"
        return f"ShardDataLoader({size}, {self._progress.summary()}; {data})"

    @property
    def plan(self) -> EpochPlan:
        """What is iterated, on this rank."""
        return self._progress.plan

    @property
    def epoch(self) -> int:
        """The epoch that is running, or comes next where none has begun."""
        return self._progress.epoch

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch on this rank; the same on every rank."""
        if self._numbers is not None:
            return len(cast("Sized", self._numbers))
        return self._progress.plan.num_batches(self._progress.epoch)

    @property
    def batches_behind(self) -> int:
        """Batches of the running epoch that lie behind, counted as this number of ranks would have shared them."""
        return 0 if self._numbers is not None else self._progress.batches_behind

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Iterate over one epoch's batches; stopping early is fine, and ends the workers."""
        iteration, epoch, position = self._progress.begin()
        plan = self._progress.plan
        planned = plan.requests(epoch, position) if self._numbers is None else self._requested(self._numbers)
        requests = self.setup.fetch.in_epoch(epoch, planned)
        workers = self._take_workers()
        workers.begin(derive_key(derive_key(self.setup.options.seed, plan.sharding.rank), epoch))
        stream = run(requests, workers, self._workers.group(self._batch_bytes))
        checkpoint = self.setup.checkpoint
        try:
            with nullcontext() if checkpoint is None else checkpoint.during(self._progress.state):
                batches = map(self._completed, stream)
                arriving = batches if self._copies is None else prefetch(batches, self._copies)
                # a map, because the variable of a loop here would keep each batch alive until the next is there
                yield from map(self._handed_over, arriving, repeat(iteration))
        finally:
            stream.close()
            self._leave_workers(workers)

    def set_epoch(self, epoch: int) -> None:
        """Choose the next iteration's epoch; a loaded position inside that very epoch is kept."""
        self._progress.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the training loop stands: behind the last batch it was given (below 1 KB; JSON values)."""
        return self._progress.state().to_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue there with the next iteration, with whatever number of workers and ranks.

        Raises
        ------
        StateError
            The state belongs to another data set or other settings; says what differs.
        """
        self._progress.load(LoaderState.from_dict(state_dict))

    def close(self) -> None:
        """End workers that were kept for the next epoch."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def _requested(self, batches: Iterable[list[int]]) -> Iterator[Request]:
        """Turn numbers of ``dataset`` into requests; the epoch counts as passed by so many samples."""
        done, length = 0, self._progress.plan.length(self._progress.epoch)
        starts = np.array([each.start for each in self.setup.numbering], dtype=np.int64)
        for batch in batches:
            numbers = np.array(batch, dtype=np.int64)
            owners = np.searchsorted(starts, numbers, side="right") - 1
            done += len(numbers)
            rows = np.empty_like(numbers)
            for owner in sorted_unique(owners).tolist():
                rows[owners == owner] = self.setup.numbering[owner].rows(numbers[owners == owner])
            yield Request(*parts_of(owners, rows), min(done, length))

    def _take_workers(self) -> Workers:
        kept, self._kept = self._kept, None
        finish = self._gather_and_pin if self.pin_memory else None
        fetch = self.setup.fetch
        return self._workers.start(fetch, RemoteFetch(fetch), finish) if kept is None else kept

    def _leave_workers(self, workers: Workers) -> None:
        if self.setup.workers.persistent and self._kept is None:
            self._kept = workers
        else:
            workers.close()

    def _handed_over(self, delivered: tuple[Any, Request], iteration: int) -> Any:
        """Note that the training loop has this batch from now on."""
        batch, request = delivered
        self._progress.move(iteration, request.position_after)
        return batch

    def _gather_and_pin(self, step: Step) -> Fetched:
        with nullcontext() if self._gathered_into is None else self._gathered_into.lent():
            return _pinned(step())

    def _completed(self, delivered: tuple[Fetched, Request]) -> tuple[Any, Request]:
        """Do what is left to do in the caller's thread."""
        fetched, request = delivered
        self.skips.add(fetched, request)
        if self._workers.remote:
            fetched = restored(self.setup.fetch, fetched, request)
            if self.pin_memory:
                fetched = _pinned(fetched)
        return fetched.batch, request


def _pinned(fetched: Fetched) -> Fetched:
    return fetched._replace(batch=pinned(fetched.batch))


def create_webdataset_dataloader(
    shard_dir: str | os.PathLike[str] | Mix,
    batch_size: int = 32,
    num_workers: int = 4,
    shuffle: bool | str = True,
    buffer_size: int = 1000,
    prefetch_factor: int | None = 2,
    pin_memory: bool = True,
    *,
    drop_last: bool = False,
    seed: int = 42,
    shard_pattern: str = DEFAULT_SHARD_PATTERN,
    windows: WindowsArgument | None = None,
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
    floats: Floats = "stored",
    metadata: bool = True,
    shuffle_shards: bool | None = None,
    batching: BatchingRule | None = None,
    even: RemainderPolicy = "pad",
    rank: int | None = None,
    world_size: int | None = None,
    shard: bool = True,
    worker_type: WorkerType = "auto",
    persistent_workers: bool = False,
    multiprocessing_context: str | BaseContext | None = None,
    device: torch.device | str | None = None,
    io: IO = "auto",
    verify: bool = False,
    cache_bytes: int | None = None,
    cache_dir: CacheDir = "auto",
    on_error: OnError = "raise",
    checkpoint_path: str | os.PathLike[str] | None = None,
    on_signal: OnSignal | None = None,
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
        Threads or processes that make batches in advance; 0: made when asked for. Small batches whose arrays are only
        copied are made when asked for in any case, which is faster, until that takes long.
    shuffle : bool or "global"
        False: storage order. True: shards in random order and samples shuffled within ``buffer_size``. ``"global"``: a
        pseudo-random permutation of all samples.
    buffer_size : int
        Samples that are shuffled together, for ``shuffle=True``.
    prefetch_factor : int
        Batches (of small ones: groups of them, 2 MiB at most) under way per worker; None: 2, as in torch.
    pin_memory : bool
        Put batches into page-locked memory; without effect where there is no accelerator.
    drop_last : bool
        Leave out a last batch that is not full.
    seed : int
        Decides the order.
    shard_pattern : str
        Which files of the folder are shards. The default takes what the manifest lists, where there is one.
    windows : dict, WindowOptions or path of a job file, optional
        How to cut the recordings that a data set stores (``convert --layout recordings``): every option of
        :class:`~neurofm_shards.recordings.options.WindowOptions`. Samples are those that converting with these options
        gives. A job file has them under ``windows`` or at its top level.
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
    floats : "float32" or "stored"
        How columns of float64, the type that NumPy makes and layers of torch do not have, are delivered.
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
        By default from torch.distributed, else from what started the job (torchrun, ``srun``, MPI, Lightning); decided
        when an iteration begins. ``rank=0, world_size=1`` wins over both.
    shard : bool
        False: every rank gets all samples, because a framework that the loader is given to divides them.
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
    cache_bytes : int, optional
        Decoded bytes of compressed shards to keep in memory, in each process. By default what the order goes back to,
        which is a shuffle window or, for ``"global"``, all, within half of the memory that the job may use.
    cache_dir : path-like, "auto" or None
        Folder of a local disk. Where the order goes back to more than ``cache_bytes``, and where several processes
        decode, shards are decoded into a file there, once for all forked processes. It has no name and ends with them.
        ``"auto"``: the system's temporary folder (``TMPDIR``), where it is on a local disk whose free room is twice
        what all ranks of the machine need. With None, or where no more than a twentieth of the disk is free, shards are
        decoded again and again.
    on_error : "raise" or "skip"
        ``"skip"``: samples that cannot be read are logged, counted (``loader.skips.total``) and left out, so such
        batches are smaller; the number of batches stays the same, on every rank. A batch without any readable sample,
        or 100 unreadable samples in a row, is an error all the same.
    checkpoint_path : path-like, optional
        A file from which the loader continues, where it is there, and which is written when an iteration ends, by
        ``break`` or an exception, too. With several ranks, each needs a path of its own.
    on_signal : "checkpoint" or None
        ``"checkpoint"``: SIGTERM and SIGUSR1 (which Slurm and clouds send before they end a process) write the position
        of the last batch to ``checkpoint_path`` while the loader is iterated in the main thread, before what they do
        otherwise.

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
    workers = WorkerOptions(
        kind,
        num_workers,
        2 if prefetch_factor is None else prefetch_factor,
        multiprocessing_context,
        persistent_workers,
    )
    options = PlanOptions(
        shuffle=shuffle,
        batch_size=batch_size,
        buffer_size=buffer_size,
        seed=seed,
        shuffle_shards=shuffle_shards,
        even=even,
        drop_last=drop_last,
    )
    make_plan: Callable[[PlanOptions], EpochPlan]
    parts: tuple[MixPart | None, ...] = (None,)
    if isinstance(shard_dir, (str, os.PathLike)):
        collections = [open_shards(shard_dir, shard_pattern, io, verify, cache_bytes, windows)]
        subsets = [chosen_rows(collections[0], where, keys, split, rows)]
        make_plan = partial(SinglePlan if batching is None else batching.plan, collections[0], subset=subsets[0])
    else:
        _refuse(
            windows=windows,
            where=where,
            keys=keys,
            split=split,
            rows=rows,
            batching=batching,
            shuffle_shards=shuffle_shards,
        )
        collections = list(shard_dir.collections)
        subsets = [None] * len(collections)
        make_plan, parts = shard_dir.plan, shard_dir.parts or parts
    pairs = zip(collections, parts, strict=True)
    readers = [make_reader(collection, columns, counts, floats, made, part) for collection, part in pairs]
    dataset, numbering = _random_access(readers, subsets, function, metadata)
    tensors = TensorOptions(ragged, pad_value, *_known_columns(readers))
    finish = Finish(function, batch_transform, tensors, metadata)
    setup = LoaderSetup(
        make_plan,
        options,
        RankRequest(rank, world_size, shard),
        BatchFetch(readers, finish, on_error),
        numbering,
        workers,
        pin_memory=pin_memory and has_accelerator(),
        device=None if device is None else torch.device(device),
        checkpoint=make_checkpoint(checkpoint_path, on_signal),
    )
    loader = ShardDataLoader(dataset, setup)
    grow_caches(collections, loader.plan.reach, cache_bytes, cache_dir, max(1, num_workers) if workers.remote else 1)
    return loader


def _refuse(**selection: Any) -> None:
    """Refuse to select from a mixture a second time."""
    given = [f"{name}=" for name, value in selection.items() if value is not None]
    if given:
        raise ConfigError(
            f"{', '.join(given)} cannot be used with a mixture: choose when making it (mix(subsets=...) with rows or "
            "names of splits, mix([open_windows(...), ...]))"
        )


def _known_columns(readers: Sequence[RowReader]) -> tuple[dict[str, ColumnSpec], frozenset[str]]:
    """Return the columns of every batch as delivered, and which some samples lack; nothing after transforms."""
    if any(reader.transforms for reader in readers):
        return {}, frozenset()
    specs: dict[str, ColumnSpec] = {}
    found = [reader.delivered() for reader in readers]
    for columns in found:
        specs |= {name: specs[name].merge(spec) if name in specs else spec for name, spec in columns.items()}
    absent = {name for name in specs for columns in found if name not in columns}
    return specs, frozenset(absent.union(*(reader.optional() for reader in readers)))


def _random_access(
    readers: Sequence[RowReader], subsets: Sequence[Rows | None], transform: SampleFunction | None, metadata: bool
) -> tuple[Dataset[Any], tuple[NumberedRows, ...]]:
    """Return the samples by number, those of several data sets one behind the other, and who is where."""
    pairs = zip(readers, subsets, strict=True)
    sets = [ShardDataset.of(reader, subset, transform, metadata=metadata) for reader, subset in pairs]
    edges = np.cumsum([0, *(len(data) for data in sets)]).tolist()
    numbering = tuple(NumberedRows(*each) for each in zip(subsets, edges[:-1], edges[1:], strict=True))
    mixed = [reader.part for reader in readers if reader.part is not None]
    return (MixedDataset(sets, mixed) if len(mixed) > 1 else sets[0]), numbering
