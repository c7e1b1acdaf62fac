"""``neurofm-shards validate``: check a data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from neurofm_shards.cli.output import note_console, print_json

if TYPE_CHECKING:
    from neurofm_shards.maintenance.validate import Report


def add_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:  # noqa: ARG001
    """Add the command's arguments."""
    parser.add_argument("folder", type=Path, help="the data set, or any folder of shards")
    parser.add_argument("-w", "--workers", type=int, help="shards read at once (default: one per processor)")
    parser.add_argument("--json", action="store_true", help="machine-readable report")


def run(args: argparse.Namespace) -> int:
    """Run the command; 1 when samples are lost, wrong or unreadable."""
    report = check_folder(args.folder, workers=args.workers)
    if args.json:
        print_json(report.to_json())
    else:
        print_validation(report)
    return 0 if report.ok else 1


def check_folder(folder: Path | str, *, workers: int | None = None) -> Report:
    """Validate a data set, with a bar on a terminal."""
    from neurofm_shards.maintenance.validate import validate_dataset  # noqa: PLC0415  (after --help)

    with _progress() as progress:
        return validate_dataset(folder, workers, progress)


def print_validation(report: Report) -> None:
    """Print what was found and the verdict."""
    from neurofm_shards.cli.reporting import print_report  # noqa: PLC0415  (after --help)

    print_report(report, "whole and readable" if report.ok else "NOT WHOLE; see the errors above")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    columns = TextColumn("validating"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=note_console(), transient=True) as bar:
        task = bar.add_task("validating", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
