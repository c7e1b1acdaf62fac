"""Opens every input once, cheaply and in parallel, and cuts all of them together into shard tasks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from neurofm_shards.convert.checks import check_config
from neurofm_shards.convert.columns import merge_columns
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.inputs import Input, find_inputs
from neurofm_shards.convert.opening import Expected, Opening, session_name, worker_reader
from neurofm_shards.convert.pool import in_order
from neurofm_shards.convert.progress import Observer
from neurofm_shards.convert.tasks import Segment, ShardTask, TaskInput, cut
from neurofm_shards.errors import ConfigError, NeurofmShardsError, NothingToConvertError
from neurofm_shards.plugins.entries import Entry
from neurofm_shards.plugins.registry import registry
from neurofm_shards.recordings.options import WindowOptions
from neurofm_shards.types import ColumnSpec, SourcePlan


@dataclass(frozen=True)
class InputPlan:
    """One input as planning saw it.

    Attributes
    ----------
    opening : Opening
        How it is opened.
    plan : SourcePlan or None
        What it will give; None when it failed.
    expected : Expected or None
        What it must still be when it is read.
    session_id : str
        Id of the session, by the template.
    is_recording : bool
        Whether its samples are windows.
    error : str
        Why it failed; empty when it did not.
    again : bool
        Whether part of it is in the data set already, and the rest is retried.
    """

    opening: Opening
    plan: SourcePlan | None
    expected: Expected | None = None
    session_id: str = ""
    is_recording: bool = False
    error: str = ""
    again: bool = False

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.opening.input.name

    @property
    def num_samples(self) -> int:
        """How many samples it gives; none where it failed or all of them were dropped."""
        return self.plan.num_samples if self.plan is not None else 0

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:
        """The columns it gives."""
        return self.plan.columns if self.plan is not None else ()

    @property
    def without_samples(self) -> str:
        """Why it gives no samples, in words."""
        drops = self.plan.drops if self.plan is not None else {}
        counts = ", ".join(f"{count} {reason}" for reason, count in drops.items())
        return self.error or f"{self.name} gives no samples (dropped: {counts})"


@dataclass(frozen=True)
class ConversionPlan:
    """What a conversion will do: a pure function of inputs and configuration.

    Attributes
    ----------
    config : ConversionConfig
        All settings.
    inputs : tuple of InputPlan
        In order; failed ones included where they are skipped.
    columns : tuple of ColumnSpec
        Of all inputs together, before transforms.
    shards : tuple of tuple of Segment
        What each shard holds.
    first_shard, first_number : int
        Numbers of the first shard and of the first sample's key; more than 0 and 1 when shards are added to a data set.
    tables : mapping of str to list of dict
        Side tables of all inputs, joined.
    bases : tuple of mapping of str to int
        Per input: its first row in each table.
    """

    config: ConversionConfig
    inputs: tuple[InputPlan, ...]
    columns: tuple[ColumnSpec, ...]
    shards: tuple[tuple[Segment, ...], ...]
    first_shard: int = 0
    first_number: int = 1
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    bases: tuple[Mapping[str, int], ...] = ()

    @property
    def total_samples(self) -> int:
        """Samples that are planned; transforms may drop some."""
        return sum(segment.stop - segment.start for shard in self.shards for segment in shard)

    @property
    def total_shards(self) -> int:
        """Shards that are planned."""
        return len(self.shards)

    @property
    def splits(self) -> dict[str, int]:
        """Windows that are planned for each split, empty where none was asked for.

        A new data set has those without windows too; what is added to one need not have all. Inputs of which only a
        part is retried are not counted.
        """
        asked = self.config.windows.split
        whole = [item for item in self.inputs if item.is_recording and not item.again]
        recordings = [item.plan for item in whole if item.plan is not None]
        if asked is None or not recordings:
            return {}
        wanted = [] if self.first_shard else [name for name, share in asked.fractions.items() if share > 0]
        counts = Counter(dict.fromkeys(wanted, 0))
        for plan in recordings:
            counts.update(plan.metadata["splits"])
        return dict(counts)

    @property
    def failures(self) -> list[InputPlan]:
        """Inputs that failed while planning."""
        return [item for item in self.inputs if item.plan is None]

    def tasks(self) -> Iterable[ShardTask]:
        """Make the tasks, one per shard, in order."""
        for k, segments in enumerate(self.shards):
            inputs = {segment.input_idx: self._task_input(segment.input_idx) for segment in segments}
            yield ShardTask(self.first_shard + k, segments, inputs)

    def _task_input(self, i: int) -> TaskInput:
        item = self.inputs[i]
        if item.expected is None:
            raise AssertionError(f"{item.name} failed while planning and can have no samples")
        return TaskInput(
            item.opening,
            item.expected,
            None if item.is_recording else item.session_id,
            tuple(self.bases[i].items()) if self.bases else (),
        )


def plan_conversion(
    named: Sequence[str | os.PathLike[str]],
    config: ConversionConfig,
    executor: Executor,
    *,
    workers: int = 1,
    observer: Observer | None = None,
) -> ConversionPlan:
    """Plan a conversion.

    Parameters
    ----------
    named : sequence of path
        Files, folders and patterns.
    config : ConversionConfig
        All settings.
    executor : concurrent.futures.Executor
        Opens the inputs.
    workers : int
        How many inputs are opened at once.
    observer : Observer, optional
        Told of each input, in order.

    Raises
    ------
    SourceError
        An input fails and ``config.on_error`` is ``"fail"``, or all of them do.
    ConfigError
        The inputs do not fit together.
    """
    check_config(config)
    inputs = find_inputs(named, config.format, config.source)
    planned = plan_inputs(inputs, config, executor, workers=workers, observer=observer)
    return combine(planned, config)


def plan_inputs(
    inputs: Sequence[Input],
    config: ConversionConfig,
    executor: Executor,
    *,
    workers: int,
    observer: Observer | None = None,
) -> list[InputPlan]:
    """Open each input once; the result is in the order of the inputs."""
    entries = registry().code_entries()
    openings = [Opening(item, config.windows, config.session_template) for item in inputs]
    calls = [(entries, opening, config.on_error == "skip") for opening in openings]
    observer = observer or Observer()
    observer.planning(len(inputs))
    planned: list[InputPlan] = []
    for item in in_order(executor, plan_input, calls, limit=2 * workers):
        planned.append(item)
        observer.planned(item)
    return planned


def plan_input(entries: list[tuple[str, Entry]], opening: Opening, skip: bool) -> InputPlan:
    """Open one input and say what it will give (runs in a worker)."""
    registry().adopt(entries)
    try:
        return _plan_input(opening)
    except NeurofmShardsError as error:
        if not skip or isinstance(error, ConfigError):
            raise
        return InputPlan(opening, None, error=str(error))


def _plan_input(opening: Opening) -> InputPlan:
    opened, plan, expected = worker_reader().plan(opening)
    facts = plan.metadata
    own, subject = str(facts.get("session_id", "")), str(facts.get("subject_id", ""))
    session = own if opened.is_recording else session_name(opening, own, subject)
    if plan.num_samples == 0 and not plan.drops:
        raise NothingToConvertError(f"{opening.input.name} gives no samples")
    return InputPlan(opening, plan, expected, session, opened.is_recording)


def combine(planned: Sequence[InputPlan], config: ConversionConfig) -> ConversionPlan:
    """Join planned inputs into one plan."""
    giving = [item for item in planned if item.num_samples]
    if not giving:
        raise NothingToConvertError("; ".join(item.without_samples for item in planned[:3]))
    check_sessions(giving)
    _check_windows_are_used(giving, config)
    columns = merge_columns([(item.name, item.columns) for item in giving])
    bases, tables = join_tables(planned, {})
    stretches = [(i, 0, item.num_samples) for i, item in enumerate(planned)]
    shards = cut(stretches, config.shard_size)
    return ConversionPlan(config, tuple(planned), columns, tuple(shards), tables=tables, bases=tuple(bases))


def join_tables(
    planned: Sequence[InputPlan], rows_before: Mapping[str, int]
) -> tuple[list[dict[str, int]], dict[str, list[Mapping[str, Any]]]]:
    """Join the side tables of all inputs, in input order.

    Parameters
    ----------
    planned : sequence of InputPlan
        The inputs.
    rows_before : mapping of str to int
        Rows that each data-set-wide table has already.

    Returns
    -------
    bases : list of dict
        Per input: the number of its first row in each table.
    tables : dict
        The rows to add to each table.
    """
    tables: dict[str, list[Mapping[str, Any]]] = {}
    bases: list[dict[str, int]] = []
    for item in planned:
        base: dict[str, int] = {}
        for name, rows in (item.plan.tables if item.plan and item.num_samples else {}).items():
            table = tables.setdefault(name, [])
            base[name] = rows_before.get(name, 0) + len(table)
            table.extend(rows)
        bases.append(base)
    return bases, tables


def check_sessions(planned: Sequence[InputPlan], present: Mapping[str, str] | None = None) -> None:
    """Refuse two inputs with one session id.

    Raises
    ------
    ConfigError
        Naming both inputs and how to choose other ids.
    """
    owners = dict(present or {})
    for item in planned:
        other = owners.setdefault(item.session_id, item.name)
        if other != item.name:
            raise ConfigError(
                f"{other} and {item.name} both have session id {item.session_id!r}; choose ids that differ with "
                '--session-template, for example "{subject_id}_{session_id}", "{parent}_{stem}" or "{stem}"'
            )


def _check_windows_are_used(planned: Sequence[InputPlan], config: ConversionConfig) -> None:
    if any(item.is_recording for item in planned) or config.windows == WindowOptions():
        return
    default = WindowOptions()
    chosen = [name for name in WindowOptions.model_fields if getattr(config.windows, name) != getattr(default, name)]
    raise ConfigError(
        f"{', '.join(chosen)} cut windows out of recordings, but {planned[0].name} holds samples that are cut already; "
        "leave them out, or give the source's options that say where time is"
    )
