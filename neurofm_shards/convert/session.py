"""Conversion sessions: make, overwrite, add to or resume a data set, at once or file by file, in a locked folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from typing_extensions import Self

from neurofm_shards._wording import counted, listed
from neurofm_shards.convert.commit import commit
from neurofm_shards.convert.config import SOURCE_RUN_FIELDS, ConversionConfig, as_stored
from neurofm_shards.convert.dispatch import DEFAULT_RETRIES, Dispatcher, ExecutorChoice, dispatcher
from neurofm_shards.convert.identity import check_same, config_differences, identity, with_earlier_failures
from neurofm_shards.convert.input_plan import InputPlan
from neurofm_shards.convert.inputs import Input, find_inputs
from neurofm_shards.convert.planning import (
    ConversionPlan,
    all_inputs,
    check_any_holds_something,
    check_config,
    combine,
    fitting_to,
    known_columns,
    plan_append,
    plan_conversion,
    plan_inputs,
    plan_retry,
    warn_of_unmatched_subjects,
)
from neurofm_shards.convert.shard_run import ShardRun, Staging
from neurofm_shards.errors import ConfigError, NothingToConvertError
from neurofm_shards.events import (
    ConversionFinished,
    ConversionStarted,
    Event,
    Listener,
    ShardCommitted,
    broadcast,
    log_notes,
)
from neurofm_shards.format.manifest import Manifest, shared_rows, summary
from neurofm_shards.format.unfinished import pending_step
from neurofm_shards.plugins.registry import registry
from neurofm_shards.writing.journal import JournalContent, JournalHeader, remove_journal
from neurofm_shards.writing.lock import OutputLock
from neurofm_shards.writing.output_folder import REPLACING, OutputFolder, manifest_checksum

Named = Sequence[str | os.PathLike[str]]
Mode = Literal["new", "overwrite", "resume", "append"]


def convert_inputs(
    inputs: Named | str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    config: ConversionConfig | Mapping[str, Any] | None = None,
    *,
    workers: int = 1,
    executor: ExecutorChoice = None,
    mode: Mode = "new",
    retries: int = DEFAULT_RETRIES,
    staging: Staging = "shared",
    observer: Listener = log_notes,
    progress: bool = False,
) -> dict[str, Any]:
    """Convert inputs into a data set.

    The bytes of the result depend on inputs and configuration alone, not on workers, executor, interruptions or place.

    Parameters
    ----------
    inputs : path or sequence of path
        Files, folders and patterns; see :func:`~neurofm_shards.convert.inputs.find_inputs`.
    output_dir : path
        Where the data set goes.
    config : ConversionConfig or dict, optional
        All settings; defaults otherwise.
    workers : int
        How many shards are written at once.
    executor : str or dict, optional
        Name of an executor, or its options with ``kind``; by default this process for one worker, a pool of processes
        for more.
    mode : {"new", "overwrite", "resume", "append"}
        What to do with an output that exists: refuse it, replace the data set in it when the new one is whole, go on
        where an interrupted conversion stopped (harmless on an absent or finished output), or add inputs that it does
        not hold yet.
    retries : int
        How often a shard is written again when the worker that wrote it was lost.
    staging : {"shared", "local"}
        Whether workers write into the output folder, which they must see, or on their own disks, and hand each shard
        back as the result of its task.
    observer : callable, optional
        Called with each :class:`~neurofm_shards.events.Event`; by default, what is odd about inputs is logged as
        warnings of the logger ``neurofm_shards.convert``.
    progress : bool
        Whether to draw bars, on a terminal or in a notebook.

    Returns
    -------
    dict
        ``total_samples``, ``total_shards``, ``drops`` (windows left out, by reason), ``problems`` (what is odd about
        sessions), ``valid_shares`` (of windows, by modality), ``failures`` and the rest of the data set's summary;
        ``new_failures`` are those that an appended data set did not have before.

    Raises
    ------
    NeurofmShardsError
        See :mod:`neurofm_shards.errors`; an interrupted conversion keeps its finished shards for ``resume``.
    """
    named = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    with ConversionSession(
        output_dir,
        config,
        workers=workers,
        executor=executor,
        retries=retries,
        staging=staging,
        observer=observer,
        progress=progress,
    ) as session:
        return session.convert(named, mode)


@dataclass(frozen=True)
class Target:
    """Where a conversion writes, and what was there.

    Attributes
    ----------
    output : OutputFolder
        The output folder, or the folder of its replacement.
    kind : str
        ``"convert"``, ``"append"`` or ``"retry"``.
    base : Manifest or None
        The data set that is added to.
    found : JournalContent or None
        What an interrupted run has left.
    """

    output: OutputFolder
    kind: str = "convert"
    base: Manifest | None = None
    found: JournalContent | None = None


class ConversionSession:
    """One conversion into one output folder; a context manager that keeps the folder locked.

    Parameters
    ----------
    output_dir : path
        Where the data set goes.
    config : ConversionConfig or dict, optional
        All settings.
    workers, executor, retries, staging, observer, progress
        See :func:`convert_inputs`.

    Raises
    ------
    ConfigError
        Options are wrong.
    OutputLockedError
        Another writer is at work in the folder.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        config: ConversionConfig | Mapping[str, Any] | None = None,
        *,
        workers: int = 1,
        executor: ExecutorChoice = None,
        retries: int = DEFAULT_RETRIES,
        staging: Staging = "shared",
        observer: Listener = log_notes,
        progress: bool = False,
    ) -> None:
        self.config = config if isinstance(config, ConversionConfig) else ConversionConfig.of(dict(config or {}))
        check_config(self.config)
        self.output = OutputFolder(Path(output_dir))
        self._progress = progress
        self._told = broadcast(tell_plugins, observer)
        self.tell = self._told
        self._making = (executor, workers, retries)
        self._staging: Staging = staging
        self._stack = ExitStack()
        self._dispatcher: Dispatcher | None = None

    def open(self) -> Self:
        """Lock the folder, start the executor and see that its workers fit; harmless when that was done before."""
        if self._dispatcher is None:
            executor, workers, retries = self._making
            with ExitStack() as stack:
                stack.enter_context(OutputLock(self.output.folder))
                if self._progress:
                    self.tell = broadcast(self._told, stack.enter_context(_bars()))
                made = stack.enter_context(dispatcher(executor, workers, retries=retries, listener=self.tell))
                self.output.check_no_links()
                made.check(self.output.sidecars, shared=self._staging == "shared")
                self._dispatcher, self._stack = made, stack.pop_all()
        return self

    def close(self) -> None:
        """End the executor and unlock the folder; :meth:`open` starts again."""
        self._stack.close()
        self._dispatcher = None

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def convert(self, named: Named, mode: str = "new") -> dict[str, Any]:
        """Convert all inputs at once; return the data set's summary."""
        modes: dict[str, Callable[[Named], Manifest]] = {
            "new": self._new,
            "overwrite": self._overwrite,
            "resume": self._resume,
            "append": self._append,
        }
        if mode not in modes:
            raise ConfigError(f"mode is {mode!r}; it is one of {', '.join(map(repr, get_args(Mode)))}")
        before = self.output.manifest() if mode == "append" else None
        return self.finished(modes[mode](named), before)

    def finished(self, manifest: Manifest, before: Manifest | None = None) -> dict[str, Any]:
        """Tell that the data set is finished; return its summary, and which failures it did not have ``before``."""
        result = {**summary(self.output.folder, manifest), "new_failures": new_failures(manifest, before)}
        self.tell(ConversionFinished(result))
        return result

    def plan(self, named: Named, config: ConversionConfig, base: Manifest | None = None) -> list[InputPlan]:
        """Find all inputs and open each once; ``base`` is the data set that they are added to."""
        return self.plan_found(all_inputs(named, config, self.output.folder, base), config, base)

    def plan_found(
        self,
        inputs: Sequence[Input],
        config: ConversionConfig,
        base: Manifest | None = None,
        before: Sequence[InputPlan] = (),
    ) -> list[InputPlan]:
        """Open each input once; their columns must be those of ``base`` and of the inputs ``before``."""
        known = known_columns(base, before, config)
        planned = plan_inputs(inputs, config, self.dispatcher, known=known, listener=self.tell)
        if config.on_error == "fail":
            check_any_holds_something(planned)
        return fitting_to(known, planned, config) if before else planned

    def _plan(self, named: Named) -> ConversionPlan:
        return plan_conversion(named, self.config, self.dispatcher, output=self.output.folder, listener=self.tell)

    @property
    def dispatcher(self) -> Dispatcher:
        """Runs calls while the session is open."""
        if self._dispatcher is None:
            raise AssertionError("the session is not open")
        return self._dispatcher

    def shard_run(self, plan: ConversionPlan, target: Target) -> ShardRun:
        """Start writing shards."""
        base = manifest_checksum(target.base) if target.base is not None else ""
        header = JournalHeader(target.kind, identity(plan, base), plan.total_shards, plan.config.durable)
        if target.found is not None and target.kind != "convert":
            check_same(header.identity, target.found.header.identity)
        return ShardRun(
            target.output, plan.config, header, target.found, self.dispatcher, self.tell, staging=self._staging
        )

    def adding_config(self, manifest: Manifest) -> ConversionConfig:
        """Return the settings to add with: those of the data set, and those given now where it has none.

        Raises
        ------
        ConfigError
            A setting that was given is not that of the data set.
        """
        stored = as_stored(manifest.config)
        if not manifest.has_fixed_columns:
            stored.pop("shard_size", None)  # a Python writer's own affair
        given = self.config.model_dump(mode="json", exclude_unset=True)
        if stored.get("format") == "auto" and "format" in given:  # narrower, and no other bytes
            stored["format"] = given["format"]
        if subjects := given.pop("subject_ids", None):  # of what is added; those of the data set stay what they are
            stored["subject_ids"] = list(dict.fromkeys([*stored.get("subject_ids", ()), *subjects]))
        allowed = {name: value for name, value in given.get("source", {}).items() if name in SOURCE_RUN_FIELDS}
        if allowed:  # where links may lead is an affair of this machine, and in no manifest
            stored["source"] = {**stored.get("source", {}), **allowed}
        both = ConversionConfig.of({**given, **stored})
        content = picked(self.config.content(), given)
        asked = overlaid(both.content(), {name: content[name] for name in content if name in stored})
        differences = config_differences(asked, both.content())
        if differences:
            raise ConfigError(
                f"{self.output.folder} was made with other settings: {listed(differences, 3, '; ')}; leave them out to "
                "append"
            )
        return both

    def _new(self, named: Named) -> Manifest:
        self.output.check_free()  # first: a run that is refused changes nothing
        self.output.clean()
        return self._run(self._plan(named), Target(self.output))

    def _overwrite(self, named: Named) -> Manifest:
        if not self.output.is_ours():
            self.output.check_free()
        self.output.clean()
        plan = self._plan(named)  # inputs that fail cost nothing that is there
        return self._replace(self.output.begin_overwriting(), lambda new: self._run(plan, Target(new)))

    def _replace(self, new: OutputFolder, convert: Callable[[OutputFolder], Manifest]) -> Manifest:
        try:
            manifest = convert(new)
        except NothingToConvertError:
            self.output.give_up_replacement()
            raise
        self.output.finish_overwriting(new, durable=self.config.durable)
        return manifest

    def _resume(self, named: Named) -> Manifest:
        self.output.clean()
        replacement = self.output.replacement()
        if replacement is None:
            return self._resume_in(self.output, named)
        replacement.clean()
        return self._replace(replacement, lambda new: self._resume_in(new, named))

    def _resume_in(self, output: OutputFolder, named: Named) -> Manifest:
        manifest, journal = output.manifest(), output.journal()
        if manifest is None:
            return self._go_on(output, named, journal)
        config = self.config.like(manifest.config)
        planned = self.plan(named, config, manifest)
        if journal is not None and journal.header.kind == "append":
            plan = plan_append(manifest, planned, self.adding_config(manifest), shared_rows(output.folder, manifest))
            return self._add(plan, Target(output, "append", manifest, journal))
        _check_finished(output, manifest, planned, config)
        if not manifest.failures:
            return manifest
        plan = plan_retry(manifest, planned, config, shared_rows(output.folder, manifest))
        return self._add(plan, Target(output, "retry", manifest, journal))

    def _go_on(self, output: OutputFolder, named: Named, journal: JournalContent | None) -> Manifest:
        if journal is None:
            output.check_free()
            return self._run(self._plan(named), Target(output))
        planned = with_earlier_failures(self.plan(named, self.config), journal.header.identity)
        plan = combine(planned, self.config)
        check_same(identity(plan), journal.header.identity)
        return self._run(plan, Target(output, found=journal))

    def _append(self, named: Named) -> Manifest:
        self.output.clean()
        manifest, journal = self.output.manifest(), self.output.journal()
        if manifest is None:
            return self._new(named)
        self.output.check_not_being_replaced()
        config = self.adding_config(manifest)
        planned = self.plan(named, config, manifest)
        plan = plan_append(manifest, planned, config, shared_rows(self.output.folder, manifest))
        return self._add(plan, Target(self.output, "append", manifest, journal))

    def _add(self, plan: ConversionPlan | None, target: Target) -> Manifest:
        if plan is not None:
            return self._run(plan, target)
        if target.base is None:
            raise AssertionError("additions have a data set that is added to")
        remove_journal(target.output.sidecars)
        return target.base

    def _run(self, plan: ConversionPlan, target: Target) -> Manifest:
        run = self.shard_run(plan, target)
        try:
            with run:
                self.tell(started(plan, run.lines))
                run.run(plan)
        except BaseException:
            if not run.has_begun and target.output is self.output:  # nothing to go on with: the next run is a new one
                remove_journal(target.output.sidecars)
            raise
        return commit(target.output, plan, run.lines, target.base)


class IncrementalConversion:
    """A conversion whose inputs come one by one: a shard is written as soon as it is full.

    The result is that of one call with all inputs. It cannot be resumed; what an error leaves is taken back by
    :meth:`discard`.

    Parameters
    ----------
    session : ConversionSession
        Open; closed by whoever opened it, after :meth:`finish` or :meth:`discard`.
    overwrite : bool
        Replace a data set that is there when the new one is whole, instead of adding to it with a warning.
    """

    def __init__(self, session: ConversionSession, *, overwrite: bool) -> None:
        self._session = session
        self._target = self._open(overwrite=overwrite)
        base = self._target.base
        self._config = session.config if base is None else session.adding_config(base)
        self._planned: list[InputPlan] = []
        self._run = session.shard_run(ConversionPlan(self._config, (), (), ()), self._target)
        self._is_told = self._may_be_listed = False

    @property
    def is_empty(self) -> bool:
        """Whether no input was added yet."""
        return not self._planned

    def add(self, named: Named) -> int:
        """Plan inputs and write the shards that are full; return the number of the inputs' samples."""
        found = find_inputs(named, self._config.format, self._config.source, self._session.output.folder)
        new = self._session.plan_found(found, self._config, self._target.base, self._planned)
        plan = self._plan([*self._planned, *new])
        self._planned += new
        if plan is not None:
            self._write(plan, plan.full_shards)
        return sum(item.num_samples for item in new)

    def finish(self) -> dict[str, Any]:
        """Write what is left, and the manifest; return the summary."""
        plan = self._plan(self._planned)
        if plan is not None:
            self._write(plan, plan.total_shards)
        self._run.close()
        self._may_be_listed = plan is not None
        manifest = self._commit(plan)
        self._session.output.finish_overwriting(self._target.output, durable=self._config.durable)
        warn_of_unmatched_subjects(self._config, self._planned, self._target.base)
        return self._session.finished(manifest)

    def discard(self) -> None:
        """Take back what was written: all of it, or what was added; nothing once a manifest may list it."""
        self._session.dispatcher.abandon()
        self._run.close()
        if self._may_be_listed:
            return
        output = self._session.output
        if self._target.output != output:
            output.give_up_replacement()
        elif self._target.base is not None:
            self._delete_added(output)
        elif output.manifest() is None:
            output.delete()

    def _open(self, *, overwrite: bool) -> Target:
        output = self._session.output
        if not output.is_ours():
            output.check_free(REPLACING)
        output.clean()
        if overwrite and output.is_ours():
            return Target(output.begin_overwriting())
        base = output.manifest()
        if base is None:
            output.check_free(REPLACING)
            return Target(output)
        pending = pending_step(output.folder)
        if pending is not None:
            raise ConfigError(pending)
        warnings.warn(
            f"{output.folder} already holds a data set of {counted(base.total_samples, 'sample')}: new files are "
            "added to it (overwrite=True would replace it)",
            UserWarning,
            stacklevel=6,
        )
        return Target(output, "append", base)

    def _plan(self, planned: list[InputPlan]) -> ConversionPlan | None:
        """Plan all inputs so far; None when there is nothing to do."""
        if self._target.base is not None:
            shared = shared_rows(self._target.output.folder, self._target.base)
            return plan_append(self._target.base, planned, self._config, shared)
        return combine(planned, self._config) if any(item.plan is not None for item in planned) else None

    def _write(self, plan: ConversionPlan, shards: int) -> None:
        if not self._is_told:
            self._session.tell(started(plan, {}))
            self._is_told = True
        self._run.run(plan, shards)

    def _commit(self, plan: ConversionPlan | None) -> Manifest:
        base = self._target.base
        if plan is None and base is not None:
            remove_journal(self._target.output.sidecars)
            return base
        return commit(self._target.output, plan or combine(self._planned, self._config), self._run.lines, base)

    def _delete_added(self, output: OutputFolder) -> None:
        lines = (line["shard"] for line in self._run.lines.values())
        output.discard(shard["shard_name"] for shard in lines if shard is not None)
        remove_journal(output.sidecars)


def new_failures(manifest: Manifest, before: Manifest | None = None) -> list[dict[str, Any]]:
    """Return the inputs that failed, and not ``before``; those that hold nothing to convert did not fail."""
    known = [failure["files"] for failure in before.failures] if before is not None else []
    return [item for item in manifest.failures if item["files"] not in known and not item.get("empty")]


def _check_finished(
    output: OutputFolder, manifest: Manifest, planned: Sequence[InputPlan], config: ConversionConfig
) -> None:
    differences = config_differences(config.content(), manifest.config) if manifest.config else []
    known = {source["fingerprint"] for source in manifest.sources}
    failed = {tuple(entry["files"]) for entry in manifest.failures}
    for item in planned:
        is_known = item.expected is None or item.expected.fingerprint in known
        if not is_known and tuple(item.spec.input.file_names) not in failed:
            differences.append(f"input {item.name} is not in it")
    if differences:
        raise ConfigError(
            f"{output.folder} holds a finished data set made otherwise: {listed(differences, 3, '; ')}; add "
            "inputs with mode='append', or replace it with mode='overwrite'"
        )


def started(plan: ConversionPlan, lines: Mapping[int, Mapping[str, Any]], *, splits: bool = True) -> ConversionStarted:
    """Describe the start of a conversion, or of a part of one, of which some shards are finished."""
    described = {
        "total_samples": plan.total_samples,
        "total_shards": plan.total_shards,
        "inputs": [item.name for item in plan.inputs],
        "inputs_without_samples": [item.name for item in plan.inputs if not item.num_samples],
        "config": plan.config.content(),
    }
    samples = sum(line["shard"]["num_samples"] for line in lines.values() if line["shard"] is not None)
    if not splits:
        return ConversionStarted(described, {}, len(lines), samples)
    return ConversionStarted(described, plan.splits, len(lines), samples, (*plan.split_warnings, *plan.type_warnings))


def _bars() -> AbstractContextManager[Listener]:
    from neurofm_shards.convert.progress import shown_bars  # noqa: PLC0415  (rich, only where bars are asked for)

    return shown_bars()


def tell_plugins(event: Event) -> None:
    """Pass events on to the observer hooks."""
    if isinstance(event, ConversionStarted):
        registry().notify("neurofm_conversion_started", plan=event.plan)
    elif isinstance(event, ShardCommitted) and event.shard is not None:
        registry().notify("neurofm_shard_committed", shard=event.shard)
    elif isinstance(event, ConversionFinished):
        registry().notify("neurofm_conversion_finished", summary=event.summary)


def picked(content: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that were given, as the configuration has them: lists of options with their defaults."""
    return {
        name: picked(content[name], value)
        if isinstance(value, Mapping) and isinstance(content[name], Mapping)
        else content[name]
        for name, value in given.items()
        if name in content
    }


def overlaid(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with those given laid over them, nested ones one by one."""
    result = dict(stored)
    for name, value in given.items():
        nested = isinstance(value, Mapping) and isinstance(stored.get(name), Mapping)
        result[name] = overlaid(stored[name], value) if nested else value
    return result
