"""``neurofm-shards index``: indexes of shards that came from elsewhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from neurofm_shards.cli.output import note_console, print_json, result_console
from neurofm_shards.errors import InputNotFoundError, NoShardsError


def add_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:  # noqa: ARG001
    """Add the command's arguments."""
    parser.add_argument("folder", type=Path, help="folder of shards")
    parser.add_argument("--pattern", default="*.tar*", help="which files are shards (default: *.tar*)")
    parser.add_argument("-w", "--workers", type=int, default=2, help="shards read at once (default: 2)")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.progress import track  # noqa: PLC0415  (after --help)

    from neurofm_shards.format.index_io import load_index  # noqa: PLC0415  (after --help)

    if not args.folder.is_dir():
        raise InputNotFoundError(f"there is no folder {args.folder}")
    paths = sorted(path for path in args.folder.glob(args.pattern) if path.is_file())
    if not paths:
        raise NoShardsError(f"No shards found in {args.folder} matching {args.pattern}")
    with ThreadPoolExecutor(max(args.workers, 1)) as pool:
        found = pool.map(load_index, paths)
        hidden = not sys.stderr.isatty()
        indexes = list(track(found, "indexing", len(paths), console=note_console(), transient=True, disable=hidden))
    samples = sum(index.num_samples for index in indexes)
    if args.json:
        print_json({index.shard_name: index.num_samples for index in indexes})
    else:
        result_console().print(f"{samples:,} samples in {len(indexes):,} shards are indexed")
    return 0
