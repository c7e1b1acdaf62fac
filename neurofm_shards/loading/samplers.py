"""Samplers that say what a loader's epoch holds, for code that asks a DataLoader for its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from torch.utils.data import BatchSampler, DistributedSampler, Sampler

from neurofm_shards._typing import Rows
from neurofm_shards.loading.progress import Progress


@dataclass(frozen=True)
class NumberedRows:
    """One data set of a loader: where its samples are in ``loader.dataset``.

    Attributes
    ----------
    subset : numpy.ndarray of int64 or None
        The selected rows, ascending; None for all.
    start, stop : int
        Number of the first of them, and of the first that follows.
    """

    subset: Rows | None
    start: int
    stop: int

    def numbers(self, rows: Rows) -> list[int]:
        """Return the numbers of rows."""
        found = rows if self.subset is None else np.searchsorted(self.subset, rows)
        return [number + self.start for number in found.tolist()]

    def rows(self, numbers: Rows) -> Rows:
        """Return the rows with these numbers."""
        places = numbers - self.start
        return places if self.subset is None else self.subset[places]


class EpochSampler(DistributedSampler[int]):
    """The loader's epoch on this rank: its samples, in order, as numbers of ``loader.dataset``.

    It is divided over the ranks already, which frameworks tell by its type: they leave a loader alone that has one.
    """

    def __init__(self, progress: Progress, numbering: Sequence[NumberedRows]) -> None:
        self.progress = progress
        self._numbering = numbering

    def batches(self) -> Iterator[list[int]]:
        """Iterate over the numbers of each batch."""
        for request in self.progress.plan.requests(self.progress.epoch):
            found = [i for number, rows in request.parts for i in self._numbering[number].numbers(rows)]
            yield found if request.order is None else [found[i] for i in request.order.tolist()]

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self.batches())

    def __len__(self) -> int:
        return self.progress.plan.totals(self.progress.epoch)[0]

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the loader counts its epochs, and has a ``set_epoch`` of its own."""


class PlanSampler(BatchSampler):
    """What each batch of the loader's epoch holds, as numbers of ``loader.dataset``.

    For code that asks a DataLoader for its sampler; ``DataLoader(loader.dataset, batch_sampler=loader.batch_sampler)``
    gives the same samples. Frameworks make another one of it with a sampler of theirs, whose order is then used.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int = 1, drop_last: bool = False) -> None:
        super().__init__(sampler, batch_size, drop_last)

    @property
    def progress(self) -> Progress | None:
        """Where the loader stands whose order this is; None for another order."""
        return self.sampler.progress if isinstance(self.sampler, EpochSampler) else None

    def __iter__(self) -> Iterator[list[int]]:
        return self.sampler.batches() if isinstance(self.sampler, EpochSampler) else super().__iter__()

    def __len__(self) -> int:
        progress = self.progress
        return super().__len__() if progress is None else progress.plan.num_batches(progress.epoch)
