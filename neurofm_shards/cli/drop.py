"""``neurofm-shards drop``: withdraw samples from a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from neurofm_shards.cli.output import print_json, result_console


def add_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:  # noqa: ARG001
    """Add the command's arguments."""
    parser.add_argument("folder", help="the data set")
    parser.add_argument("--where", required=True, help="which samples, e.g. 'subject_id == \"M1\"'")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be dropped")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from neurofm_shards.maintenance.drop import drop_samples  # noqa: PLC0415  (after --help)

    result = drop_samples(args.folder, args.where, dry_run=args.dry_run)
    if args.json:
        print_json(result)
        return 0
    verb = "would be dropped" if args.dry_run else "were dropped"
    result_console().print(
        f"{result['dropped']:,} samples {verb}, {result['total_samples']:,} remain; "
        f"{len(result['shards_rewritten']):,} shards rewritten, {len(result['shards_removed']):,} removed"
    )
    return 0
