"""Several sources as one: data sets with weights, sessions by temperature, batches balanced over conditions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neurofm_shards._typing import Rows
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.division import Division, Even
from neurofm_shards.loading.groups import group_rows
from neurofm_shards.loading.mix_plan import MixPlan, Source, Stop
from neurofm_shards.loading.schedule import Schedule
from neurofm_shards.reading.collection import ShardCollection

#: Positions whose sources are shuffled among themselves.
BLOCK = 4096


@dataclass(frozen=True)
class Mix:
    """Sources, their weights, and when an epoch ends. Made by :func:`mix` and :func:`mix_groups`.

    Attributes
    ----------
    sources : tuple of Source
        What is drawn from.
    weights : tuple of float
        One per source; only their ratios matter.
    stop : str or int
        ``"first_exhausted"``: an epoch ends with the first source whose samples were all delivered.
        ``"all_exhausted"``: with the last one; the others start again, in a new order. A number: that many samples.
    """

    sources: tuple[Source, ...]
    weights: tuple[float, ...]
    stop: Stop

    @property
    def collections(self) -> list[Any]:
        """The collections, by their number in requests."""
        found = {source.number: source.collection for source in self.sources}
        return [found[number] for number in sorted(found)]

    def plan(
        self,
        mode: bool | str = True,
        *,
        batch_size: int = 1,
        buffer_size: int = 1000,
        seed: int = 42,
        rank: int = 0,
        world_size: int = 1,
        even: Even = "pad",
        drop_last: bool = False,
    ) -> MixPlan:
        """Return the plan of one rank; arguments as for :class:`~neurofm_shards.loading.plans.plan.SinglePlan`."""
        division = Division(batch_size, rank, world_size, even, drop_last)
        return MixPlan(self.sources, self.weights, self.stop, division, mode, buffer_size, seed, BLOCK)


def mix(
    collections: Sequence[Any],
    weights: Sequence[float] | None = None,
    *,
    temperature: float | None = None,
    stop: Stop | None = None,
    subsets: Sequence[Rows | None] | None = None,
) -> Mix:
    """Mix data sets.

    Parameters
    ----------
    collections : sequence of ShardCollection or path
        The data sets, or their folders.
    weights : sequence of float, optional
        How often each is drawn from; only ratios matter. Default: in proportion to their sizes, so that with
        ``stop="all_exhausted"`` (then the default) an epoch has every sample exactly once.
    temperature : float, optional
        Instead of weights: ``n ** (1 / temperature)`` for ``n`` samples; 1 is in proportion, infinity is uniform.
    stop : str or int, optional
        See :class:`Mix`; with weights, the default is ``"first_exhausted"``.
    subsets : sequence, optional
        Selected rows of each data set.
    """
    chosen = [None] * len(collections) if subsets is None else list(subsets)
    if len(chosen) != len(collections):
        raise ConfigError(f"{len(collections)} data sets and {len(chosen)} subsets: give one per data set")
    pairs = enumerate(zip(map(_opened, collections), chosen, strict=True))
    sources = [Source(each, i, rows, f"data set {i}") for i, (each, rows) in pairs]
    return mixed(sources, weights, temperature, stop)


def mix_groups(
    collection: Any,
    by: str | Sequence[str] = "session_id",
    *,
    weights: Sequence[float] | None = None,
    temperature: float | None = None,
    stop: Stop | None = None,
    subset: Rows | None = None,
) -> Mix:
    """Mix the sessions (or other groups) of one data set; arguments as in :func:`mix`, one weight per group."""
    return mixed(grouped(_opened(collection), by, subset), weights, temperature, stop)


def _opened(collection: Any) -> Any:
    """Open a folder; what is open already stays as it is."""
    return ShardCollection.open(os.fspath(collection)) if isinstance(collection, (str, os.PathLike)) else collection


def grouped(collection: Any, by: str | Sequence[str], subset: Rows | None) -> list[Source]:
    """Return one source per group of samples."""
    return [Source(collection, 0, rows, name) for name, rows in group_rows(collection, by, subset).items()]


def mixed(
    sources: Sequence[Source], weights: Sequence[float] | None, temperature: float | None, stop: Stop | None
) -> Mix:
    """Check weights, temperature and stopping rule, and put in the defaults."""
    sizes = [len(source) for source in sources]
    if not sources or min(sizes) == 0:
        empty = [source.name for source in sources if not len(source)]
        raise ConfigError(f"nothing to draw from: {', '.join(empty) or 'no data sets were given'}")
    if weights is not None and (temperature is not None or len(weights) != len(sources)):
        raise ConfigError(
            f"{len(weights)} weights for {len(sources)} sources, temperature={temperature}: give one weight per "
            "source, or a temperature instead"
        )
    if temperature is not None and not temperature > 0:
        raise ConfigError(f"temperature is {temperature}; it must be positive")
    if isinstance(stop, str) and stop not in {"first_exhausted", "all_exhausted"}:
        raise ConfigError(f"stop={stop!r}; choose first_exhausted, all_exhausted, or a number of samples")
    if isinstance(stop, int) and stop < 1:
        raise ConfigError(f"stop={stop}; an epoch needs at least one sample")
    proportional = [float(n) ** (1.0 / (temperature or 1.0)) for n in sizes]
    default: Stop = "all_exhausted" if weights is None and temperature is None else "first_exhausted"
    Schedule(proportional if weights is None else weights, 1)
    return Mix(tuple(sources), tuple(proportional if weights is None else weights), default if stop is None else stop)
