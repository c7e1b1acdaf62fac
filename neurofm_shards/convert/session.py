"""From inputs to a finished data set: the one call that the command line and everybody else uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from neurofm_shards.convert.commit import make_manifest
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.executors import make_executor
from neurofm_shards.convert.identity import check_same, config_differences, identity, with_earlier_failures
from neurofm_shards.convert.inputs import find_inputs
from neurofm_shards.convert.planning import (
    ConversionPlan,
    InputPlan,
    combine,
    plan_append,
    plan_conversion,
    plan_inputs,
    plan_retry,
)
from neurofm_shards.convert.progress import Observer
from neurofm_shards.convert.running import ShardRun
from neurofm_shards.convert.work import write_tables
from neurofm_shards.errors import ConfigError, NothingToConvertError
from neurofm_shards.format.card import write_card
from neurofm_shards.format.files import OutputLock
from neurofm_shards.format.manifest import Manifest, summary, write_manifest
from neurofm_shards.format.unfinished import JournalContent, JournalHeader, remove_journal
from neurofm_shards.plugins.registry import registry
from neurofm_shards.writing.output_folder import Output, checksum

Named = Sequence[str | os.PathLike[str]]
Mode = Literal["new", "overwrite", "resume", "append"]


def convert_inputs(
    inputs: Named | str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    config: ConversionConfig | Mapping[str, Any] | None = None,
    *,
    workers: int = 1,
    executor: str | None = None,
    mode: Mode = "new",
    observer: Observer | None = None,
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
        How many tasks run at once.
    executor : str, optional
        Name of an executor; by default this process for one worker, a pool of processes for more.
    mode : {"new", "overwrite", "resume", "append"}
        What to do with an output that exists: refuse it, replace the data set in it when the new one is whole, go on
        where an interrupted conversion stopped (harmless on an absent or finished output), or add inputs that it does
        not hold yet.
    observer : Observer, optional
        Told of each step.

    Returns
    -------
    dict
        ``total_samples``, ``total_shards``, ``failures`` and the rest of the data set's summary.

    Raises
    ------
    NeurofmShardsError
        See :mod:`neurofm_shards.errors`; an interrupted conversion keeps its finished shards for ``resume``.
    """
    named = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    settings = config if isinstance(config, ConversionConfig) else ConversionConfig.of(dict(config or {}))
    output = Output(Path(output_dir))
    with OutputLock(output.folder), make_executor(executor, workers) as pool:
        output.clean()
        session = _Session(output, settings, pool, max(workers, 1), observer or Observer())
        manifest = getattr(session, mode)(named)
    result = summary(output.folder, manifest)
    registry().notify("neurofm_conversion_finished", summary=result)
    return result


@dataclass(frozen=True)
class _Session:
    """One call of :func:`convert_inputs`; the methods that take what was named are its modes.

    All return the finished manifest.
    """

    output: Output
    config: ConversionConfig
    pool: Executor
    workers: int
    observer: Observer

    def new(self, named: Named) -> Manifest:
        self.output.check_free()
        return self.convert(self._plan(named), None)

    def overwrite(self, named: Named) -> Manifest:
        if not self.output.is_ours():
            self.output.check_free()
        plan = self._plan(named)  # before anything is written: inputs that fail cost nothing
        return self._overwrite(self.output.begin_overwriting(), lambda session: session.convert(plan, None))

    def resume(self, named: Named) -> Manifest:
        replacement = self.output.replacement()
        if replacement is not None:
            replacement.clean()
            return self._overwrite(replacement, lambda session: session.resume(named))
        manifest, journal = self.output.manifest(), self.output.journal()
        if manifest is None and journal is None:
            return self.new(named)
        inputs = find_inputs(named, self.config.format, self.config.source)
        planned = plan_inputs(inputs, self.config, self.pool, workers=self.workers, observer=self.observer)
        if manifest is None and journal is not None:
            return self._go_on(planned, journal)
        if manifest is None:
            raise AssertionError("no manifest and no journal was dealt with")
        if journal is not None and journal.header.kind == "append":
            return self._add(plan_append(manifest, planned, self._stored(manifest)), manifest, "append", journal)
        self._check_finished(manifest, planned)
        if not manifest.failures:
            return manifest
        return self._add(plan_retry(manifest, planned, self.config), manifest, "retry", journal)

    def append(self, named: Named) -> Manifest:
        manifest, journal = self.output.manifest(), self.output.journal()
        if manifest is None:
            return self.new(named)
        self.output.check_not_being_replaced()
        config = self._stored(manifest)
        inputs = find_inputs(named, config.format, config.source)
        planned = plan_inputs(inputs, config, self.pool, workers=self.workers, observer=self.observer)
        return self._add(plan_append(manifest, planned, config), manifest, "append", journal)

    def _overwrite(self, new: Output, convert: Callable[[_Session], Manifest]) -> Manifest:
        try:
            manifest = convert(replace(self, output=new))
        except NothingToConvertError:
            self.output.give_up_replacement()
            raise
        self.output.finish_overwriting(new, durable=self.config.durable)
        return manifest

    def _plan(self, named: Named) -> ConversionPlan:
        return plan_conversion(named, self.config, self.pool, workers=self.workers, observer=self.observer)

    def _go_on(self, planned: list[InputPlan], journal: JournalContent) -> Manifest:
        plan = combine(with_earlier_failures(planned, journal.header.identity), self.config)
        check_same(identity(plan), journal.header.identity)
        return self.convert(plan, journal)

    def convert(self, plan: ConversionPlan, found: JournalContent | None) -> Manifest:
        return self._run(plan, "convert", "", None, found)

    def _add(
        self, plan: ConversionPlan | None, manifest: Manifest, kind: str, journal: JournalContent | None
    ) -> Manifest:
        if plan is None:
            remove_journal(self.output.sidecars)
            return manifest
        base = checksum(manifest)
        if journal is not None:
            check_same(identity(plan, base), journal.header.identity)
        return self._run(plan, kind, base, manifest, journal)

    def _run(
        self,
        plan: ConversionPlan,
        kind: str,
        base: str,
        manifest: Manifest | None,
        found: JournalContent | None,
    ) -> Manifest:
        header = JournalHeader(kind, identity(plan, base), plan.total_shards, plan.config.durable)
        registry().notify("neurofm_conversion_started", plan=_described(plan))
        with ShardRun(self.output, plan.config, header, found, self.pool, self.workers, self.observer) as run:
            self.observer.started(plan, len(run.lines))
            run.run(plan.tasks(), plan.columns)
        return commit(self.output, plan, run.lines, manifest)

    def _stored(self, manifest: Manifest) -> ConversionConfig:
        """Return the settings that a data set was made with; those given now must agree where they were given."""
        if not manifest.config:
            return self.config
        run = {"on_error": self.config.on_error, "durable": self.config.durable}
        stored = ConversionConfig.of({**manifest.config, **run})
        given = self.config.model_dump(mode="json", exclude_unset=True, exclude={"on_error", "durable"})
        differences = config_differences({**stored.content(), **_overlaid(stored.content(), given)}, stored.content())
        if differences:
            raise ConfigError(
                f"{self.output.folder} was made with other settings: {'; '.join(differences[:3])}; leave them out to "
                "append"
            )
        return stored

    def _check_finished(self, manifest: Manifest, planned: Sequence[InputPlan]) -> None:
        differences = config_differences(self.config.content(), manifest.config) if manifest.config else []
        known = {source["fingerprint"] for source in manifest.sources}
        failed = {tuple(entry["files"]) for entry in manifest.failures}
        for item in planned:
            is_known = item.expected is None or item.expected.fingerprint in known
            if not is_known and tuple(item.opening.input.file_names) not in failed:
                differences.append(f"input {item.name} is not in it")
        if differences:
            raise ConfigError(
                f"{self.output.folder} holds a finished data set made otherwise: {'; '.join(differences[:3])}; add "
                "inputs with --append, or replace it with --overwrite"
            )


def commit(
    output: Output, plan: ConversionPlan, lines: Mapping[int, Mapping[str, Any]], base: Manifest | None
) -> Manifest:
    """Write tables, card and, last, the manifest; then the journal is removed.

    Raises
    ------
    NothingToConvertError
        No sample is left to make a data set of.
    """
    manifest = make_manifest(plan, lines, base)
    if not manifest.shards:
        remove_journal(output.sidecars)
        reasons = "; ".join(entry["error"] for entry in manifest.failures[:1]) or "transforms dropped every sample"
        raise NothingToConvertError(f"no sample is left to make a data set of: {reasons}")
    durable = plan.config.durable
    write_tables(output, manifest.tables, plan.tables, durable=durable)
    write_card(output.folder, manifest, durable=durable)
    write_manifest(output.folder, manifest, durable=durable)
    remove_journal(output.sidecars)
    return manifest


def _described(plan: ConversionPlan) -> dict[str, Any]:
    return {
        "total_samples": plan.total_samples,
        "total_shards": plan.total_shards,
        "inputs": [item.name for item in plan.inputs],
        "config": plan.config.content(),
    }


def _overlaid(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(stored)
    for name, value in given.items():
        nested = isinstance(value, Mapping) and isinstance(stored.get(name), Mapping)
        result[name] = _overlaid(stored[name], value) if nested else value
    return result
