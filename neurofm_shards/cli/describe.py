"""``inspect`` and ``info``: what is inside an input file, a data set or a shard."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.tree import Tree

from neurofm_shards.cli.console import COLOURS, print_json, result_console
from neurofm_shards.plugins.interfaces import Command

if TYPE_CHECKING:
    from neurofm_shards.plugins.interfaces import Inspection


class Inspect(Command):
    """Shows what is inside an input, and what is odd about it."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("inputs", nargs="+", metavar="FILE", help="files, folders or patterns")
        parser.add_argument(
            "--format", default="auto", metavar="NAME", help="source plugin (default: found by content)"
        )
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command; 1 when an input cannot be converted."""
        from neurofm_shards.convert.inputs import find_inputs  # noqa: PLC0415  (after --help)
        from neurofm_shards.recordings.inspection import inspect_input  # noqa: PLC0415

        found = [inspect_input(item.source, item.paths) for item in find_inputs(args.inputs, args.format, {})]
        if args.json:
            print_json([_plain(inspection) for inspection in found])
        else:
            for inspection in found:
                _print(inspection)
        return int(any(problem.severity == "error" for inspection in found for problem in inspection.problems))


def _plain(inspection: Inspection) -> dict[str, Any]:
    problems = [
        {"severity": p.severity, "where": p.where, "what": p.what, "consequence": p.consequence}
        for p in inspection.problems
    ]
    return {"title": inspection.title, "tree": inspection.tree, "problems": problems}


def _print(inspection: Inspection) -> None:
    console = result_console()
    tree = Tree(f"[bold]{escape(inspection.title)}[/bold]")
    _grow(tree, inspection.tree)
    console.print(tree)
    if not inspection.problems:
        console.print("no problems found\n")
        return
    console.print(f"[bold]{len(inspection.problems)} problems[/bold]" if len(inspection.problems) > 1 else "1 problem")
    for problem in inspection.problems:
        colour = COLOURS.get(problem.severity, "white")
        console.print(f"  [{colour}]{problem.severity}[/{colour}] [bold]{escape(problem.where)}[/bold]")
        console.print(f"    {problem.what}", markup=False)
        console.print(f"    -> {problem.consequence}\n", markup=False)


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
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command; 1 when inputs failed to convert."""
        from neurofm_shards.reading.info import ShardedDatasetInfo  # noqa: PLC0415  (after --help)

        info = ShardedDatasetInfo(args.path)
        summary = info.get_summary()
        if args.json:
            print_json(summary)
        else:
            info.print_summary(result_console())
        return int(bool(summary["failures"]))
