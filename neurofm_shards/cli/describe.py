"""``inspect``, ``info`` and ``status``: what is inside an input, a data set or a shard, and how far a conversion is."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.tree import Tree

from neurofm_shards._console import print_table
from neurofm_shards._wording import counted, listed, size_text
from neurofm_shards.cli.console import COLOURS, has_blocks, print_json, result_console
from neurofm_shards.cli.options import given_source, in_flags, source_flags, source_names
from neurofm_shards.convert.progress import duration_text
from neurofm_shards.plugins.interfaces import Command

if TYPE_CHECKING:
    from rich.console import Console

    from neurofm_shards.cli.main import Early
    from neurofm_shards.convert.status import PartStatus, Status
    from neurofm_shards.plugins.interfaces import Inspection
    from neurofm_shards.recordings.inspection import StreamRow

#: More parts than this are summed up by state, but for those that failed.
_MOST_PARTS = 50


class Inspect(Command):
    """Shows what is inside an input, and what is odd about it."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("inputs", nargs="+", metavar="FILE", help="files, folders or patterns")
        parser.add_argument(
            "--format", default="auto", metavar="NAME", help="source plugin (default: found by content)"
        )
        parser.add_argument("--all", action="store_true", help="print every fact of every stream")
        parser.add_argument("--json", action="store_true", help="machine-readable output")
        early: Early | None = parser.get_default("early")
        sources = source_flags(source_names(early.words, early.format or "auto") if early is not None else ())
        parser.set_defaults(sources=sources)
        for name, flags in sources.items():
            flags.add_to(parser.add_argument_group(f"source {name}"))
        if not sources:
            parser.epilog = "Options of a source (--reader of NWB files) are understood when an input names it."

    def run(self, args: argparse.Namespace) -> int:
        """Run the command; 1 when an input cannot be converted."""
        from neurofm_shards.convert.inputs import find_inputs  # noqa: PLC0415  (after --help)
        from neurofm_shards.recordings.inspection import inspect_input  # noqa: PLC0415

        options = given_source(args.sources, args)
        found = [inspect_input(item.source, item.paths) for item in find_inputs(args.inputs, args.format, options)]
        if args.json:
            print_json([_to_json(inspection) for inspection in found])
        else:
            for inspection in found:
                _print(inspection, everything=args.all)
        return int(any(problem.severity == "error" for inspection in found for problem in inspection.problems))


def _to_json(inspection: Inspection) -> dict[str, Any]:
    problems = [
        {"severity": p.severity, "where": p.where, "what": p.what, "consequence": p.consequence}
        for p in inspection.problems
    ]
    return {"title": inspection.title, "tree": inspection.tree, "problems": problems}


def _print(inspection: Inspection, *, everything: bool) -> None:
    console = result_console()
    if everything:
        tree = Tree(f"[bold]{escape(inspection.title)}[/bold]")
        _grow(tree, inspection.tree)
        console.print(tree)
    else:
        console.print(f"[bold]{escape(inspection.title)}[/bold]")
        console.print(_session_line(inspection), markup=False)
        _print_streams(console, inspection)
    _print_problems(console, inspection)


def _session_line(inspection: Inspection) -> str:
    """Return who, what and how long in one line."""
    session, time = inspection.tree.get("session") or {}, inspection.tree.get("time") or {}
    said = [
        str(session[name])
        for name in ("session_id", "subject_id", "species", "session_start_time")
        if session.get(name)
    ]
    said += (
        [f"{time['seconds']:,.1f} s ({time['start_s']:,.1f} to {time['stop_s']:,.1f} s)"] if "seconds" in time else []
    )
    said += [counted(inspection.tree["samples"], "sample")] if "samples" in inspection.tree else []
    return "  |  ".join(said) or "nothing is known of the session"


def _print_streams(console: Console, inspection: Inspection) -> None:
    from neurofm_shards.recordings.inspection import grouped, stream_rows  # noqa: PLC0415  (after --help)

    rows = stream_rows(inspection)
    shown = grouped(rows)
    if not shown:
        console.print("no streams of data")
        return
    cells = [((row.name, row.modality, row.size, row.rate, row.unit), row.notes) for row in shown]
    print_table(console, ("stream", "kind", "size", "rate", "unit"), cells)
    _print_strips(console, rows)


def _print_strips(console: Console, rows: Sequence[StreamRow]) -> None:
    """Print when each modality was recorded, as one strip each."""
    timed = [
        (row.modality, row.first_s, row.last_s) for row in rows if row.first_s is not None and row.last_s is not None
    ]
    if not timed:
        return
    start, stop = min(first for _, first, _ in timed), max(last for _, _, last in timed)
    modalities = list(dict.fromkeys(modality for modality, _, _ in timed))
    label = max(map(len, modalities))
    width = max(10, min(console.width, 100) - label - 4)
    for modality in modalities:
        cells = [False] * width
        for _, first, last in (span for span in timed if span[0] == modality):
            scale = width / ((stop - start) or 1.0)
            low, high = int((first - start) * scale), math.ceil((last - start) * scale - 0.05)
            for cell in range(min(low, width - 1), max(low + 1, high)):
                cells[min(cell, width - 1)] = True
        full, empty = ("█", "·") if has_blocks(console) else ("#", ".")
        console.print(f"{modality:>{label}} |{''.join(full if cell else empty for cell in cells)}|", markup=False)
    console.print(
        f"{'':>{label}}  {start:<,.1f} s{f'{stop:,.1f} s':>{max(0, width - len(f'{start:<,.1f} s'))}}", markup=False
    )


def _print_problems(console: Console, inspection: Inspection) -> None:
    """Print problems, equal ones together, the gravest first."""
    if not inspection.problems:
        console.print("no problems found\n")
        return
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for problem in inspection.problems:
        kinds.setdefault((problem.severity, problem.what, problem.consequence), []).append(problem.where)
    for severity, what, consequence in sorted(kinds, key=lambda kind: list(reversed(COLOURS)).index(kind[0])):
        places = list(dict.fromkeys(kinds[severity, what, consequence]))
        colour = COLOURS[severity]
        console.print(
            f"[{colour}]{severity}[/{colour}] [bold]{escape(listed(places, 3))}[/bold]: {escape(in_flags(what))}"
        )
        console.print(f"  -> {in_flags(consequence)}", markup=False)
    console.print()


def _grow(tree: Tree, branch: dict[str, Any]) -> None:
    for name, value in branch.items():
        if isinstance(value, dict):
            _grow(tree.add(f"[bold cyan]{escape(name)}[/bold cyan]"), value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            twig = tree.add(f"[bold cyan]{escape(name)}[/bold cyan]")
            for number, item in enumerate(value):
                _grow(twig.add(str(number)), item)
        else:
            text = " x ".join(map(str, value)) if name == "shape" else str(value)
            tree.add(f"{escape(name)}: {escape(text)}")


class Info(Command):
    """Summarises a data set or a single shard."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("path", help="a folder of shards, or one shard")
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="machine-readable output")
        form.add_argument("--croissant", action="store_true", help="Croissant metadata, as publishers of data ask for")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command; 1 when inputs failed to convert."""
        from neurofm_shards.reading.info import ShardedDatasetInfo  # noqa: PLC0415  (after --help)

        info = ShardedDatasetInfo(args.path)
        if args.croissant:
            print_json(info.croissant())
            return 0
        summary = info.get_summary()
        if args.json:
            print_json(summary)
        else:
            info.print_summary(result_console())
        return int(bool(summary["failures"]))


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
                _print_status(status)
            if not args.watch or status.state == "finished":
                break
            time.sleep(max(args.every, 0.1))
        return int(bool(status.failures) or any(part.state == "failed" for part in status.parts))


def _print_status(status: Status) -> None:
    console = result_console()
    console.print(_status_line(status), markup=False)
    if status.parts:
        _print_parts(console, status.parts)
    for failure in status.failures:
        console.print(f"left out: {failure}", markup=False)


def _status_line(status: Status) -> str:
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
        print_table(console, ("part", "state", "shards", "host", "job", "shards/s", "last seen"), map(_part_row, shown))
    if len(shown) < len(parts):
        states = [part.state for part in parts]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        console.print(f"{counted(len(parts), 'part')}: {counts}")


def _part_row(part: PartStatus) -> tuple[Sequence[str], str]:
    seen = "" if part.last_s is None else f"{duration_text(part.last_s)} ago"
    speed = f"{part.shards_per_s:.3g}" if part.shards_per_s else ""
    shards = f"{part.finished_shards}/{part.total_shards}"
    return (part.part, part.state, shards, part.host, part.job, speed, seen), part.error
