"""Run one shard task: read its segments, transform, write the shard and its index."""

from __future__ import annotations

import secrets
import socket
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm_shards.blocks import fields_of, shifted
from neurofm_shards.convert.input_reader import worker_reader
from neurofm_shards.convert.tasks import Segment, ShardTask, TaskInput
from neurofm_shards.errors import EncodeError, NeurofmShardsError, SourceError, WorkerError
from neurofm_shards.format.dataset_record import ShardRecord
from neurofm_shards.format.shard_names import ShardNames
from neurofm_shards.plugins.entries import Entry
from neurofm_shards.plugins.interfaces import Transform
from neurofm_shards.plugins.registry import registry
from neurofm_shards.types import Block, ColumnSpec
from neurofm_shards.writing.field_types import FieldTypes
from neurofm_shards.writing.shard_writer import ShardWriter
from neurofm_shards.writing.statistics import SessionStats, block_statistics, is_quantity, merged

if TYPE_CHECKING:
    from neurofm_shards.convert.planning import ConversionPlan

#: About how much of an input is held in memory at once.
BLOCK_BYTES = 8 << 20
#: Samples per block where their size is not known beforehand.
_UNKNOWN_ROWS = 256


@dataclass(frozen=True)
class JobSpec:
    """What all tasks of one conversion have in common; picklable.

    Attributes
    ----------
    folder : str or None
        Where shards are written; another process moves them into place. None: on the worker's own disk, and the files
        are handed back.
    columns : tuple of ColumnSpec
        Columns before transforms.
    writer : dict
        Keyword arguments of :class:`ShardWriter`.
    names : ShardNames
        How shards are called.
    transforms : tuple of dict
        Their configurations.
    code_entries : tuple
        Plugins that were registered in code.
    skip_failed : bool
        Whether a segment that cannot be read is left out.
    types : FieldTypes or None
        Types of the fields that transforms make, as the first samples have them, and of the data set that is added to;
        None where inputs say what their columns are.
    """

    folder: str | None
    columns: tuple[ColumnSpec, ...]
    writer: dict[str, Any]
    names: ShardNames
    transforms: tuple[dict[str, Any], ...]
    code_entries: tuple[tuple[str, Entry], ...]
    skip_failed: bool
    types: FieldTypes | None = None


@dataclass(frozen=True)
class SegmentFailure:
    """A segment that could not be read, and why."""

    input_idx: int
    start: int
    stop: int
    error: str


@dataclass(frozen=True)
class ShardResult:
    """What became of one task.

    Attributes
    ----------
    shard_idx : int
        Number of the shard.
    record : ShardRecord or None
        None when every sample was dropped: there is no such shard then.
    statistics : dict
        Per session and column.
    drops : tuple of (int, str, int)
        Samples that transforms dropped: number of the input, transform, count.
    failures : tuple of SegmentFailure
        What was left out.
    types : dict of str to (str, str)
        The type of each field that transforms may have made, and the sample that decided it.
    staged : str
        Name of the folder in which this attempt wrote.
    files : dict of str to bytes
        What it wrote, by path in that folder, where workers write on their own disks.
    """

    shard_idx: int
    record: ShardRecord | None
    statistics: SessionStats
    drops: tuple[tuple[int, str, int], ...]
    failures: tuple[SegmentFailure, ...]
    types: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    staged: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values: what the journal records and the manifest is made of."""
        return {
            "shard_idx": self.shard_idx,
            "shard": None if self.record is None else self.record.entry.model_dump(),
            "columns": [] if self.record is None else [column.model_dump() for column in self.record.columns],
            "statistics": [[session, column, stats.to_json()] for (session, column), stats in self.statistics.items()],
            "drops": [list(drop) for drop in self.drops],
            "failures": [failure.__dict__ for failure in self.failures],
            **({"types": {name: list(found) for name, found in self.types.items()}} if self.types else {}),
        }


class TypesOfShards:
    """What shards say of their fields, of which each has one type in all of them.

    Shards of one run share the types of its first samples, and find others themselves; parts are runs of their own.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, str, int]] = {}

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in the record of one shard.

        Raises
        ------
        EncodeError
            A field has another type in it than in one before.
        """
        for name, (kind, where) in line.get("types", {}).items():
            first, there, shard_idx = self._found.setdefault(name, (kind, where, line["shard_idx"]))
            if first != kind:
                raise EncodeError(
                    f"{where} (shard {line['shard_idx']}): field {name!r} is {kind}, and {first} in {there} (shard "
                    f"{shard_idx}); a field has one type in all samples, or its batches would have several. Let the "
                    "transform make one type of all values, and convert again with mode='overwrite'"
                )


class _UnreadableError(Exception):
    """A segment cannot be read; the shard has to be started again without it."""

    def __init__(self, segment: Segment, error: SourceError) -> None:
        super().__init__(str(error))
        self.segment = segment
        self.error = error


def run_task(spec: JobSpec, task: ShardTask) -> ShardResult:
    """Write one shard.

    The result depends on inputs, configuration and shard number alone. With ``skip_failed``, a segment that fails is
    left out as a whole, so that what a shard holds never depends on how reading was divided into blocks.

    Raises
    ------
    SourceError
        An input cannot be read and ``skip_failed`` is off.
    """
    registry().adopt(list(spec.code_entries))
    name = f"{task.shard_idx}-{secrets.token_hex(4)}"  # a worker that was taken for dead may be writing the shard, too
    if spec.folder is None:
        with tempfile.TemporaryDirectory(prefix="neurofm-shards-") as folder:
            result = _attempted(spec, task, Path(folder) / name)
            return replace(result, staged=name, files=_files_of(Path(folder) / name))
    if not Path(spec.folder).is_dir():
        raise WorkerError(
            f"{socket.gethostname()} does not see {spec.folder}: mount the output folder there, or let workers write "
            "on their own disks and hand shards back, with staging='local'"
        )
    return replace(_attempted(spec, task, Path(spec.folder) / name), staged=name)


def _files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _attempted(spec: JobSpec, task: ShardTask, folder: Path) -> ShardResult:
    """Write a shard into a folder, again without the segments that fail."""
    segments, failures = list(task.segments), list[SegmentFailure]()
    while True:
        try:
            result = _ShardTaskRun(spec, task, folder).run(segments)
        except _UnreadableError as failed:  # noqa: PERF203  (a shard is started again without what failed)
            if not spec.skip_failed:
                raise failed.error from failed.error.__cause__
            segment = failed.segment
            failures.append(SegmentFailure(segment.input_idx, segment.start, segment.stop, str(failed.error)))
            segments.remove(segment)
        else:
            return replace(result, failures=tuple(failures))


class _ShardTaskRun:
    """One attempt at one shard."""

    def __init__(self, spec: JobSpec, task: ShardTask, folder: Path) -> None:
        self._folder = folder
        self._spec = spec
        self._task = task
        self._transforms = _made(spec.transforms)
        self._types = deepcopy(spec.types)  # a task finds the types of its own fields, whatever others find
        self._drops: Counter[tuple[int, str]] = Counter()
        self._counting = ThreadPoolExecutor(1, "shard-statistics")
        self._statistics: list[Future[SessionStats]] = []

    def run(self, segments: Sequence[Segment]) -> ShardResult:
        task, spec = self._task, self._spec
        path = self._folder / spec.names.name(task.shard_idx)
        writer = ShardWriter(path, task.shard_idx, **spec.writer)
        written = 0
        with self._counting:
            try:
                for segment in segments:
                    written += self._write_segment(writer, segment)
                record = writer.close() if written else None
            except BaseException:
                writer.abort()
                raise
        if record is None:
            writer.abort()
        drops = tuple((i, kind, count) for (i, kind), count in self._drops.items())
        statistics = merged(part.result() for part in self._statistics)
        types = self._types.decided() if self._types is not None else {}
        return ShardResult(task.shard_idx, record, statistics, drops, (), types)

    def _write_segment(self, writer: ShardWriter, segment: Segment) -> int:
        written = 0
        rows = rows_per_block(self._spec.columns)
        for start in range(segment.start, segment.stop, rows):
            block = self._block(segment, start, min(start + rows, segment.stop))
            if len(block) == 0:
                continue
            numbers = np.asarray(block.rows, np.int64) + (segment.first - segment.start)
            self._count(block)
            writer.write_block(replace(block, rows=None), numbers)
            written += len(block)
        return written

    def _count(self, block: Block) -> None:
        """Compute statistics beside writing and reading, at most one block behind."""
        if self._statistics:
            self._statistics[-1].result()
        self._statistics.append(self._counting.submit(block_statistics, block, self._quantities(block)))

    def _quantities(self, block: Block) -> list[str]:
        row_numbers = {spec.name for spec in self._spec.columns if spec.table is not None or spec.optional}
        return [name for name, data in block.columns.items() if name not in row_numbers and is_quantity(data)]

    def _block(self, segment: Segment, start: int, stop: int) -> Block:
        task_input = self._task.inputs[segment.input_idx]
        try:
            block = worker_reader().read(task_input.spec, task_input.expected, start, stop)
            block = _placed(block, task_input, self._spec.columns, start, stop)
            for kind, transform in self._transforms:
                before = len(block)
                block = _transformed(block, kind, transform, task_input.spec.input.name)
                if len(block) < before:
                    self._drops[segment.input_idx, kind] += before - len(block)
        except SourceError as error:
            raise _UnreadableError(segment, error) from error
        return self._typed(block, task_input.spec.input.name) if len(block) else block

    def _typed(self, block: Block, name: str) -> Block:
        """Give each field one type, in this shard and all others."""
        if self._types is None:
            return block
        rows = block.rows if block.rows is not None else range(len(block))
        return self._types.block(block, lambda i: f"{name}, sample {int(rows[i])}")

    def first_types(self) -> FieldTypes | None:
        """Return the types that the first samples have."""
        segment = self._task.segments[0]
        rows = min(rows_per_block(self._spec.columns), _UNKNOWN_ROWS)
        self._block(segment, segment.start, min(segment.start + rows, segment.stop))
        return self._types


def first_types(spec: JobSpec, task: ShardTask) -> FieldTypes | None:
    """Return the types that the first samples of a conversion give its fields (runs in a worker)."""
    registry().adopt(list(spec.code_entries))
    try:
        return _ShardTaskRun(spec, task, Path()).first_types()
    except _UnreadableError as failed:
        if spec.skip_failed:
            return spec.types
        raise failed.error from failed.error.__cause__


def _made(configs: Sequence[dict[str, Any]]) -> list[tuple[str, Transform]]:
    return [(str(config["kind"]), registry().transforms.make(config)) for config in configs]


def _transformed(block: Block, kind: str, transform: Transform, name: str) -> Block:
    if len(block) == 0:
        return block
    try:
        return transform.apply_block(block)
    except NeurofmShardsError:
        raise
    except Exception as error:  # a plugin may raise anything
        raise SourceError(f"{name}: transform {kind!r} failed: {type(error).__name__}: {error}") from error


def rows_per_block(columns: Sequence[ColumnSpec]) -> int:
    """Return how many samples to hold in memory at once."""
    size = 0
    if any(spec.optional for spec in columns):  # pieces of recordings, each as large as many windows
        return 1
    for spec in columns:
        if spec.dtype is None:
            continue
        if spec.shape is None or None in spec.shape:
            return _UNKNOWN_ROWS
        size += np.dtype(spec.dtype).itemsize * int(np.prod([n or 1 for n in spec.shape], dtype=np.int64))
    return max(1, BLOCK_BYTES // max(size, 1))


def _placed(block: Block, task_input: TaskInput, columns: Sequence[ColumnSpec], start: int, stop: int) -> Block:
    """Check a source's block, number its rows, and make table rows and session ids those of the data set."""
    name = task_input.spec.input.name
    wanted, optional = {spec.name for spec in columns}, {spec.name for spec in columns if spec.optional}
    if not wanted - optional <= set(block.columns) <= wanted:
        raise SourceError(
            f"{name}: samples {start} to {stop} have columns {sorted(block.columns)}, not {sorted(wanted)}"
        )
    if block.rows is None and len(block) != stop - start:
        raise SourceError(f"{name}: asked for samples {start} to {stop}, its source gave {len(block)}")
    rows = np.arange(start, stop) if block.rows is None else np.asarray(block.rows, np.int64)
    bases = dict(task_input.bases)
    bases_of = {spec.name: bases.get(spec.table or "", 0) for spec in columns}
    columns_now = {name: shifted(block.columns[name], base) for name, base in bases_of.items() if name in block.columns}
    metadata = block.metadata
    if task_input.session_id is not None:
        metadata = [{**item, "session_id": task_input.session_id} for item in metadata]
    return Block(columns_now, metadata, rows, block.keys)


def transformed_columns(plan: ConversionPlan) -> Sequence[ColumnSpec]:
    """Read one sample and say which columns transforms make of it."""
    task = next(iter(plan.tasks()))
    segment = task.segments[0]
    task_input = task.inputs[segment.input_idx]
    name = task_input.spec.input.name
    block = worker_reader().read(task_input.spec, task_input.expected, segment.start, segment.start + 1)
    block = _placed(block, task_input, plan.columns, segment.start, segment.start + 1)
    for kind, transform in _made(plan.config.transforms):
        block = _transformed(block, kind, transform, name)
    return list(fields_of(block).values())
