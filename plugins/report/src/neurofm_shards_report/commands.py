"""The commands ``report`` and ``show``."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurofm_shards.cli.console import note_console, print_json
from neurofm_shards.errors import ConfigError
from neurofm_shards.plugins.interfaces import Command

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from neurofm_shards.reading.samples import SampleCollection


class Report(Command):
    """``neurofm-shards report DIR|FILE -o report.html``."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("path", help="a folder of shards, a shard, or an input file")
        parser.add_argument(
            "-o", "--output", type=Path, default=Path("report.html"), help="file to write (default: report.html)"
        )
        parser.add_argument(
            "--format",
            default="auto",
            metavar="NAME",
            help="source plugin of an input file (default: found by content)",
        )
        parser.add_argument("--open", action="store_true", help="open the page in a browser")
        parser.add_argument("--json", action="store_true", help="machine-readable result")

    def run(self, args: argparse.Namespace) -> int:
        """Write the page and say where it is."""
        from neurofm_shards_report.reports import report  # noqa: PLC0415  (needs matplotlib)

        path = report(args.path, args.output, format_name=args.format)
        if args.json:
            print_json({"report": str(path), "bytes": path.stat().st_size})
        else:
            note_console().print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)", markup=False)
        if args.open:
            webbrowser.open(path.resolve().as_uri())
        return 0


class Show(Command):
    """``neurofm-shards show DIR KEY|NUMBER ... -o sample.png``."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("path", help="a folder of shards, or a shard")
        parser.add_argument(
            "samples", nargs="+", metavar="KEY|NUMBER", help="keys, or numbers counted from 0 (-1: the last)"
        )
        parser.add_argument(
            "-o", "--output", type=Path, help="PNG, SVG or PDF; several samples are numbered (default: the terminal)"
        )
        parser.add_argument("--columns", nargs="+", metavar="NAME", help="columns to draw (default: all)")
        parser.add_argument("--open", action="store_true", help="open the picture")
        parser.add_argument("--json", action="store_true", help="machine-readable result")

    def run(self, args: argparse.Namespace) -> int:
        """Draw the samples and say where the pictures are."""
        from neurofm_shards_report.show import save_samples, terminal_samples  # noqa: PLC0415  (needs matplotlib)

        if args.output is None:
            if args.open or args.json:
                raise ConfigError("--open and --json need a file: add -o sample.png")
            for text in terminal_samples(args.path, args.samples, args.columns):
                sys.stdout.write(text)
            return 0
        written = save_samples(args.path, args.samples, args.output, args.columns)
        if args.json:
            print_json([{"sample": sample, "file": str(path)} for sample, path in written])
        else:
            for sample, path in written:
                note_console().print(f"{sample}: wrote {path}", markup=False)
        if args.open:
            for _, path in written:
                webbrowser.open(path.resolve().as_uri())
        return 0

    def plot(self, sample: Mapping[str, Any], collection: SampleCollection, **options: Any) -> Figure:
        """Draw a sample in Python; see :func:`neurofm_shards_report.plot_sample`."""
        from neurofm_shards_report.pictures import plot_sample  # noqa: PLC0415  (needs matplotlib)
        from neurofm_shards_report.views import known_of  # noqa: PLC0415  (with the pictures)

        return plot_sample(sample, **{**known_of(collection), **options})
