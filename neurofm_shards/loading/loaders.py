"""Iterable data sets of single samples, with and without checkpoints of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import IterableDataset, get_worker_info

from neurofm_shards.errors import ConfigError, StateError
from neurofm_shards.format.shard_names import DEFAULT_SHARD_PATTERN
from neurofm_shards.loading.datasets import CacheDir, chosen_rows, grow_caches, make_reader, open_shards, sample_bytes
from neurofm_shards.loading.fetch import OnError, SampleFetch, SkipCounter
from neurofm_shards.loading.plans.options import PlanOptions, RemainderPolicy
from neurofm_shards.loading.plans.plan import Request, SinglePlan
from neurofm_shards.loading.progress import Progress, SharedEpochCounter, worker_place
from neurofm_shards.loading.ranks import RankRequest, warn_of_second_division
from neurofm_shards.loading.state import Checkpoint, LoaderState, OnSignal, make_checkpoint
from neurofm_shards.loading.subsets import Where
from neurofm_shards.loading.tensors import Counts, Floats
from neurofm_shards.loading.transforms import (
    SampleFunction,
    TransformLike,
    as_list,
    make_transforms,
)
from neurofm_shards.loading.workers.pipeline import Fetched
from neurofm_shards.reading.address_space import IO
from neurofm_shards.stored.options import WindowsArgument

#: Samples are read in chunks of about this size.
CHUNK_BYTES = 4 << 20
MOST_IN_CHUNK = 64


class WebDatasetLoader(IterableDataset[dict[str, Any]]):
    """Samples one by one: dicts of tensors, with ``metadata``. Iterating again is the next epoch.

    Samples are read in chunks, and a sample's tensors are views of its chunk: ``clone()`` what is kept for long.

    Inside a :class:`torch.utils.data.DataLoader` with workers, each worker gives its share, and together they give each
    sample once; for a global order that does not depend on workers use
    :func:`~neurofm_shards.loading.dataloader.create_webdataset_dataloader`.

    Parameters
    ----------
    shard_dir : path-like
        Folder of shards.
    shard_pattern : str
        Which of its files are shards. The default takes what the manifest lists, where there is one.
    shuffle : bool or "global"
        See :func:`~neurofm_shards.loading.dataloader.create_webdataset_dataloader`.
    shuffle_shards : bool
        Whether shuffling also draws shards in random order. ``shuffle=False`` is storage order in any case.
    buffer_size : int
        Samples that are shuffled together.
    seed : int
        Decides the order.
    decode : bool
        False: fields, the metadata too, are given as the bytes that are stored.
    windows, columns, where, keys, split, rows, transform, transforms, counts, floats, metadata
        See :func:`~neurofm_shards.loading.dataloader.create_webdataset_dataloader`; so are the following.
    rank, world_size, shard, even, io, verify, cache_bytes, cache_dir
        See :func:`~neurofm_shards.loading.dataloader.create_webdataset_dataloader`.
    on_error : "raise" or "skip"
        ``"skip"``: samples that cannot be read are logged, counted (``loader.skips.total``) and left out; 100 of them
        in a row are an error all the same.

    Raises
    ------
    NoShardsError
        The folder holds no shards: "No shards found in DIR matching PATTERN".
    """

    def __init__(
        self,
        shard_dir: str | os.PathLike[str],
        shard_pattern: str = DEFAULT_SHARD_PATTERN,
        shuffle: bool | str = True,
        shuffle_shards: bool = True,
        buffer_size: int = 1000,
        seed: int = 42,
        decode: bool = True,
        *,
        windows: WindowsArgument | None = None,
        columns: Sequence[str] | None = None,
        where: Where | None = None,
        keys: Sequence[str] | None = None,
        split: str | None = None,
        rows: npt.ArrayLike | None = None,
        transform: SampleFunction | None = None,
        transforms: TransformLike | Sequence[TransformLike] | None = None,
        counts: Counts = "float32",
        floats: Floats = "stored",
        metadata: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        shard: bool = True,
        even: RemainderPolicy = "pad",
        io: IO = "auto",
        verify: bool = False,
        cache_bytes: int | None = None,
        cache_dir: CacheDir = "auto",
        on_error: OnError = "raise",
    ) -> None:
        collection = open_shards(shard_dir, shard_pattern, io, verify, cache_bytes, windows)
        subset = chosen_rows(collection, where, keys, split, rows)
        options = PlanOptions(
            shuffle=shuffle,
            buffer_size=buffer_size,
            seed=seed,
            shuffle_shards=None if shuffle_shards else False,
            even=even,
        )
        make_plan = partial(SinglePlan, collection, subset=subset)
        self._progress = Progress(make_plan, options, RankRequest(rank, world_size, shard), SharedEpochCounter())
        grow_caches([collection], self._progress.plan.reach, cache_bytes, cache_dir)
        reader = make_reader(collection, columns, counts, floats, make_transforms(as_list(transforms)))
        self._fetch = SampleFetch(reader, transform, metadata, on_error, decode)
        self._chunk = max(1, min(MOST_IN_CHUNK, CHUNK_BYTES // max(1, sample_bytes(reader))))
        self._exhausted = False
        self.skips = SkipCounter()

    def __repr__(self) -> str:
        data = self._fetch.reader.collection.catalog.summary()
        return f"{type(self).__name__}({self._progress.summary()}; {data})"

    def __len__(self) -> int:
        """Return the number of samples of an epoch on this rank."""
        return self._progress.plan.num_batches(self._progress.epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over one epoch, which begins here rather than with its first sample."""
        if self._exhausted:  # this worker had given its share when the state was saved
            self._exhausted = False
            return iter(())
        begun = self._progress.begin()
        warn_of_second_division(self._progress.place)
        return self._samples(*begun)

    def _samples(self, iteration: int, epoch: int, position: int) -> Iterator[dict[str, Any]]:
        for chunk in self._chunks(epoch, position):
            rows = np.concatenate([request.parts[0][1] for request in chunk])
            fetched = self._fetch(self._fetch.reader.collection.rows_in(epoch, rows))
            self.skips.add(fetched, chunk)
            for sample, request in zip(fetched.batch, _left(chunk, fetched), strict=True):
                self._progress.move(iteration, request.position_after)
                yield sample
        self._progress.move(iteration, self._progress.plan.length(epoch))

    def _chunks(self, epoch: int, position: int) -> Iterator[list[Request]]:
        """Yield this worker's chunks; their bounds do not depend on where the iteration starts."""
        worker, workers = worker_place()
        plan = self._progress.plan
        first = -(-position // plan.sharding.world_size)
        numbered = enumerate(plan.requests(epoch, position), first)
        for number, items in groupby(numbered, lambda item: item[0] // self._chunk):
            if number % workers == worker:
                yield [request for _, request in items]

    @property
    def epoch(self) -> int:
        """The epoch that is running, or comes next where none has begun."""
        return self._progress.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the next iteration's epoch; a loaded position inside that very epoch is kept."""
        self._exhausted = False
        self._progress.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where iteration stands: behind the last delivered sample (below 1 KB; JSON values).

        In a worker of a ``StatefulDataLoader``, it also says which of how many workers it belongs to.
        """
        return self._state().to_dict()

    def _state(self) -> LoaderState:
        worker, workers = worker_place()
        if workers == 1:
            return self._progress.state()
        plan = self._progress.plan
        epoch, position = self._progress.standing
        return LoaderState(epoch, position, plan.identity(), plan.shard_at(epoch, position), (worker, workers))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue there with the next iteration.

        Raises
        ------
        StateError
            The state belongs to another data set, other settings, or another number of DataLoader workers.
        """
        self._load(LoaderState.from_dict(state_dict))

    def _load(self, state: LoaderState) -> None:
        worker, workers = worker_place()
        if state.worker != (worker, workers):
            raise StateError(
                f"the state is that of worker {state.worker[0]} of {state.worker[1]}, and this is worker {worker} of "
                f"{workers}: use the same number of DataLoader workers, or create_webdataset_dataloader, which can "
                "continue with any"
            )
        self._progress.load(state)
        self._exhausted = workers > 1 and 0 < self._progress.plan.length(state.epoch) <= state.position

    def get_state(self) -> dict[str, Any]:
        """Return ``state_dict()``; ``sample_offset`` is the number of samples delivered in this epoch."""
        return self.state_dict()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`get_state` gave."""
        self.load_state_dict(state)


def _left(chunk: list[Request], fetched: Fetched) -> list[Request]:
    """Return the requests whose samples could be read."""
    lost = {i for i, _ in fetched.failures}
    return [request for i, request in enumerate(chunk) if i not in lost] if lost else chunk


class ResumableWebDatasetLoader(WebDatasetLoader):
    """A :class:`~neurofm_shards.loading.loaders.WebDatasetLoader` that survives its process.

    A new object continues exactly behind the last checkpoint. Checkpoints are written every ``checkpoint_interval``
    samples, when the loop is left by ``break`` or an exception, and at the end of an epoch, which then resumes at the
    next one. They hold the samples that were handed over, the one in the loop's hands included.

    Parameters
    ----------
    shard_dir : path-like
        Folder of shards.
    checkpoint_path : path-like or None
        The checkpoint file, written atomically; None switches checkpoints off. With several ranks, each needs a path
        of its own.
    checkpoint_interval : int
        Samples between checkpoints.
    on_signal : "checkpoint" or None
        ``"checkpoint"``: SIGTERM and SIGUSR1 (which Slurm and clouds send before they end a process) write a checkpoint
        while the loader is iterated in the main thread, before what they do otherwise.
    **options
        See :class:`~neurofm_shards.loading.loaders.WebDatasetLoader`.

    Raises
    ------
    StateError
        The file is torn, is no checkpoint, or belongs to another data set or other settings.
    """

    def __init__(
        self,
        shard_dir: str | os.PathLike[str],
        checkpoint_path: str | os.PathLike[str] | None = None,
        checkpoint_interval: int = 1000,
        *,
        on_signal: OnSignal | None = None,
        **options: Any,
    ) -> None:
        if checkpoint_interval < 1:
            raise ConfigError(f"checkpoint_interval is {checkpoint_interval}; it must be at least 1")
        super().__init__(shard_dir, **options)
        self._checkpoint = make_checkpoint(checkpoint_path, on_signal)
        self.checkpoint_interval = checkpoint_interval
        self.load_checkpoint()
        if self._checkpoint is not None:
            self._checkpoint.clear_up()

    @property
    def checkpoint_path(self) -> Path | None:
        """The checkpoint file; None where none is written."""
        return None if self._checkpoint is None else self._checkpoint.path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over one epoch, or what is left of it."""
        if get_worker_info() is not None:
            raise ConfigError(
                "ResumableWebDatasetLoader cannot be used with DataLoader workers: several processes would write one "
                "checkpoint. Use create_webdataset_dataloader(shard_dir, num_workers=...) and save its state_dict(), "
                "or DataLoader(..., num_workers=0)"
            )
        samples = super().__iter__()
        return samples if self._checkpoint is None else self._with_checkpoints(samples, self._checkpoint)

    def _with_checkpoints(self, samples: Iterator[dict[str, Any]], checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
        with checkpoint.during(self._state):
            for number, sample in enumerate(samples, 1):
                if number % self.checkpoint_interval == 0:
                    checkpoint.save(self._state())
                yield sample

    def save_checkpoint(self) -> None:
        """Write the checkpoint now. Without a checkpoint path, nothing happens."""
        if self._checkpoint is not None:
            self._checkpoint.save(self._state())

    def load_checkpoint(self) -> bool:
        """Continue where the checkpoint file says; return False where there is none yet.

        Raises
        ------
        StateError
            See the class.
        """
        state = None if self._checkpoint is None else self._checkpoint.load()
        if state is not None:
            self._load(state)
        return state is not None
