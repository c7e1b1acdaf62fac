"""``neurofm-shards merge``: join data sets with equal columns."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from neurofm_shards.cli.output import print_json, result_console


def add_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:  # noqa: ARG001
    """Add the command's arguments."""
    parser.add_argument("-i", "--input", nargs="+", required=True, metavar="DIR", help="data sets, in order")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the joined data set")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set that is there")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from neurofm_shards.maintenance.merge import merge  # noqa: PLC0415  (after --help)

    summary = merge(args.input, args.output, overwrite=args.overwrite)
    if args.json:
        print_json(summary)
    else:
        result_console().print(
            f"{summary['total_samples']:,} samples of {len(args.input)} data sets "
            f"in {summary['total_shards']:,} shards: {args.output}"
        )
    return 0
