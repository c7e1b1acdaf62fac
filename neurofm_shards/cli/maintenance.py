"""``validate``, ``repair`` and ``index``, ``drop``, ``compact`` and ``merge``: looking after finished data sets."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from neurofm_shards._wording import counted
from neurofm_shards.cli.console import print_json, print_report, result_console
from neurofm_shards.cli.progress import progress_listener
from neurofm_shards.errors import InputNotFoundError, NoShardsError
from neurofm_shards.events import ActivityProgressed
from neurofm_shards.plugins.interfaces import Command

if TYPE_CHECKING:
    from neurofm_shards.maintenance.validate import Report


class Validate(Command):
    """Checks a data set."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("folder", type=Path, help="the data set, or any folder of shards")
        parser.add_argument("-w", "--workers", type=int, help="shards read at once (default: one per processor)")
        parser.add_argument("--json", action="store_true", help="machine-readable report")

    def run(self, args: argparse.Namespace) -> int:
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

    with progress_listener() as listener:
        return validate_dataset(
            folder,
            workers,
            lambda done, total: listener(ActivityProgressed("validating", done, total, "bytes")),
        )


def print_validation(report: Report) -> None:
    """Print what was found and the verdict."""
    print_report(report, "whole and readable" if report.ok else "NOT WHOLE; see the errors above")


class Repair(Command):
    """Rebuilds indexes and manifest, and salvages what is whole."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("folder", type=Path, help="the data set")
        parser.add_argument(
            "--no-keep-originals",
            dest="keep_originals",
            action="store_false",
            help="delete shards that are replaced, instead of keeping them in .neurofm/replaced",
        )
        parser.add_argument("--json", action="store_true", help="machine-readable report")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command; 1 when samples are gone."""
        from neurofm_shards.maintenance.repair import repair  # noqa: PLC0415  (after --help)

        report = repair(args.folder, keep_originals=args.keep_originals)
        if args.json:
            print_json(report.to_json())
        else:
            print_report(report, "whole" if report.ok else "samples are gone or cannot be told; see above")
        return 0 if report.ok else 1


class Index(Command):
    """Builds the indexes of shards that came from elsewhere."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("folder", type=Path, help="folder of shards")
        parser.add_argument("--pattern", default="*.tar*", help="which files are shards (default: *.tar*)")
        parser.add_argument("-w", "--workers", type=int, default=2, help="shards read at once (default: 2)")
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command."""
        from neurofm_shards.format.index_io import load_index  # noqa: PLC0415  (after --help)

        if not args.folder.is_dir():
            raise InputNotFoundError(f"there is no folder {args.folder}")
        paths = sorted(path for path in args.folder.glob(args.pattern) if path.is_file())
        if not paths:
            raise NoShardsError(f"No shards found in {args.folder} matching {args.pattern}")
        indexes = []
        with progress_listener() as listener, ThreadPoolExecutor(max(args.workers, 1)) as pool:
            for index in pool.map(load_index, paths):
                indexes.append(index)
                listener(ActivityProgressed("indexing", len(indexes), len(paths)))
        samples = sum(index.num_samples for index in indexes)
        if args.json:
            print_json({index.shard_name: index.num_samples for index in indexes})
        else:
            result_console().print(f"indexed: {counted(samples, 'sample')} in {counted(len(indexes), 'shard')}")
        return 0


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
        parser.add_argument(
            "--on-different",
            choices=["error", "allow"],
            default="error",
            help="what to do where bins, lengths of windows, rates, or splits of subjects differ (default: error)",
        )
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command."""
        from neurofm_shards.maintenance.merge import merge  # noqa: PLC0415  (after --help)

        summary = merge(args.input, args.output, overwrite=args.overwrite, on_different=args.on_different)
        if args.json:
            print_json(summary)
        else:
            result_console().print(
                f"{counted(summary['total_samples'], 'sample')} of {counted(len(args.input), 'data set')} "
                f"in {counted(summary['total_shards'], 'shard')}: {args.output}"
            )
        return 0
