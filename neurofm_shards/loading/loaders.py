"""An iterable data set of single samples."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import IterableDataset

from neurofm_shards.errors import StateError
from neurofm_shards.loading.cursor import Cursor
from neurofm_shards.loading.division import Even
from neurofm_shards.loading.fetch import OnError
from neurofm_shards.loading.opening import (
    DEFAULT_PATTERN,
    Counts,
    chosen_rows,
    make_reader,
    open_shards,
    sample_bytes,
)
from neurofm_shards.loading.plans.plan import Request, SinglePlan
from neurofm_shards.loading.ranks import ranks
from neurofm_shards.loading.sample_fetch import SampleFetch
from neurofm_shards.loading.skipping import SkipCounter
from neurofm_shards.loading.state import LoaderState
from neurofm_shards.loading.subsets import Where
from neurofm_shards.loading.transforming import (
    SampleFunction,
    TransformLike,
    as_list,
    make_transforms,
)
from neurofm_shards.loading.worker_epochs import WorkerEpochs, worker_place
from neurofm_shards.loading.workers.pipeline import Fetched
from neurofm_shards.shards.make_space import IO

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
    columns, where, keys, split, rows, transform, transforms, counts, metadata, rank, world_size, even, io, verify
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
        shard_pattern: str = DEFAULT_PATTERN,
        shuffle: bool | str = True,
        shuffle_shards: bool = True,
        buffer_size: int = 1000,
        seed: int = 42,
        decode: bool = True,
        *,
        columns: Sequence[str] | None = None,
        where: Where | None = None,
        keys: Sequence[str] | None = None,
        split: str | None = None,
        rows: npt.ArrayLike | None = None,
        transform: SampleFunction | None = None,
        transforms: TransformLike | Sequence[TransformLike] | None = None,
        counts: Counts = "float32",
        metadata: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        even: Even = "pad",
        io: IO = "auto",
        verify: bool = False,
        on_error: OnError = "raise",
    ) -> None:
        place = ranks(rank, world_size)
        collection = open_shards(shard_dir, shard_pattern, io, verify)
        self._plan = SinglePlan(
            collection,
            shuffle,
            batch_size=1,
            buffer_size=buffer_size,
            seed=seed,
            shuffle_shards=None if shuffle_shards else False,
            rank=place.rank,
            world_size=place.world_size,
            even=even,
            subset=chosen_rows(collection, where, keys, split, rows),
        )
        self._world_size = place.world_size
        reader = make_reader(collection, columns, counts, make_transforms(as_list(transforms)))
        self._fetch = SampleFetch(reader, transform, metadata, on_error, decode)
        self._chunk = max(1, min(MOST_IN_CHUNK, CHUNK_BYTES // max(1, sample_bytes(reader))))
        self._cursor = Cursor(self._plan, place, WorkerEpochs())
        self._exhausted = False
        self.skips = SkipCounter()

    def __len__(self) -> int:
        """Return the number of samples of an epoch on this rank."""
        return self._plan.num_batches(self._cursor.epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over one epoch."""
        if self._exhausted:  # this worker had given its share when the state was saved
            self._exhausted = False
            return
        iteration, epoch, position = self._cursor.begin()
        for chunk in self._chunks(epoch, position):
            fetched = self._fetch(np.concatenate([request.parts[0][1] for request in chunk]))
            self.skips.add(fetched, chunk)
            for sample, request in zip(fetched.batch, _left(chunk, fetched), strict=True):
                self._cursor.move(iteration, request.position_after)
                yield sample
        self._cursor.move(iteration, self._plan.length(epoch))

    def _chunks(self, epoch: int, position: int) -> Iterator[list[Request]]:
        """Yield this worker's chunks; their bounds do not depend on where the iteration starts."""
        worker, workers = worker_place()
        first = -(-position // self._world_size)
        numbered = enumerate(self._plan.requests(epoch, position), first)
        for number, items in groupby(numbered, lambda item: item[0] // self._chunk):
            if number % workers == worker:
                yield [request for _, request in items]

    @property
    def epoch(self) -> int:
        """The epoch that is running, or comes next where none has begun."""
        return self._cursor.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the next iteration's epoch; a loaded position inside that very epoch is kept."""
        self._exhausted = False
        self._cursor.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where iteration stands: behind the last delivered sample (below 1 KB; JSON values).

        In a worker of a ``StatefulDataLoader``, it also says which of how many workers it belongs to.
        """
        worker, workers = worker_place()
        if workers == 1:
            return self._cursor.state().to_dict()
        epoch, position = self._cursor.standing
        state = LoaderState(epoch, position, self._plan.identity(), self._plan.shard_at(epoch, position))
        return {**state.to_dict(), "worker": [worker, workers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue there with the next iteration.

        Raises
        ------
        StateError
            The state belongs to another data set, other settings, or another number of DataLoader workers.
        """
        state = LoaderState.from_dict(state_dict)
        worker, workers = worker_place()
        saved = list(state_dict.get("worker", [0, 1]))
        if saved != [worker, workers]:
            raise StateError(
                f"the state is that of worker {saved[0]} of {saved[1]}, and this is worker {worker} of {workers}: use "
                "the same number of DataLoader workers, or create_webdataset_dataloader, which can continue with any"
            )
        self._cursor.load(state)
        self._exhausted = workers > 1 and 0 < self._plan.length(state.epoch) <= state.position

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
