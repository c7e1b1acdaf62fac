"""Shard tasks: which samples of which inputs each shard holds; arithmetic alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from neurofm_shards._wording import counted
from neurofm_shards.blocks import RowBase
from neurofm_shards.convert.input_reader import Expected, InputSpec


@dataclass(frozen=True)
class Segment:
    """A stretch of one input's samples that goes into one shard.

    Attributes
    ----------
    input_idx : int
        Number of the input in the plan.
    start, stop : int
        Samples of the input.
    first : int
        Key number of sample ``start``: its place in the data set, counted from 1.
    """

    input_idx: int
    start: int
    stop: int
    first: int


@dataclass(frozen=True)
class TaskInput:
    """What a task needs to know of one input.

    Attributes
    ----------
    spec, expected : InputSpec, Expected
        How to open it, and what it must be.
    session_id : str or None
        Id to write into samples that are not windows of a recording.
    bases : mapping of str to RowBase
        Where this input's rows stand in each data-set-wide table.
    opened_by : str
        The worker that may have it open still.
    """

    spec: InputSpec
    expected: Expected
    session_id: str | None
    bases: tuple[tuple[str, RowBase], ...]
    opened_by: str = ""


@dataclass(frozen=True)
class ShardTask:
    """One shard: which samples it holds, and in which order.

    Attributes
    ----------
    shard_idx : int
        Number of the shard.
    segments : tuple of Segment
        In order.
    inputs : mapping of int to TaskInput
        The inputs that the segments name.
    """

    shard_idx: int
    segments: tuple[Segment, ...]
    inputs: dict[int, TaskInput]

    @property
    def what(self) -> str:
        """What a worker does when it runs the task, for messages."""
        names = [task_input.spec.input.name for task_input in self.inputs.values()]
        more = f" and {counted(len(names) - 1, 'more input')}" if len(names) > 1 else ""
        return f"writing shard {self.shard_idx} of {names[0]}{more}"

    @property
    def near(self) -> str:
        """The worker that planned most of the inputs."""
        opened = Counter(task_input.opened_by for task_input in self.inputs.values())
        return max(opened, key=opened.__getitem__)


def in_turns(tasks: Iterable[ShardTask]) -> list[ShardTask]:
    """Put those near to one worker in turns with those near to others, so that each finds some of its own at any time.

    One that finds none takes another's, and has to open again what is open there.
    """
    counts: Counter[str] = Counter()
    turns: list[tuple[int, ShardTask]] = []
    for task in tasks:
        near = task.near
        turns.append((counts[near], task))
        counts[near] += 1
    return [task for _, task in sorted(turns, key=itemgetter(0))]


Stretch = tuple[int, int, int]


def by_split(
    stretches: Sequence[Stretch], splits: Mapping[int, Sequence[tuple[str, int]]], names: Sequence[str]
) -> list[list[Stretch]]:
    """Divide samples by split, so that no shard holds two of them.

    Parameters
    ----------
    stretches : sequence of (input_idx, start, stop)
        The samples, in order.
    splits : mapping of int to sequence of (str, int)
        Per input: a split and how many samples of it follow one another, from its first sample to its last.
    names : sequence of str
        The splits, in the order that is wanted; others follow in the order of their first sample.

    Returns
    -------
    list of list of (input_idx, start, stop)
        The samples of each split that has some, in order.

    Examples
    --------
    >>> by_split([(0, 0, 5), (1, 0, 3)], {0: [("train", 2), ("test", 3)], 1: [("train", 3)]}, ["train", "test"])
    [[(0, 0, 2), (1, 0, 3)], [(0, 2, 5)]]
    """
    found: dict[str, list[Stretch]] = {name: [] for name in names}
    for input_idx, start, stop in stretches:
        end = 0
        for name, count in splits.get(input_idx) or [("", stop)]:
            begin, end = end, end + count
            if (low := max(begin, start)) < (high := min(end, stop)):
                found.setdefault(name, []).append((input_idx, low, high))
    return [group for group in found.values() if group]


def cut(stretches: Sequence[Stretch], shard_size: int, first: int = 1) -> list[tuple[Segment, ...]]:
    """Cut samples into shards of equal size; only the last one may be shorter.

    Parameters
    ----------
    stretches : sequence of (input_idx, start, stop)
        The samples, in order.
    shard_size : int
        Samples per shard.
    first : int
        Key number of the first sample.

    Returns
    -------
    list of tuple of Segment
        One tuple per shard.

    Examples
    --------
    >>> [[(s.input_idx, s.start, s.stop) for s in shard] for shard in cut([(0, 0, 3), (1, 0, 2)], 2)]
    [[(0, 0, 2)], [(0, 2, 3), (1, 0, 1)], [(1, 1, 2)]]
    """
    shards: list[tuple[Segment, ...]] = []
    current: list[Segment] = []
    room = shard_size
    for input_idx, start, stop in stretches:
        at = start
        while at < stop:
            taken = min(room, stop - at)
            current.append(Segment(input_idx, at, at + taken, first))
            at, first, room = at + taken, first + taken, room - taken
            if room == 0:
                shards.append(tuple(current))
                current, room = [], shard_size
    if current:
        shards.append(tuple(current))
    return shards


def cut_by_bytes(
    stretches: Sequence[Stretch], sizes: Mapping[int, Sequence[int]], shard_bytes: int, first: int = 1
) -> list[tuple[Segment, ...]]:
    """Give each input shards of its own, of about ``shard_bytes`` each.

    Parameters
    ----------
    stretches : sequence of (input_idx, start, stop)
        The samples, in order.
    sizes : mapping of int to sequence of int
        Bytes of each sample of each input.
    shard_bytes : int
        Bytes per shard; a larger sample has one of its own.
    first : int
        Key number of the first sample.

    Examples
    --------
    >>> shards = cut_by_bytes([(0, 0, 3), (1, 0, 1)], {0: [4, 4, 4], 1: [1]}, 8)
    >>> [[(s.input_idx, s.start, s.stop, s.first) for s in shard] for shard in shards]
    [[(0, 0, 2, 1)], [(0, 2, 3, 3)], [(1, 0, 1, 4)]]
    """
    shards: list[tuple[Segment, ...]] = []
    for input_idx, start, stop in stretches:
        begin, held = start, 0
        for i in range(start, stop):
            size = sizes[input_idx][i]
            if i > begin and held + size > shard_bytes:
                shards.append((Segment(input_idx, begin, i, first + begin - start),))
                begin, held = i, 0
            held += size
        if stop > begin:
            shards.append((Segment(input_idx, begin, stop, first + begin - start),))
        first += stop - start
    return shards
