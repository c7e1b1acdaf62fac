"""``neurofm-shards info``: what a data set or a shard holds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from neurofm_shards.cli.output import print_json, result_console


def add_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:  # noqa: ARG001
    """Add the command's arguments."""
    parser.add_argument("path", help="a folder of shards, or one shard")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    """Run the command; 1 when inputs failed to convert."""
    from neurofm_shards.reading.info import ShardedDatasetInfo  # noqa: PLC0415  (after --help)

    info = ShardedDatasetInfo(args.path)
    summary = info.get_summary()
    if args.json:
        print_json(summary)
    else:
        info.print_summary(result_console())
    return int(bool(summary["failures"]))
