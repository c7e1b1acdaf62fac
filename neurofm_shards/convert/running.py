"""Runs shard tasks on an executor, moves finished shards into place and records them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.executors import as_they_come
from neurofm_shards.convert.inputs import worker_reader
from neurofm_shards.convert.planning import ShardTask, shard_names
from neurofm_shards.convert.progress import Observer
from neurofm_shards.convert.work import ShardResult, WorkOrder, run_task, staging_of
from neurofm_shards.format.unfinished import Journal, JournalContent, JournalHeader
from neurofm_shards.plugins.registry import registry
from neurofm_shards.types import ColumnSpec
from neurofm_shards.writing.output_folder import Output

Line = dict[str, Any]


def work_order(config: ConversionConfig, columns: tuple[ColumnSpec, ...], staging: Path) -> WorkOrder:
    """Say what all tasks of a conversion have in common."""
    writer = {
        "codec": config.codec,
        "codecs": dict(config.codecs),
        "compression": config.compression,
        "durable": config.durable,
        "specs": {spec.name: spec for spec in columns if spec.unit is not None or spec.table is not None},
    }
    return WorkOrder(
        str(staging),
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
    output : Output
        Where to.
    config : ConversionConfig
        All settings.
    header : JournalHeader
        What is being made.
    found : JournalContent or None
        What an interrupted run has finished already; shards that are damaged or gone are made again.
    executor : Executor
        Runs the tasks.
    workers : int
        How many run at once.
    observer : Observer
        Told of every shard.
    """

    def __init__(
        self,
        output: Output,
        config: ConversionConfig,
        header: JournalHeader,
        found: JournalContent | None,
        executor: Executor,
        workers: int,
        observer: Observer,
    ) -> None:
        self._output = output
        self._config = config
        self._executor = executor
        self._limit = 2 * workers
        self._observer = observer
        self.lines: dict[int, Line] = {}
        if found is not None:
            self.lines = {k: line for k, line in found.shards.items() if output.is_sound(line, found.header)}
        self._staging = output.new_staging()
        self._journal = Journal(output.sidecars, header, found)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal, which stays, and remove what was not finished."""
        self._journal.close()
        worker_reader().close()
        shutil.rmtree(self._staging, ignore_errors=True)  # what is left is removed by the next run

    def run(self, tasks: Iterable[ShardTask], columns: tuple[ColumnSpec, ...]) -> None:
        """Run the tasks whose shards are not there yet."""
        order = work_order(self._config, columns, self._staging)
        calls = ((order, task) for task in tasks if task.shard_idx not in self.lines)
        for result in as_they_come(self._executor, run_task, calls, limit=self._limit):
            self._finish(order, result)

    def _finish(self, order: WorkOrder, result: ShardResult) -> None:
        staged = staging_of(order, result.shard_idx)
        if result.record is None:
            shutil.rmtree(staged)
        else:
            self._output.publish(staged, durable=self._config.durable)
        line = result.to_json()
        self._journal.record(line)
        self.lines[result.shard_idx] = line
        if line["shard"] is not None:
            registry().notify("neurofm_shard_committed", shard=line["shard"])
        self._observer.shard(line)
