"""What ``convert`` shows: progress on stderr, results on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from neurofm_shards.cli.output import note_console, print_json, result_console
from neurofm_shards.convert.progress import Observer

if TYPE_CHECKING:
    from neurofm_shards.convert.planning import ConversionPlan, InputPlan

#: Seconds between two plain lines.
_LINE_EVERY_S = 5.0


@contextmanager
def progress_observer() -> Iterator[Observer]:
    """Give an observer that draws bars on a terminal and prints plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=note_console(), transient=True) as progress:
        yield _Bars(progress)


class _Bars(Observer):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._inputs = progress.add_task("inputs", total=None, visible=False)
        self._shards = progress.add_task("shards", total=None, visible=False)

    def planning(self, total: int) -> None:
        self._progress.update(self._inputs, total=total, visible=True)

    def planned(self, item: InputPlan) -> None:
        self._progress.advance(self._inputs)
        for line in _notes(item):
            self._progress.console.print(line, markup=False)

    def started(self, plan: ConversionPlan, finished_shards: int) -> None:
        self._progress.update(self._shards, total=plan.total_shards, completed=finished_shards, visible=True)
        for line in _split_notes(plan.splits):
            self._progress.console.print(line, markup=False)

    def shard(self, line: Mapping[str, Any]) -> None:
        self._progress.advance(self._shards)
        for failure in line["failures"]:
            self._progress.console.print(f"left out: {failure['error']}", markup=False)


class _Lines(Observer):
    def __init__(self) -> None:
        self._last = time.monotonic()
        self._done = 0
        self._total = 0

    def planned(self, item: InputPlan) -> None:
        for line in _notes(item):
            _note(line)

    def started(self, plan: ConversionPlan, finished_shards: int) -> None:
        self._done, self._total = finished_shards, plan.total_shards
        again = f", {finished_shards} of them already there" if finished_shards else ""
        _note(f"{len(plan.inputs)} inputs, {plan.total_samples} samples, {plan.total_shards} shards{again}")
        for line in _split_notes(plan.splits):
            _note(line)

    def shard(self, line: Mapping[str, Any]) -> None:
        self._done += 1
        for failure in line["failures"]:
            _note(f"left out: {failure['error']}")
        if time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            _note(f"{self._done} of {self._total} shards")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201  (plain lines for logs)


def _notes(item: InputPlan) -> list[str]:
    if item.plan is None:
        return [f"left out: {item.error}"]
    empty = [] if item.num_samples else [item.without_samples]
    return empty + [
        f"{item.name}: {problem.where}: {problem.what}; {problem.consequence}"
        for problem in item.plan.problems
        if problem.severity != "info"
    ]


def _split_notes(splits: Mapping[str, int]) -> list[str]:
    """Say how windows are divided, and which splits get none."""
    if not splits:
        return []
    told = ["splits: " + ", ".join(f"{name} {count:,}" for name, count in splits.items())]
    empty = ", ".join(name for name, count in splits.items() if not count)
    if empty:
        told.append(
            f"no samples for {empty}: with few inputs, whole sessions or subjects are too large for small shares "
            "(choose another --split), or windows were dropped (--dry-run says which)"
        )
    return told


def print_summary(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a conversion made."""
    if as_json:
        print_json(dict(result))
        return
    console = result_console()
    console.print(
        f"{result['total_samples']:,} samples in {result['total_shards']:,} shards ({_size(result['total_bytes'])}), "
        f"columns {', '.join(result['modalities'])}, in {result['output_dir']}",
        markup=False,
    )
    for failure in result["failures"]:
        console.print(f"failed: {failure['files'][0]}: {failure['error']}", markup=False)


def print_preview(described: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a conversion would make."""
    if as_json:
        print_json(dict(described))
        return
    console = result_console()
    inputs = Table(title="Inputs", title_justify="left")
    for column in ("input", "format", "session", "samples", "dropped"):
        inputs.add_column(column, overflow="fold")
    for item in described["inputs"]:
        inputs.add_row(*_input_row(item))
    console.print(inputs)
    columns = Table(title="Columns", title_justify="left")
    for column in ("name", "dtype", "shape of one sample", "unit"):
        columns.add_column(column, overflow="fold")
    for column in described["columns"]:
        shape = "" if column["shape"] is None else ", ".join("?" if n is None else str(n) for n in column["shape"])
        columns.add_row(column["name"], column["dtype"] or "JSON", f"({shape})", column["unit"] or "")
    console.print(columns)
    for line in _split_notes(described["splits"]):
        console.print(line, markup=False)
    console.print(
        f"{described['total_samples']:,} samples in {described['total_shards']:,} shards, "
        f"about {_size(described['estimated_bytes'])} before compression",
        markup=False,
    )


def _input_row(item: Mapping[str, Any]) -> tuple[str, ...]:
    more = f" and {len(item['files']) - 1} more" if len(item["files"]) > 1 else ""
    name = escape(item["files"][0] + more)
    if "error" in item:
        return name, item["format"], "", "failed", escape(item["error"])
    drops = "\n".join(f"{count:,} {reason}" for reason, count in item["drops"].items())
    return name, item["format"], escape(item["session_id"]), f"{item['num_samples']:,}", escape(drops)


def _size(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
