"""``plan`` and ``shuffle-report``: which samples come when, on which rank and worker."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from neurofm_shards._console import print_table
from neurofm_shards._wording import counted, plural
from neurofm_shards.cli.console import print_json, result_console
from neurofm_shards.errors import ConfigError
from neurofm_shards.plugins.interfaces import Command

if TYPE_CHECKING:
    from neurofm_shards.loading.shuffle_quality import ModeQuality, RankShare
    from neurofm_shards.reading.samples import SampleCollection


def _add_windows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--windows", metavar="JSON|JOB.toml", help="how to cut the recordings that the data set stores, or a job file"
    )


def _opened(args: argparse.Namespace) -> SampleCollection:
    """Open the data set that a command is about, as windows where they are asked for."""
    from neurofm_shards.format.shard_names import DEFAULT_SHARD_PATTERN  # noqa: PLC0415  (after --help)
    from neurofm_shards.loading.datasets import open_shards  # noqa: PLC0415

    windows = args.windows
    if windows is not None and windows.lstrip()[:1] in {"{", "["}:
        try:
            windows = json.loads(windows)
        except ValueError as error:
            raise ConfigError(f"--windows {windows}: not JSON ({error})") from error
    return open_shards(args.folder, DEFAULT_SHARD_PATTERN, "auto", verify=False, windows=windows)


class Plan(Command):
    """Shows what each rank and worker will get."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("folder", help="the data set")
        _add_windows(parser)
        parser.add_argument("--world-size", type=int, default=1, help="number of ranks (default: 1)")
        parser.add_argument("--batch-size", type=int, default=32, help="samples per batch and rank (default: 32)")
        parser.add_argument("-w", "--workers", type=int, default=0, help="workers of each rank (default: 0)")
        parser.add_argument("--shuffle", choices=("none", "local", "global"), default="local", help="order of samples")
        parser.add_argument("--buffer-size", type=int, default=1000, help="samples shuffled together (default: 1000)")
        parser.add_argument(
            "--even", choices=("pad", "drop", "error"), default="pad", help="how ranks share the last batch"
        )
        parser.add_argument("--drop-last", action="store_true", help="leave out a last batch that is not full")
        parser.add_argument("--where", help="samples to use, e.g. 'subject_id == \"M1\"'")
        parser.add_argument("--split", help="named split to use")
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command."""
        from neurofm_shards.loading.plans.options import PlanOptions  # noqa: PLC0415  (after --help)
        from neurofm_shards.loading.plans.plan import SinglePlan  # noqa: PLC0415
        from neurofm_shards.loading.shuffle_quality import plan_report  # noqa: PLC0415
        from neurofm_shards.loading.subsets import select  # noqa: PLC0415

        modes: dict[str, bool | str] = {"none": False, "local": True, "global": "global"}
        with contextlib.closing(_opened(args)) as collection:
            subset = select(collection, where=args.where, keys=None, split=args.split)
            options = PlanOptions(
                shuffle=modes[args.shuffle],
                batch_size=args.batch_size,
                buffer_size=args.buffer_size,
                world_size=args.world_size,
                even=args.even,
                drop_last=args.drop_last,
            )
            plans = [SinglePlan(collection, replace(options, rank=rank), subset) for rank in range(args.world_size)]
            report = plan_report(plans, args.batch_size, args.workers)
        if args.json:
            print_json(asdict(report))
            return 0
        console = result_console()
        console.print(
            f"{counted(report.num_samples, 'sample')} in global batches of {report.global_batch:,} "
            f"({report.world_size} ranks of {report.batch_size}): {report.padded:,} repeated, "
            f"{report.dropped:,} left out"
        )
        print_table(console, ("rank", "batches", "samples", "of them repeated"), map(_rank_row, report.ranks))
        return 0


class ShuffleReport(Command):
    """Reports how random the order of a data set is."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("folder", help="the data set")
        _add_windows(parser)
        parser.add_argument("--buffer-size", type=int, default=1000, help="samples shuffled together (default: 1000)")
        parser.add_argument("--batch-size", type=int, default=32, help="samples per batch (default: 32)")
        parser.add_argument("--seed", type=int, default=42, help="seed of the order (default: 42)")
        parser.add_argument("--epoch", type=int, default=0, help="which epoch (default: 0)")
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command."""
        from neurofm_shards.loading.shuffle_quality import shuffle_report  # noqa: PLC0415  (after --help)

        with contextlib.closing(_opened(args)) as collection:
            report = shuffle_report(collection, args.buffer_size, args.batch_size, seed=args.seed, epoch=args.epoch)
        if args.json:
            print_json(asdict(report))
            return 0
        group = report.grouped_by.removesuffix("_id")
        console = result_console()
        console.print(
            f"{counted(report.num_samples, 'sample')} of {counted(report.num_groups, group)} in "
            f"{counted(report.num_shards, 'shard')}; batches of {report.batch_size}, buffer of {report.buffer_size:,}, "
            f"{counted(report.looked_at, 'sample')} looked at"
        )
        heads = ("shuffle", f"{plural(group)} per batch", "longest run", "neighbours kept", "storage correlation")
        print_table(console, heads, _mode_rows(report.modes))
        return 0


def _rank_row(share: RankShare) -> tuple[Sequence[str], str]:
    """Return a rank's row, and as a note how its batches fall to workers."""
    counts = [f"{share.rank}", f"{share.batches:,}", f"{share.samples:,}", f"{share.padding:,}"]
    return counts, f"batches per worker: {', '.join(map(str, share.worker_batches))}"


def _mode_rows(modes: Sequence[ModeQuality]) -> Iterator[tuple[Sequence[str], str]]:
    """Yield the figures of each mode, and last those of a uniformly random order."""
    for mode in modes:
        figures = (mode.groups_per_batch, mode.longest_run, mode.adjacent_rate, mode.rank_correlation)
        yield _mode_cells(mode.mode, *figures), ""
    random = modes[0]
    yield _mode_cells("(random)", random.expected_groups, random.expected_run, random.expected_adjacent, 0.0), ""


def _mode_cells(name: str, groups: float, run: float, adjacent: float, correlation: float) -> Sequence[str]:
    return name, f"{groups:.1f}", f"{run:.1f}", f"{adjacent:.2f}", f"{correlation:+.3f}"
