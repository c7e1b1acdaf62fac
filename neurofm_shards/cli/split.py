"""``split``: a finished data set is divided into train, validation and test."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from neurofm_shards._wording import counted
from neurofm_shards.cli.console import note_console, print_json, print_note, result_console
from neurofm_shards.errors import ConfigError
from neurofm_shards.plugins.interfaces import Command
from neurofm_shards.recordings.options import DEFAULT_FRACTIONS

if TYPE_CHECKING:
    from neurofm_shards.expressions import Columns
    from neurofm_shards.loading.subsets import Splits
    from neurofm_shards.reading.collection import ShardCollection

T = TypeVar("T")
_HEADS = ("split", "samples", "share", "asked for", "sessions", "subjects")


class Split(Command):
    """Divides a data set into splits and saves them with it."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("folder", help="the data set")
        parser.add_argument(
            "--by",
            choices=("session", "subject", "trial", "time"),
            default="session",
            help="what is kept together; time: each session is cut into one stretch per split (default: session)",
        )
        shares = " ".join(f"{name}={share}" for name, share in DEFAULT_FRACTIONS.items())
        _add_pairs(parser, "--fractions", "SPLIT=SHARE", f"share of the samples of each split (default: {shares})")
        _add_pairs(parser, "--named", "SPLIT=ID", "sessions or subjects that belong to a split in any case")
        parser.add_argument(
            "--seed", type=int, default=0, help="decides between divisions that are equally good (default: 0)"
        )
        parser.add_argument(
            "--purge",
            type=float,
            default=1.0,
            help="by trial and time: gap between splits of one session, in window lengths (default: 1)",
        )
        parser.add_argument(
            "--by-hash", action="store_true", help="by a hash of each id, whatever its size; more data moves none"
        )
        there = parser.add_mutually_exclusive_group()
        there.add_argument("--overwrite", action="store_true", help="divide anew what is in splits already")
        there.add_argument(
            "--extend", action="store_true", help="leave sessions or subjects that are in splits, and divide the others"
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what would be where")
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command."""
        from neurofm_shards.loading.subsets import TableColumns, check_has_samples, save_splits  # noqa: PLC0415
        from neurofm_shards.reading.collection import ShardCollection  # noqa: PLC0415  (after --help)

        with ShardCollection.open(args.folder) as collection:
            check_has_samples(collection)
            columns = TableColumns(collection.metadata_table())
            found = _divided(args, collection, columns)
            described = _described(found, columns)
        path = None if args.dry_run else str(save_splits(args.folder, found))
        if args.json:
            print_json({"by": args.by, **described, "saved": path})
        else:
            _show(described, args.folder, path)
        return 0


def _add_pairs(parser: argparse.ArgumentParser, flag: str, metavar: str, text: str) -> None:
    parser.add_argument(flag, nargs="+", action="extend", default=[], metavar=metavar, help=text)


def _divided(args: argparse.Namespace, collection: ShardCollection, columns: Columns) -> Splits:
    from neurofm_shards.loading.splits import check_subjects, divided, groups_of  # noqa: PLC0415  (after --help)
    from neurofm_shards.loading.subsets import known_splits  # noqa: PLC0415

    fractions = {name: sum(shares) for name, shares in _pairs("--fractions", args.fractions, float).items()}
    named = _pairs("--named", args.named, str)
    there = known_splits(collection)
    if there and not (args.overwrite or args.extend):
        counts = ", ".join(f"{name} {len(rows):,}" for name, rows in there.items())
        raise ConfigError(
            f"{args.folder} is split already ({counts}): --extend leaves what is in a split and divides the rest, "
            "--overwrite divides all samples anew"
        )
    doubt = check_subjects(columns, collection.manifest) if args.by == "subject" else ""
    for name, groups in groups_of(columns, args.by, there).items() if args.extend else ():
        named[name] = list(dict.fromkeys([*groups, *named.get(name, ())]))
    found = divided(
        columns,
        args.by,
        fractions or DEFAULT_FRACTIONS,
        args.seed,
        named=named,
        purge=args.purge,
        column=None,
        balanced=not args.by_hash,
    )
    return replace(found, notes=(doubt, *found.notes)) if doubt else found


def _pairs(flag: str, words: Sequence[str], read: Callable[[str], T]) -> dict[str, list[T]]:
    """Return the values of each name in words like ``NAME=VALUE``."""
    found: dict[str, list[T]] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found.setdefault(name, []).append(read(value))
        except ValueError:
            value = ""
        if not name or not value:
            raise ConfigError(f"{flag} {word}: write {'train=0.8' if read is float else 'test=mouse7'}")
    return found


def _described(found: Splits, columns: Columns) -> dict[str, Any]:
    """Return the contents of each split as JSON values."""
    counts, shares = found.counts(), found.shares()
    return {
        "splits": {
            name: {
                "samples": counts[name],
                "share": shares[name],
                "asked": found.fractions.get(name),
                **{f"{kind}s": _distinct(columns, f"{kind}_id", rows) for kind in ("session", "subject")},
            }
            for name, rows in found.rows.items()
        },
        "dropped": dict(found.dropped),
        "notes": list(found.notes),
    }


def _distinct(columns: Columns, name: str, rows: Any) -> int | None:
    if name not in columns:
        return None
    return len({value for value in columns[name][rows].tolist() if value})


def _show(described: Mapping[str, Any], folder: str, path: str | None) -> None:
    from neurofm_shards._console import print_table  # noqa: PLC0415  (rich)

    console = result_console()
    print_table(console, _HEADS, [(_row(name, said), "") for name, said in described["splits"].items()])
    for reason, count in described["dropped"].items():
        console.print(f"{counted(count, 'sample')} in no split: {reason}", markup=False)
    for note in described["notes"]:
        print_note(note_console(), note, "warning")
    saved = f"saved in {path}: split={next(iter(described['splits']))!r} selects one when {folder} is loaded"
    console.print(saved if path is not None else "nothing was saved", markup=False)


def _row(name: str, said: Mapping[str, Any]) -> tuple[str, ...]:
    asked = "" if said["asked"] is None else f"{said['asked']:.1%}"
    groups = ("" if said[kind] is None else f"{said[kind]:,}" for kind in ("sessions", "subjects"))
    return (name, f"{said['samples']:,}", f"{said['share']:.1%}", asked, *groups)
