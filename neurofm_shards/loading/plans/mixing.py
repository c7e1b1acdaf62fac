"""Several sources as one: data sets with weights, sessions by temperature, batches balanced over conditions.

The parts of a mixture have names and one joint table of units, and their samples must go together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import xxhash

from neurofm_shards._typing import Rows
from neurofm_shards._wording import counted
from neurofm_shards.blocks import MISSING, SHARED_TABLE, RowBase, add_rows, shifted
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.order.bijection import derive_key
from neurofm_shards.loading.order.shuffle import ORDER_VERSION, Schedule
from neurofm_shards.loading.plans.options import DEFAULT_OPTIONS, PlanOptions
from neurofm_shards.loading.plans.plan import OrderedRows, Parts, SamplePlan
from neurofm_shards.loading.subsets import group_rows, select
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.reading.samples import OnDifferent, SampleCollection, check_alike
from neurofm_shards.types import ColumnData, Metadata, Ragged
from neurofm_shards.values import sorted_unique

#: What each sample's metadata names its data set under.
DATASET_FIELD = "dataset"
Stop: TypeAlias = "Literal['first_exhausted', 'all_exhausted'] | int"
#: An open data set, or its folder.
DataSet: TypeAlias = "SampleCollection | str | os.PathLike[str]"

#: Data sets whose fingerprints are listed one by one in a state.
_LISTED = 8
#: Positions whose sources are shuffled among themselves.
BLOCK = 4096


@dataclass(frozen=True)
class MixPart:
    """One data set of a mixture.

    Attributes
    ----------
    name : str
        What samples call it in their metadata, under ``dataset``.
    bases : mapping of str to RowBase
        Where the rows of each of its side tables stand in the joint one.
    """

    name: str
    bases: Mapping[str, RowBase]

    def joint(self, collection: SampleCollection, columns: Mapping[str, ColumnData]) -> dict[str, ColumnData]:
        """Return columns whose row numbers are those of the joint tables."""
        tables = {name: collection.columns[name].table for name in columns if name in collection.columns}
        return {name: _shifted(data, self.bases.get(tables.get(name) or "", 0)) for name, data in columns.items()}

    def named(self, metadata: Sequence[Metadata]) -> list[dict[str, Any]]:
        """Return metadata that name the data set."""
        return [{**said, DATASET_FIELD: self.name} for said in metadata]

    def place(self, table: str, rows: Sequence[Mapping[str, Any]], joint: dict[int, dict[str, Any]]) -> None:
        """Put the rows of a table where they stand in the joint one; in place."""
        base = self.bases.get(table, 0)
        for i, row in enumerate(rows):
            joint[base + i if isinstance(base, int) else base[i]] = dict(row)


def _shifted(data: ColumnData, base: RowBase) -> Any:
    if base == 0:
        return data
    if isinstance(data, list):
        return [item if item is MISSING else shifted(np.asarray(item), base) for item in data]
    values = data.values if isinstance(data, Ragged) else data
    if not values.flags.writeable:  # what a transform made
        return shifted(data, base)
    values[...] = shifted(values, base)  # the memory stays, which may be page-locked
    return data


def mix_parts(collections: Sequence[SampleCollection], on_different: OnDifferent) -> tuple[MixPart, ...]:
    """Name data sets, and number the rows of their side tables jointly (raises ConfigError)."""
    names = _names(collections)
    remedy = "say mix(..., on_different='allow')"
    check_alike(list(zip(names, collections, strict=True)), "mix", remedy, on_different)
    return tuple(MixPart(name, bases) for name, bases in zip(names, _joint_bases(collections), strict=True))


def _names(collections: Sequence[SampleCollection]) -> list[str]:
    """Return the names of folders; their paths where two folders have one name."""
    folders = [os.path.realpath(collection.catalog.folder) for collection in collections]
    names = {folder: os.path.basename(folder) for folder in folders}  # noqa: PTH119  (names, not places)
    taken = list(names.values())
    return [folder if taken.count(names[folder]) > 1 else names[folder] for folder in folders]


def _joint_bases(collections: Sequence[SampleCollection]) -> list[dict[str, RowBase]]:
    """Return where the rows of each data set's tables stand; a table that came before, of one folder, counts once."""
    found: list[dict[str, RowBase]] = []
    shared: dict[str, list[Mapping[str, Any]]] = {}
    lengths: dict[str, int] = {}
    for i, collection in enumerate(collections):
        bases: dict[str, RowBase] = {}
        for name, length in collection.tables.items():
            same = next((k for k in range(i) if _has_same_table(collections[k], collection, name)), None)
            if same is not None:
                bases[name] = found[same][name]
                continue
            base: RowBase = lengths.get(name, 0)
            if name.startswith(SHARED_TABLE):
                base = add_rows(name, shared.setdefault(name, []), collection.table(name))
            lengths[name] = lengths.get(name, 0) + length
            bases[name] = base
        found.append(bases)
    return found


def _has_same_table(one: SampleCollection, other: SampleCollection, name: str) -> bool:
    if one.tables.get(name) != other.tables.get(name) or not _are_one_folder(one, other):
        return False
    return one is other or one.table(name) == other.table(name)


def _are_one_folder(one: SampleCollection, other: SampleCollection) -> bool:
    return os.path.realpath(one.catalog.folder) == os.path.realpath(other.catalog.folder)


@dataclass(frozen=True)
class MixSource:
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

    collection: SampleCollection
    number: int = 0
    subset: Rows | None = None
    name: str = ""

    def __len__(self) -> int:
        return int(self.collection.num_samples) if self.subset is None else len(self.subset)


@dataclass(frozen=True)
class Mix:
    """Sources, their weights, and when an epoch ends. Made by :func:`mix` and :func:`mix_groups`.

    Attributes
    ----------
    sources : tuple of MixSource
        What is drawn from.
    weights : tuple of float
        One per source; only their ratios matter.
    stop : str or int
        ``"first_exhausted"``: an epoch ends with the first source whose samples were all delivered.
        ``"all_exhausted"``: with the last one; the others start again, in a new order. A number: that many samples.
    parts : tuple of MixPart
        What each data set is in a mixture of several; empty where there is one.
    """

    sources: tuple[MixSource, ...]
    weights: tuple[float, ...]
    stop: Stop
    parts: tuple[MixPart, ...] = ()

    def __repr__(self) -> str:
        total = sum(self.weights)
        shares = [
            f"{100 * weight / total:.3g} % {source.name}"
            for source, weight in zip(self.sources, self.weights, strict=True)
        ]
        listed = ", ".join(shares[:_LISTED] + (["..."] if len(shares) > _LISTED else []))
        return f"Mix({counted(len(self.sources), 'source')} until {self.stop}: {listed})"

    @property
    def collections(self) -> list[SampleCollection]:
        """The collections, by their number in requests."""
        found = {source.number: source.collection for source in self.sources}
        return [found[number] for number in sorted(found)]

    def plan(self, options: PlanOptions = DEFAULT_OPTIONS) -> MixPlan:
        """Return the plan of one rank."""
        return MixPlan(self, options, BLOCK)


class MixPlan(SamplePlan):
    """The batches of one rank over a mix of sources.

    Position ``p`` of epoch ``e`` draws the next sample of the source that the schedule names. Each source runs through
    epochs of its own, one after the other: what an epoch of the mix leaves over comes first in the next.
    """

    def __init__(self, mix: Mix, options: PlanOptions, block: int) -> None:
        self.sharding = options.sharding()
        self._stop = mix.stop
        self._seed = options.seed
        self._schedule = Schedule(mix.weights, block)
        self._numbers = np.array([source.number for source in mix.sources])
        self._sources = [
            OrderedRows(each.collection, replace(options, seed=derive_key("mix", options.seed, i)), each.subset)
            for i, each in enumerate(mix.sources)
        ]
        self._sizes = np.array([source.num_rows for source in self._sources], dtype=np.int64)
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

    @property
    def reach(self) -> int | None:
        """See :attr:`EpochPlan.reach`; each source has shuffle windows of its own."""
        orders = [source.order for source in self._sources]
        if any(order.shuffle == "global" for order in orders):
            return None
        return self.sharding.global_size + sum(order.buffer_size for order in orders if order.shuffle)

    def identity(self) -> dict[str, Any]:
        """Return fingerprints, weights and settings, as a digest where they are many."""
        parts = [source.identity() for source in self._sources]
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
        return self._sources[int(source)].shard_at(inner, at)

    def parts(self, epoch: int, positions: Rows) -> Iterator[tuple[Parts, Rows | None]]:
        """See :meth:`SamplePlan.parts`."""
        sources, elements = self._drawn(epoch, positions.reshape(-1))
        rows = np.empty(len(sources), dtype=np.int64)
        for source in sorted_unique(sources).tolist():
            mine = np.flatnonzero(sources == source)
            inner, at = np.divmod(elements[mine], self._sizes[source])
            for each in sorted_unique(inner).tolist():
                rows[mine[inner == each]] = self._sources[source](each, at[inner == each])
        numbers = self._numbers[sources].reshape(positions.shape)
        for number, row in zip(numbers, rows.reshape(positions.shape), strict=True):
            yield parts_of(number, row)

    def _drawn(self, epoch: int, positions: Rows) -> tuple[Rows, Rows]:
        """Return source and element (counted through all epochs) of each position, run by run of adjoining blocks."""
        blocks, back = np.unique(positions // self._schedule.block, return_inverse=True)
        key = derive_key("schedule", ORDER_VERSION, self._seed, epoch)
        sources, elements = np.empty_like(positions), np.empty_like(positions)
        runs = np.cumsum(np.concatenate(([0], np.diff(blocks) != 1)))[back.reshape(-1)]
        for run in sorted_unique(runs).tolist():
            mine = np.flatnonzero(runs == run)
            first, stop = int(positions[mine].min()), int(positions[mine].max()) + 1
            found = self._schedule.blocks(first, stop, self._length, key)
            sources[mine], elements[mine] = (part[positions[mine] - first] for part in found)
        return sources, elements + epoch * self.counts[sources]


def parts_of(numbers: Rows, rows: Rows) -> tuple[Parts, Rows | None]:
    """Collect one batch's rows by data set, and say how to put them back in order."""
    if (numbers == numbers[0]).all():
        return ((int(numbers[0]), rows),), None
    turn = np.argsort(numbers, kind="stable")
    order = np.empty_like(turn)
    order[turn] = np.arange(len(turn))
    found = [(int(number), rows[turn][numbers[turn] == number]) for number in sorted_unique(numbers)]
    return tuple(found), order


def mix(
    collections: Sequence[DataSet],
    weights: Sequence[float] | None = None,
    *,
    temperature: float | None = None,
    stop: Stop | None = None,
    subsets: Sequence[Rows | str | None] | None = None,
    on_different: OnDifferent = "error",
) -> Mix:
    """Mix data sets.

    Each sample's metadata names its data set under ``dataset``: the folder's name, or its path where two have one name.
    Numbers in columns such as ``unit_ids`` are rows of a joint table, ``loader.dataset.table("units")``.

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
        Selected rows of each data set, or the name of its split, ``["train", "train"]``; None for all of them.
    on_different : "error" or "allow"
        What to do where bins, rates or physical units differ between the data sets.

    Raises
    ------
    ConfigError
        An argument is wrong, or the data sets differ.
    """
    chosen = [None] * len(collections) if subsets is None else list(subsets)
    if len(chosen) != len(collections):
        raise ConfigError(
            f"{counted(len(collections), 'data set')} and {counted(len(chosen), 'subset')}: give one per data set"
        )
    opened = [_opened(collection) for collection in collections]
    parts = [(each, _rows_of(each, part)) for each, part in zip(opened, chosen, strict=True)]
    sources = [MixSource(each, i, rows, f"data set {i}") for i, (each, rows) in enumerate(parts)]
    return replace(mixed(sources, weights, temperature, stop), parts=mix_parts(opened, on_different))


def mix_groups(
    collection: DataSet,
    by: str | Sequence[str] = "session_id",
    *,
    weights: Sequence[float] | None = None,
    temperature: float | None = None,
    stop: Stop | None = None,
    subset: Rows | None = None,
) -> Mix:
    """Mix the sessions (or other groups) of one data set; arguments as in :func:`mix`, one weight per group."""
    return mixed(grouped(_opened(collection), by, subset), weights, temperature, stop)


def _opened(collection: DataSet) -> SampleCollection:
    """Open a folder; what is open already stays as it is."""
    return ShardCollection.open(os.fspath(collection)) if isinstance(collection, (str, os.PathLike)) else collection


def _rows_of(collection: SampleCollection, part: Rows | str | None) -> Rows | None:
    return select(collection, split=part) if isinstance(part, str) else part


def grouped(collection: SampleCollection, by: str | Sequence[str], subset: Rows | None) -> list[MixSource]:
    """Return one source per group of samples."""
    return [MixSource(collection, 0, rows, name) for name, rows in group_rows(collection, by, subset).items()]


def mixed(
    sources: Sequence[MixSource], weights: Sequence[float] | None, temperature: float | None, stop: Stop | None
) -> Mix:
    """Check weights, temperature and stopping rule, and put in the defaults."""
    sizes = [len(source) for source in sources]
    if not sources or min(sizes) == 0:
        empty = [source.name for source in sources if not len(source)]
        raise ConfigError(f"nothing to draw from: {', '.join(empty) or 'no data sets were given'}")
    if weights is not None and (temperature is not None or len(weights) != len(sources)):
        raise ConfigError(
            f"{counted(len(weights), 'weight')} for {counted(len(sources), 'source')}, temperature={temperature}: "
            "give one weight per source, or a temperature instead"
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
