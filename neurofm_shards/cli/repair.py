"""``neurofm-shards repair``: rebuild indexes and manifest, salvage what is whole."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from neurofm_shards.cli.output import print_json
from neurofm_shards.cli.reporting import print_report


def add_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:  # noqa: ARG001
    """Add the command's arguments."""
    parser.add_argument("folder", type=Path, help="the data set")
    parser.add_argument("--json", action="store_true", help="machine-readable report")


def run(args: argparse.Namespace) -> int:
    """Run the command; 1 when samples are gone."""
    from neurofm_shards.maintenance.repair import repair  # noqa: PLC0415  (after --help)

    report = repair(args.folder)
    if args.json:
        print_json(report.to_json())
    else:
        print_report(report, "whole" if report.ok else "whole again, but samples are gone; see above")
    return 0 if report.ok else 1
