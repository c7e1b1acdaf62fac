"""``drop``, ``compact`` and ``merge``: data sets that are made from others."""

from __future__ import annotations

import argparse

from neurofm_shards._wording import counted
from neurofm_shards.cli.console import print_json, result_console
from neurofm_shards.plugins.interfaces import Command


class Drop(Command):
    """Withdraws samples from a data set."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("folder", help="the data set")
        parser.add_argument("--where", required=True, help="which samples, e.g. 'subject_id == \"M1\"'")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be dropped")
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command."""
        from neurofm_shards.maintenance.drop import drop_samples  # noqa: PLC0415  (after --help)

        result = drop_samples(args.folder, args.where, dry_run=args.dry_run)
        if args.json:
            print_json(result)
            return 0
        verb = "would be dropped" if args.dry_run else "were dropped"
        console = result_console()
        console.print(
            f"{counted(result['dropped'], 'sample')} {verb}, {result['total_samples']:,} remain; "
            f"{counted(len(result['shards_rewritten']), 'shard')} rewritten, {len(result['shards_removed']):,} removed"
        )
        for name in result.get("failures_left", ()):
            console.print(f"an input that was not converted stays named in the manifest: {name}", markup=False)
        for name in result.get("still_named_in", ()):
            console.print(f"the manifest's {name!r} still names what was dropped; look at it", markup=False)
        return 0


class Compact(Command):
    """Joins neighbouring shards that are not full."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("folder", help="the data set")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command."""
        from neurofm_shards.maintenance.compact import compact  # noqa: PLC0415  (after --help)

        result = compact(args.folder, dry_run=args.dry_run)
        if args.json:
            print_json(result)
            return 0
        verb = "would become" if args.dry_run else "became"
        result_console().print(
            f"{counted(result['shards_before'], 'shard')} {verb} {result['shards_after']:,}; "
            f"{len(result['shards_rewritten']):,} rewritten, with {counted(result['samples_rewritten'], 'sample')}"
        )
        return 0


class Merge(Command):
    """Joins data sets with equal columns."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("-i", "--input", nargs="+", required=True, metavar="DIR", help="data sets, in order")
        parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the joined data set")
        parser.add_argument("--overwrite", action="store_true", help="replace a data set that is there")
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command."""
        from neurofm_shards.maintenance.merge import merge  # noqa: PLC0415  (after --help)

        summary = merge(args.input, args.output, overwrite=args.overwrite)
        if args.json:
            print_json(summary)
        else:
            result_console().print(
                f"{counted(summary['total_samples'], 'sample')} of {counted(len(args.input), 'data set')} "
                f"in {counted(summary['total_shards'], 'shard')}: {args.output}"
            )
        return 0
