"""``status``: how far a conversion is, while it runs and after."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from neurofm_shards._console import print_table
from neurofm_shards._wording import counted, size_text
from neurofm_shards.cli.console import print_json, result_console
from neurofm_shards.convert.progress import duration_text
from neurofm_shards.plugins.interfaces import Command

if TYPE_CHECKING:
    from rich.console import Console

    from neurofm_shards.convert.status import PartStatus, Status

#: More parts than this are summed up by state, but for those that failed.
_MOST_PARTS = 50


class ShowStatus(Command):
    """Shows how far a conversion is."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("folder", help="the output of a conversion")
        parser.add_argument("--watch", action="store_true", help="show it again every few seconds until it is finished")
        parser.add_argument("--every", type=float, default=5.0, metavar="S", help="seconds between two (default: 5)")
        parser.add_argument("--json", action="store_true", help="machine-readable output, one line each with --watch")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command; 1 when a part failed or an input was left out."""
        from neurofm_shards.convert.status import read_status  # noqa: PLC0415  (after --help)

        while True:
            status = read_status(args.folder)
            if args.json:
                print_json(status.to_json())
            else:
                _print(status)
            if not args.watch or status.state == "finished":
                break
            time.sleep(max(args.every, 0.1))
        return int(bool(status.failures) or any(part.state == "failed" for part in status.parts))


def _print(status: Status) -> None:
    console = result_console()
    console.print(_summary(status), markup=False)
    if status.parts:
        _print_parts(console, status.parts)
    for failure in status.failures:
        console.print(f"left out: {failure}", markup=False)


def _summary(status: Status) -> str:
    if status.state == "nothing":
        return f"{status.folder}: no conversion was begun here"
    if status.state == "planning":
        return (
            f"{status.folder}: {status.finished_shards} of {counted(status.total_shards, 'part')} of the planning done"
        )
    done = f"{status.finished_shards:,} of {counted(status.total_shards, 'shard')}"
    held = f"{counted(status.num_samples, 'sample')}, {size_text(status.num_bytes)}"
    speed = f", {status.shards_per_s:.3g} shards/s" if status.shards_per_s else ""
    left = f", about {duration_text(status.remaining_s)} left" if status.remaining_s else ""
    return f"{status.folder}: {status.state}, {done} ({held}){speed}{left}"


def _print_parts(console: Console, parts: tuple[PartStatus, ...]) -> None:
    """Print one row per part, where there are few, and its error below it."""
    shown = parts if len(parts) <= _MOST_PARTS else tuple(part for part in parts if part.state in ("failed", "stopped"))
    if shown:
        print_table(console, ("part", "state", "shards", "host", "job", "shards/s", "last seen"), map(_row, shown))
    if len(shown) < len(parts):
        states = [part.state for part in parts]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        console.print(f"{counted(len(parts), 'part')}: {counts}")


def _row(part: PartStatus) -> tuple[Sequence[str], str]:
    seen = "" if part.last_s is None else f"{duration_text(part.last_s)} ago"
    speed = f"{part.shards_per_s:.3g}" if part.shards_per_s else ""
    shards = f"{part.finished_shards}/{part.total_shards}"
    return (part.part, part.state, shards, part.host, part.job, speed, seen), part.error
