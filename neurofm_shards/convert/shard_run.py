"""Shard runs: tasks go to workers, finished shards into place and into the journal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from typing_extensions import Self

from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.dispatch import Answer, Call, Dispatcher
from neurofm_shards.convert.planning import ConversionPlan, shard_names
from neurofm_shards.convert.tasks import in_turns
from neurofm_shards.convert.work import JobSpec, ShardResult, TypesOfShards, first_types, run_task
from neurofm_shards.events import Listener, ShardCommitted
from neurofm_shards.format.files import Folder
from neurofm_shards.format.unfinished import JOURNAL_NAME
from neurofm_shards.plugins.registry import registry
from neurofm_shards.types import ColumnSpec
from neurofm_shards.writing.field_types import stored_types
from neurofm_shards.writing.journal import Journal, JournalContent, JournalHeader
from neurofm_shards.writing.output_folder import OutputFolder

Line = dict[str, Any]
#: Where workers write shards: into the output folder, or on their own disks.
Staging = Literal["shared", "local"]


def job_spec(
    config: ConversionConfig, columns: tuple[ColumnSpec, ...], staging: Path | None, mode: int | None
) -> JobSpec:
    """Return the settings that all tasks of a conversion share."""
    writer = {
        "codec": config.codec,
        "codecs": dict(config.codecs),
        "compression": config.compression,
        "durable": config.durable,
        "mode": mode,
        "specs": {spec.name: spec for spec in columns if spec.unit is not None or spec.table is not None},
    }
    return JobSpec(
        None if staging is None else str(staging.absolute()),
        columns,
        writer,
        shard_names(config),
        config.transforms,
        tuple(registry().code_entries()),
        skip_failed=config.on_error == "skip",
    )


class ShardRun:
    """Writes shards into an output that is locked; a context manager.

    Parameters
    ----------
    output : OutputFolder
        Where to.
    config : ConversionConfig
        All settings.
    header : JournalHeader
        What is being made.
    found : JournalContent or None
        What an interrupted run has finished already; shards that are damaged or gone are made again.
    dispatcher : Dispatcher
        Runs the tasks.
    listener : Listener
        Told of every shard.
    staging : {"shared", "local"}
        Whether workers write into the output folder, or on their own disks and hand the files back.
    journal_name, staging_name : str
        Files of a part of the conversion.

    Attributes
    ----------
    lines : dict of int to dict
        The journal's record of every finished shard, by number.
    has_begun : bool
        Whether there may be shards in the output folder, recorded or not.
    """

    def __init__(
        self,
        output: OutputFolder,
        config: ConversionConfig,
        header: JournalHeader,
        found: JournalContent | None,
        dispatcher: Dispatcher,
        listener: Listener,
        *,
        staging: Staging = "shared",
        journal_name: str = JOURNAL_NAME,
        staging_name: str | None = None,
    ) -> None:
        self._output = output
        self._config = config
        self._dispatcher = dispatcher
        self._listener = listener
        self._shares_folder = staging == "shared"
        self.lines: dict[int, Line] = {}
        self.has_begun = found is not None
        if found is not None:
            self.lines = {k: line for k, line in found.shards.items() if output.is_sound(line, found.header)}
        self._types = TypesOfShards()
        for line in self.lines.values():
            self._types.add(line)
        self._staging = output.new_staging(staging_name)
        self._journal = Journal(output.sidecars, header, found, journal_name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal, which stays, and remove what was not finished."""
        self._journal.close()
        with contextlib.suppress(OSError):  # what is left is removed by the next run
            self._output.remove_staging(self._staging)

    def note(self, what: str, **facts: Any) -> None:
        """Write down something of the run itself."""
        self._journal.note(what, **facts)

    def run(self, plan: ConversionPlan, shards: int | None = None) -> None:
        """Write the shards of a plan that are not there yet: all of them, or the first so many."""
        folder = self._staging if self._shares_folder else None
        spec = job_spec(self._config, plan.columns, folder, self._output.mode())
        tasks = list(islice(plan.tasks(), shards))
        if plan.base is not None and not plan.base.has_fixed_columns:
            spec = replace(spec, types=stored_types(self._output.folder, plan.base))
        if tasks and self._config.transforms:
            spec = replace(spec, types=stored_types(self._output.folder, plan.base))
            probe = Call(first_types, (spec, tasks[0]), "reading the first samples", tasks[0].near)
            spec = replace(spec, types=next(iter(self._dispatcher.in_order([probe]))))
        missing = in_turns(task for task in tasks if task.shard_idx not in self.lines)
        calls = (Call(run_task, (spec, task), task.what, task.near) for task in missing)
        for answers in self._dispatcher.as_they_come(calls):
            self._finish(answers)

    def _finish(self, answers: Sequence[Answer[ShardResult]]) -> None:
        """Move shards into place, all that have come at once: the journal names them before and records them after."""
        for answer in answers:
            self._unpack(self._staging / answer.value.staged, answer.value.files)
        written = {answer.value.staged: answer.value.record for answer in answers if answer.value.record is not None}
        self.has_begun = True
        self._journal.announce(record.entry.shard_name for record in written.values())
        self._output.publish(self._staging, written, durable=self._config.durable)
        for answer in answers:
            if answer.value.staged not in written:
                self._output.remove_staging(self._staging / answer.value.staged)
        lines = [self._line(answer) for answer in answers]
        self._journal.record(lines)
        for line in lines:
            self._types.add(line)
        for answer, line in zip(answers, lines, strict=True):
            self.lines[answer.value.shard_idx] = line
            failures = tuple(failure.error for failure in answer.value.failures)
            told = ShardCommitted(answer.value.shard_idx, line["shard"], failures, answer.host, answer.seconds)
            self._listener(told)

    def _unpack(self, staged: Path, files: Mapping[str, bytes]) -> None:
        """Write what a worker handed back."""
        for name, data in files.items():
            with Folder.open((staged / name).parent, create=True) as folder:
                folder.write((staged / name).name, [data], durable=self._config.durable)

    @staticmethod
    def _line(answer: Answer[ShardResult]) -> Line:
        return {**answer.value.to_json(), "host": answer.host, "seconds": answer.seconds, "at": time.time()}
