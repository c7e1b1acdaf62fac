"""The order of a mix of sources: whose turn it is, and which of its samples comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import xxhash

from neurofm_shards._typing import Rows
from neurofm_shards.loading.component import Component
from neurofm_shards.loading.division import Division
from neurofm_shards.loading.order.bijection import derive_key
from neurofm_shards.loading.order.shuffle import ORDER_VERSION
from neurofm_shards.loading.plans.plan import Parts, SamplePlan
from neurofm_shards.loading.schedule import Schedule

Stop: TypeAlias = "Literal['first_exhausted', 'all_exhausted'] | int"

#: Data sets whose fingerprints are listed one by one in a state.
_LISTED = 8


@dataclass(frozen=True)
class Source:
    """Rows of one collection that are drawn from as one source.

    Attributes
    ----------
    collection : ShardCollection
        The data.
    number : int
        Which data set this is, in requests.
    subset : numpy.ndarray of int64 or None
        Rows; None for all.
    name : str
        For messages.
    """

    collection: Any
    number: int = 0
    subset: Rows | None = None
    name: str = ""

    def __len__(self) -> int:
        return int(self.collection.num_samples) if self.subset is None else len(self.subset)


class MixPlan(SamplePlan):
    """The batches of one rank over a mix of sources.

    Position ``p`` of epoch ``e`` draws the next sample of the source that the schedule names. Each source runs through
    epochs of its own, one after the other: what an epoch of the mix leaves over comes first in the next.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        stop: Stop,
        division: Division,
        mode: bool | str,
        buffer_size: int,
        seed: int,
        block: int,
    ) -> None:
        self.division = division
        self._stop = stop
        self._seed = seed
        self._schedule = Schedule(weights, block)
        self._numbers = np.array([source.number for source in sources])
        self._components = [
            Component(each.collection, mode, buffer_size, derive_key("mix", seed, i), None, each.subset)
            for i, each in enumerate(sources)
        ]
        self._sizes = np.array([len(component) for component in self._components], dtype=np.int64)
        self._length = self._epoch_length()
        #: Samples of each source in every epoch.
        self.counts = self._schedule.counts(self._length)

    def _epoch_length(self) -> int:
        stop, schedule = self._stop, self._schedule
        if isinstance(stop, int):
            return stop
        due = (self._sizes - 0.5) / schedule.shares
        ends = np.flatnonzero(due == (due.min() if stop == "first_exhausted" else due.max()))
        last = ends[0] if stop == "first_exhausted" else ends[-1]
        return schedule.time_of(int(last), int(self._sizes[last]) - 1) + 1

    def length(self, epoch: int) -> int:  # noqa: ARG002  (every epoch is equally long)
        """Return the samples of an epoch."""
        return self._length

    def identity(self) -> dict[str, Any]:
        """Return fingerprints, weights and settings, as a digest where they are many."""
        parts = [component.identity() for component in self._components]
        prints = [f"{part['dataset'][:16]}:{part['samples']}" for part in parts]
        text = repr([sorted(part.items()) for part in parts])
        return {
            "datasets": prints if len(prints) <= _LISTED else len(prints),
            "sources": xxhash.xxh3_64_hexdigest(text.encode()),
            "weights": xxhash.xxh3_64_hexdigest(repr(list(self._schedule.shares.tolist())).encode()),
            "stop": self._stop,
            "block": self._schedule.block,
            **{key: parts[0][key] for key in ("shuffle", "shuffle_shards", "buffer_size") if key in parts[0]},
            "seed": self._seed,
            "order_version": ORDER_VERSION,
        }

    def shard_at(self, epoch: int, position: int) -> int:
        """See :meth:`EpochPlan.shard_at`; the shard's number within its own data set."""
        if position >= self._length:
            return -1
        (source,), (element,) = self._drawn(epoch, np.array([position], dtype=np.int64))
        inner, at = divmod(int(element), int(self._sizes[source]))
        return self._components[int(source)].shard_at(inner, at)

    def parts(self, epoch: int, positions: Rows) -> Iterator[tuple[Parts, Rows | None]]:
        """See :meth:`SamplePlan.parts`."""
        sources, elements = self._drawn(epoch, positions.reshape(-1))
        rows = np.empty(len(sources), dtype=np.int64)
        for source in np.unique(sources).tolist():
            mine = np.flatnonzero(sources == source)
            inner, at = np.divmod(elements[mine], self._sizes[source])
            for each in np.unique(inner).tolist():
                rows[mine[inner == each]] = self._components[source].rows(each, at[inner == each])
        numbers = self._numbers[sources].reshape(positions.shape)
        for number, row in zip(numbers, rows.reshape(positions.shape), strict=True):
            yield _joined(number, row)

    def _drawn(self, epoch: int, positions: Rows) -> tuple[Rows, Rows]:
        """Return source and element (counted through all epochs) of each position, run by run of adjoining blocks."""
        blocks, back = np.unique(positions // self._schedule.block, return_inverse=True)
        key = derive_key("schedule", ORDER_VERSION, self._seed, epoch)
        sources, elements = np.empty_like(positions), np.empty_like(positions)
        runs = np.cumsum(np.concatenate(([0], np.diff(blocks) != 1)))[back.reshape(-1)]
        for run in np.unique(runs).tolist():
            mine = np.flatnonzero(runs == run)
            first, stop = int(positions[mine].min()), int(positions[mine].max()) + 1
            found = self._schedule.blocks(first, stop, self._length, key)
            sources[mine], elements[mine] = (part[positions[mine] - first] for part in found)
        return sources, elements + epoch * self.counts[sources]


def _joined(numbers: Rows, rows: Rows) -> tuple[Parts, Rows | None]:
    """Collect one batch's rows by data set, and say how to put them back in order."""
    if (numbers == numbers[0]).all():
        return ((int(numbers[0]), rows),), None
    turn = np.argsort(numbers, kind="stable")
    order = np.empty_like(turn)
    order[turn] = np.arange(len(turn))
    found = [(int(number), rows[turn][numbers[turn] == number]) for number in np.unique(numbers)]
    return tuple(found), order
