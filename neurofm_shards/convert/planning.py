"""Plan a conversion: open every input once, agree on columns, and cut all samples into shard tasks."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from neurofm_shards.blocks import RowBase, add_rows
from neurofm_shards.convert.agreement import (
    agreed_columns,
    all_that_is_wrong,
    cannot_be_stored,
    check_options_are_used,
    check_sessions,
    check_subjects_held,
    clash_of,
    is_masked,
    misfits,
    modalities_of,
)
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.dispatch import Dispatcher
from neurofm_shards.convert.input_plan import InputPlan
from neurofm_shards.convert.inputs import Input, find_inputs, unmatched_subjects
from neurofm_shards.convert.opening import failed_plan, open_inputs, spec_of
from neurofm_shards.convert.splits import split_warnings, with_splits
from neurofm_shards.convert.tasks import Segment, ShardTask, Stretch, TaskInput, by_split, cut, cut_by_bytes
from neurofm_shards.errors import ConfigError, NothingToConvertError
from neurofm_shards.events import InputPlanned, Listener, ModalityMasked, PlanningStarted, ignore
from neurofm_shards.format.manifest import Manifest
from neurofm_shards.format.resolve import compression_object
from neurofm_shards.format.shard_names import ShardNames
from neurofm_shards.plugins.registry import registry
from neurofm_shards.types import ColumnSpec

_LOG = logging.getLogger("neurofm_shards.convert")


def _shards(
    stretches: Sequence[Stretch], planned: Sequence[InputPlan], config: ConversionConfig, first: int = 1
) -> tuple[tuple[Segment, ...], ...]:
    """Cut samples into shards as the layout says, split by split."""
    plans = {i: item.plan for i, item in enumerate(planned) if item.plan is not None}
    if config.layout == "recordings":
        sizes = {i: plan.sample_bytes for i, plan in plans.items()}
        return tuple(cut_by_bytes(stretches, sizes, config.shard_bytes, first))
    names = config.windows.split.names if config.windows.split is not None else []
    shards: list[tuple[Segment, ...]] = []
    for group in by_split(stretches, {i: plan.splits for i, plan in plans.items()}, names):
        shards += cut(group, config.shard_size, first)
        first += sum(stop - start for _, start, stop in group)
    return tuple(shards)


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
    bases : tuple of mapping of str to RowBase
        Per input: its first row in each table.
    base : Manifest or None
        The data set that is added to.
    """

    config: ConversionConfig
    inputs: tuple[InputPlan, ...]
    columns: tuple[ColumnSpec, ...]
    shards: tuple[tuple[Segment, ...], ...]
    first_shard: int = 0
    first_number: int = 1
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    bases: tuple[Mapping[str, RowBase], ...] = ()
    base: Manifest | None = field(default=None, compare=False, repr=False)

    @property
    def total_samples(self) -> int:
        """Samples that are planned; transforms may drop some."""
        return sum(segment.stop - segment.start for shard in self.shards for segment in shard)

    @property
    def total_shards(self) -> int:
        """Shards that are planned."""
        return len(self.shards)

    @property
    def full_shards(self) -> int:
        """Shards that stay as they are when inputs are added: full ones, and those of recordings.

        None where there are splits: more of the first one would come before the others.
        """
        if self.config.layout == "recordings":
            return self.total_shards
        return 0 if self.config.windows.split is not None else self.total_samples // self.config.shard_size

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
        wanted = [] if self.first_shard else [name for name in asked.names if asked.fractions.get(name, 1) > 0]
        counts = Counter(dict.fromkeys(wanted, 0))
        for name, count in (part for plan in recordings for part in plan.splits):
            counts[name] += count
        return dict(counts)

    @property
    def split_warnings(self) -> list[str]:
        """What the splits are not that was asked for, in sentences."""
        asked, splits = self.config.windows.split, self.splits
        if asked is None or not splits:
            return []
        recordings = [item for item in self.inputs if item.is_recording]
        return list(split_warnings(recordings, asked, splits, self.base))

    @property
    def type_warnings(self) -> list[str]:
        """What samples that are added to those of a Python writer have otherwise than those, in sentences."""
        if self.base is None or self.base.has_fixed_columns or self.config.transforms:
            return []
        there, added = ({spec.name: spec.dtype for spec in specs} for specs in (self.base.specs, self.columns))
        both = [(name, there[name], dtype) for name, dtype in added.items() if there.get(name) and dtype]
        found = [
            f"{name} is stored as {np.dtype(old).name}, as the data set has it, not as {np.dtype(new).name}"
            for name, old, new in both
            if old != new
        ]
        if differing := sorted(there.keys() ^ added.keys()):
            found.append(
                f"samples differ in their fields from those of the data set ({', '.join(differing)}): nothing is lost, "
                "but batches get masks (NAME_valid) or lists with gaps"
            )
        return found

    @property
    def failures(self) -> list[InputPlan]:
        """Inputs that failed while planning; empty ones did not."""
        return [item for item in self.inputs if item.plan is None and not item.empty]

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
            item.spec,
            item.expected,
            None if item.is_recording else item.session_id,
            tuple(self.bases[i].items()) if self.bases else (),
            item.opened_by,
        )


def plan_conversion(
    named: Sequence[str | os.PathLike[str]],
    config: ConversionConfig,
    dispatcher: Dispatcher,
    *,
    output: Path | None = None,
    listener: Listener = ignore,
) -> ConversionPlan:
    """Plan a conversion.

    Parameters
    ----------
    named : sequence of path
        Files, folders and patterns.
    config : ConversionConfig
        All settings.
    dispatcher : Dispatcher
        Opens the inputs.
    output : Path, optional
        Where the data set goes.
    listener : Listener
        Told of each input, in order.

    Raises
    ------
    SourceError
        An input fails and ``config.on_error`` is ``"fail"``, or all of them do.
    ConfigError
        The inputs do not fit together.
    """
    check_config(config)
    inputs = all_inputs(named, config, output)
    return combine(plan_inputs(inputs, config, dispatcher, listener=listener), config)


def all_inputs(
    named: Sequence[str | os.PathLike[str]],
    config: ConversionConfig,
    output: Path | None = None,
    base: Manifest | None = None,
) -> list[Input]:
    """Find the inputs of a conversion into a folder, ``output``.

    Raises
    ------
    ConfigError
        A subject id is of none of them, nor of what ``base`` holds already or could not take.
    """
    inputs = find_inputs(named, config.format, config.source, output)
    if wrong := unmatched_subjects(config.subject_ids, inputs, _files_of(base)):
        raise ConfigError(wrong)
    return inputs


def _files_of(base: Manifest | None) -> list[str]:
    entries = [*base.sources, *base.failures] if base is not None else []
    return [name for entry in entries for name in entry.get("files") or ()]


def warn_of_unmatched_subjects(config: ConversionConfig, planned: Sequence[InputPlan], base: Manifest | None) -> None:
    """Log which subject ids are of no input, of a conversion whose inputs came one by one."""
    inputs = [item.spec.input for item in planned]
    if wrong := unmatched_subjects(config.subject_ids, inputs, _files_of(base)):
        _LOG.warning("%s", wrong)


def plan_inputs(
    inputs: Sequence[Input],
    config: ConversionConfig,
    dispatcher: Dispatcher,
    *,
    known: Sequence[ColumnSpec] = (),
    listener: Listener = ignore,
) -> list[InputPlan]:
    """Open each input once; the result is in the order of the inputs.

    Where no modalities are named, recordings that lack one that others have (or the data set that is added to, whose
    columns are ``known``) give empty, masked columns.

    Raises
    ------
    NeurofmShardsError
        Inputs fail and ``config.on_error`` is ``"fail"``; the message says what is wrong with each.
    """
    listener(PlanningStarted(len(inputs)))
    planned: list[InputPlan] = []
    for item in open_inputs([spec_of(item, config) for item in inputs], dispatcher):
        planned.append(item)
        told = config.on_error == "skip" or (item.empty and len(inputs) > 1) or not item.error
        listener(InputPlanned(item.name, item.num_samples, item.notes if told else (), item.error * (not item.empty)))
    if config.windows.modalities is None and config.layout == "windows":
        planned = _with_all_modalities(planned, known, dispatcher, listener)
    if config.on_error == "fail" and any(item.plan is None for item in planned):
        _refuse_failures(_fitting(planned, config, known))
    return planned


def _with_all_modalities(
    planned: Sequence[InputPlan], known: Sequence[ColumnSpec], dispatcher: Dispatcher, listener: Listener
) -> list[InputPlan]:
    """Plan recordings again that lack a modality which others give, so that theirs is empty and masked."""
    giving = {
        i: modalities_of(item.columns) for i, item in enumerate(planned) if item.is_recording and item.num_samples
    }
    every = {*modalities_of(known), *(name for names in giving.values() for name in names)}
    lacking = {i: every.difference(names) for i, names in giving.items() if every.difference(names)}
    specs = [replace(planned[i].spec, others=tuple(sorted(every))) for i in lacking]
    result = list(planned)
    for i, item in zip(lacking, open_inputs(specs, dispatcher), strict=True):
        result[i] = item
    for name in sorted(every):
        without = tuple(
            planned[i].name for i, names in lacking.items() if name in names and is_masked(name, result[i].columns)
        )
        if without:
            listener(ModalityMasked(name, without, len(giving)))
    return result


def _refuse_failures(planned: Sequence[InputPlan]) -> None:
    """Raise what is wrong with any input; one that holds nothing is left out where others hold something."""
    failed = [item for item in planned if item.failure is not None and not item.empty]
    clash = clash_of([item for item in planned if item.num_samples])
    if not failed or failed[0].failure is None:
        if clash:
            raise ConfigError(clash)
        return
    first = failed[0].failure
    if len(planned) == 1:
        raise first
    wrong = all_that_is_wrong([(item.name, item.cause) for item in failed], len(planned))
    raise type(first)("\n".join([wrong, clash] if clash else [wrong])) from first


def check_any_holds_something(planned: Sequence[InputPlan]) -> None:
    """Refuse inputs of which none could be planned, since all are empty."""
    failures = [item.failure for item in planned if item.plan is None]
    if planned and len(failures) == len(planned) and failures[0] is not None:
        raise failures[0]


def combine(planned: Sequence[InputPlan], config: ConversionConfig) -> ConversionPlan:
    """Join planned inputs into one plan."""
    planned = _fitting(planned, config)
    if config.on_error == "fail":
        _refuse_failures(planned)
    giving = [item for item in planned if item.num_samples]
    if not giving:
        wrong = next((item.failure for item in planned if isinstance(item.failure, ConfigError)), None)
        if wrong is not None:
            raise wrong
        reasons = "; ".join(item.without_samples for item in planned[:3])
        raise NothingToConvertError(reasons or "no input was added that could be converted")
    check_sessions(giving)
    planned = with_splits(planned, config.windows.split)
    columns = agreed_columns([(item.name, item.columns) for item in giving])
    check_options_are_used(giving, columns, config)
    bases, tables = join_tables(planned, {})
    stretches = [(i, 0, item.num_samples) for i, item in enumerate(planned)]
    shards = _shards(stretches, planned, config)
    return ConversionPlan(config, tuple(planned), columns, shards, tables=tables, bases=tuple(bases))


def known_columns(base: Manifest | None, before: Sequence[InputPlan], config: ConversionConfig) -> Sequence[ColumnSpec]:
    """Return the columns that inputs must have: those of a data set, and of inputs that were planned before."""
    fixed = [("the data set", base.specs)] if base is not None and base.has_fixed_columns else []
    given = [(item.name, item.columns) for item in before if item.num_samples]
    if given and config.transforms:  # which made other columns of those in the data set
        return agreed_columns(given)
    return agreed_columns([*fixed, *given]) if fixed or given else ()


def fitting_to(known: Sequence[ColumnSpec], planned: Sequence[InputPlan], config: ConversionConfig) -> list[InputPlan]:
    """Take inputs whose columns are not those known for failed ones (raises ConfigError where none may fail)."""
    fitted = _fitting(planned, config, known)
    if config.on_error == "fail":
        _refuse_failures(fitted)
    return fitted


def _fitting(
    planned: Sequence[InputPlan], config: ConversionConfig, known: Sequence[ColumnSpec] = ()
) -> list[InputPlan]:
    """Take inputs whose columns do not fit the others, or those of a data set, for failed ones."""
    giving = [i for i, item in enumerate(planned) if item.num_samples]
    wrong = {} if config.transforms else _unstorable(planned)
    giving = [i for i in giving if i not in wrong]
    remedy = _MODALITIES if any(planned[i].is_recording for i in giving) else ""
    found = misfits([(planned[i].name, planned[i].columns) for i in giving], known, remedy)
    wrong |= {giving[at]: why for at, why in found.items()}
    return [failed_plan(item.spec, ConfigError(wrong[i])) if i in wrong else item for i, item in enumerate(planned)]


Row: TypeAlias = Mapping[str, Any]
_NO_ROWS: Mapping[str, Sequence[Row]] = MappingProxyType({})
_MODALITIES = (
    "name the modalities to take with modalities=[NAME, ...], and with missing='skip' or missing='mask' what happens "
    "to inputs without"
)


def _unstorable(planned: Sequence[InputPlan]) -> dict[int, str]:
    """Return which inputs give arrays that cannot be stored as they are, and why."""
    found = {i: cannot_be_stored(item.name, item.columns) for i, item in enumerate(planned)}
    return {i: why for i, why in found.items() if why}


def join_tables(
    planned: Sequence[InputPlan], rows_before: Mapping[str, int], shared: Mapping[str, Sequence[Row]] = _NO_ROWS
) -> tuple[list[dict[str, RowBase]], dict[str, list[Row]]]:
    """Join the side tables of all inputs, in input order.

    Parameters
    ----------
    planned : sequence of InputPlan
        The inputs.
    rows_before : mapping of str to int
        Rows that each data-set-wide table has already.
    shared : mapping of str to sequence of dict
        The rows themselves of tables that inputs share.

    Returns
    -------
    bases : list of dict
        Per input: where its rows stand in each table.
    tables : dict
        The rows to add to each table.
    """
    tables: dict[str, list[Row]] = {name: list(rows) for name, rows in shared.items()}
    bases: list[dict[str, RowBase]] = []
    for item in planned:
        own = item.plan.tables if item.plan and item.num_samples else {}
        bases.append(
            {
                name: add_rows(
                    name, tables.setdefault(name, []), rows, 0 if name in shared else rows_before.get(name, 0)
                )
                for name, rows in own.items()
                if not item.again or name in shared
            }
        )
    return bases, {name: rows[len(shared.get(name, ())) :] for name, rows in tables.items()}


def plan_append(
    manifest: Manifest,
    planned: Sequence[InputPlan],
    config: ConversionConfig,
    shared: Mapping[str, Sequence[Row]] = _NO_ROWS,
) -> ConversionPlan | None:
    """Plan the addition of inputs that a data set does not hold yet.

    Their columns must be those of the data set where a conversion made it; Python writers may write any.

    Parameters
    ----------
    manifest : Manifest
        The data set.
    planned : sequence of InputPlan
        The inputs.
    config : ConversionConfig
        How they are converted.
    shared : mapping of str to sequence of dict
        Its rows of tables that inputs share.

    Returns
    -------
    ConversionPlan or None
        None when it holds all of them: they are recognised by fingerprint, wherever they lie and whatever their names.
    """
    known = {source["fingerprint"]: source for source in manifest.sources}
    new = [item for item in planned if item.expected is None or item.expected.fingerprint not in known]
    if config.subject_ids:
        check_subjects_held(planned, known)
    if not new:
        return None
    stretches = [(i, 0, item.num_samples) for i, item in enumerate(new)]
    return _addition(manifest, new, stretches, config, shared)


def plan_retry(
    manifest: Manifest,
    planned: Sequence[InputPlan],
    config: ConversionConfig,
    shared: Mapping[str, Sequence[Row]] = _NO_ROWS,
) -> ConversionPlan | None:
    """Plan what is missing of inputs that failed: whole inputs, or the stretches that could not be read."""
    failed = {tuple(entry["files"]): entry for entry in manifest.failures}
    chosen: list[InputPlan] = []
    stretches: list[Stretch] = []
    for item in planned:
        entry = failed.get(tuple(item.spec.input.file_names))
        if entry is None:
            continue
        i = len(chosen)
        chosen.append(replace(item, again=entry["rows"] is not None))
        if item.plan is not None:
            rows = [(0, item.num_samples)] if entry["rows"] is None else entry["rows"]
            stretches += [(i, start, stop) for start, stop in rows]
    return _addition(manifest, chosen, stretches, config, shared) if stretches else None


def _addition(
    manifest: Manifest,
    inputs: list[InputPlan],
    stretches: list[Stretch],
    config: ConversionConfig,
    shared: Mapping[str, Sequence[Row]],
) -> ConversionPlan:
    fixed = manifest.has_fixed_columns and not config.transforms
    inputs = _fitting(inputs, config, manifest.specs if fixed else ())
    if config.on_error == "fail":
        _refuse_failures(inputs)
    stretches = [stretch for stretch in stretches if inputs[stretch[0]].plan is not None]
    giving = [item for item in inputs if item.num_samples]
    present = {source["session_id"]: source["files"][0] for source in manifest.sources if "session_id" in source}
    check_sessions([item for item in giving if not item.again], present)
    inputs = with_splits(inputs, config.windows.split, manifest)
    known = [("the data set", manifest.specs)] if fixed else []
    columns = agreed_columns([*known, *((item.name, item.columns) for item in giving)])
    rows = {name: entry.rows for name, entry in manifest.tables.items()}
    bases, tables = join_tables(inputs, rows, shared)
    earlier = {source["fingerprint"]: source.get("tables", {}) for source in manifest.sources}
    for i, item in enumerate(inputs):
        if item.again and item.expected is not None:
            if item.expected.fingerprint not in earlier or _is_in_other_order(item, manifest):
                raise ConfigError(
                    f"{item.name} was converted in part and has changed since; withdraw what is there with "
                    f"`neurofm-shards drop --where 'session_id == \"{item.session_id}\"'` and add it anew "
                    "with mode='append'"
                )
            bases[i] |= {name: base for name, (base, _) in earlier[item.expected.fingerprint].items()}
    return ConversionPlan(
        config,
        tuple(inputs),
        columns,
        _shards(stretches, inputs, config, manifest.next_key),
        first_shard=1 + max((entry.shard_idx for entry in manifest.shards), default=-1),
        first_number=manifest.next_key,
        tables=tables,
        bases=tuple(bases),
        base=manifest,
    )


def _is_in_other_order(item: InputPlan, manifest: Manifest) -> bool:
    """Return whether the release that converted an input in part numbered its samples without regard to splits."""
    return bool(item.plan and item.plan.splits) and all(shard.split is None for shard in manifest.shards)


def check_config(config: ConversionConfig) -> None:
    """Make every plugin that a configuration names once, so that a mistake costs seconds rather than hours.

    Raises
    ------
    ConfigError
        Options or names are wrong.
    MissingPluginError
        A plugin is not installed; the message says how to get it.
    """
    known = registry()
    for name in (config.codec, *config.codecs.values()):
        known.codecs.get(name).make()
    for transform in config.transforms:
        known.transforms.make(transform)
    if config.format != "auto":
        known.sources.get(config.format)
    shard_names(config)


def shard_names(config: ConversionConfig) -> ShardNames:
    """Return how the shards are called, the compression's suffix included."""
    compression = compression_object(config.compression)
    return ShardNames(config.shard_name_pattern, compression.suffix if compression is not None else "")
