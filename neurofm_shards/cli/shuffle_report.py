"""``neurofm-shards shuffle-report``: how random the order of a data set is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from neurofm_shards.cli.output import print_json, result_console


def add_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:  # noqa: ARG001
    """Add the command's arguments."""
    parser.add_argument("folder", help="the data set")
    parser.add_argument("--buffer-size", type=int, default=1000, help="samples shuffled together (default: 1000)")
    parser.add_argument("--batch-size", type=int, default=32, help="samples per batch (default: 32)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the order (default: 42)")
    parser.add_argument("--epoch", type=int, default=0, help="which epoch (default: 0)")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from neurofm_shards.loading.shuffle_quality import shuffle_report  # noqa: PLC0415  (after --help)
    from neurofm_shards.reading.collection import ShardCollection  # noqa: PLC0415

    with ShardCollection.open(args.folder) as collection:
        report = shuffle_report(collection, args.buffer_size, args.batch_size, seed=args.seed, epoch=args.epoch)
    if args.json:
        print_json(asdict(report))
        return 0
    groups = f"{report.grouped_by}s"
    console = result_console()
    console.print(
        f"{report.num_samples:,} samples of {report.num_groups:,} {groups} in {report.num_shards:,} shards; batches of "
        f"{report.batch_size}, buffer of {report.buffer_size:,}, {report.looked_at:,} samples looked at"
    )
    table = Table("shuffle", f"{groups} per batch", "longest run", "neighbours alike", "correlation with storage")
    for mode in report.modes:
        table.add_row(
            mode.mode,
            f"{mode.groups_per_batch:.1f} (random: {mode.expected_groups:.1f})",
            f"{mode.longest_run:.1f} (random: {mode.expected_run:.1f})",
            f"{mode.adjacent_rate:.2f} (random: {mode.expected_adjacent:.2f})",
            f"{mode.rank_correlation:+.3f} (random: 0)",
        )
    console.print(table)
    return 0
