"""``neurofm-shards demo``: see the whole path work on a made-up session."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neurofm_shards.cli.console import note_console, print_json, result_console
from neurofm_shards.cli.progress import progress_listener
from neurofm_shards.events import ActivityProgressed
from neurofm_shards.plugins.interfaces import Command

if TYPE_CHECKING:
    from neurofm_shards.demo import DecoderResult


class Demo(Command):
    """Makes a session, converts it, and trains a small decoder on it."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("-o", "--output", type=Path, default=Path("neurofm-demo"), help="folder to work in")
        parser.add_argument("--seconds", type=float, default=600.0, help="length of the session (default: 600)")
        parser.add_argument("--steps", type=int, default=400, help="training steps (default: 400)")
        parser.add_argument("--seed", type=int, default=0, help="same seed, same session")
        parser.add_argument("--json", action="store_true", help="machine-readable result")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command; 1 when the decoder is not clearly better than chance."""
        from neurofm_shards import demo  # noqa: PLC0415  (after --help)
        from neurofm_shards.convert.session import convert_inputs  # noqa: PLC0415

        say = note_console()
        session, shards = args.output / "session.nwb", args.output / "shards"
        say.print(f"[bold]1[/bold] writing a made-up session of {args.seconds:g} s: {session}")
        demo.write_session(session, seconds=args.seconds, seed=args.seed)
        say.print(f"[bold]2[/bold] converting it into windows of 1 s, split by time: {shards}")
        convert_inputs([session], shards, demo.OPTIONS, mode="overwrite")
        say.print("[bold]3[/bold] validating the shards")
        findings = _validate(shards)
        if not args.json:
            _summarise(shards)
        say.print("[bold]4[/bold] training a decoder of hand velocity from spike counts")
        result = _train(shards, args.steps, args.seed)
        if args.json:
            print_json({**result.to_json(), "findings": findings})
        else:
            _report(result.r2, result.r2_shuffled, result.train_windows, result.test_windows)
        good = min(result.r2) > max(0.2, *result.r2_shuffled)
        return 0 if good and not findings else 1


def _validate(shards: Path) -> int:
    from neurofm_shards.maintenance.validate import validate_dataset  # noqa: PLC0415

    report = validate_dataset(shards)
    for finding in report.findings:
        note_console().print(f"  {finding.severity} {finding.shard}: {finding.what}", markup=False)
    return len(report.findings)


def _summarise(shards: Path) -> None:
    from neurofm_shards.reading.info import ShardedDatasetInfo  # noqa: PLC0415

    ShardedDatasetInfo(shards).print_summary()


def _train(shards: Path, steps: int, seed: int) -> DecoderResult:
    from neurofm_shards.demo import decode  # noqa: PLC0415

    with progress_listener() as listener:
        return decode(shards, steps=steps, seed=seed, progress=lambda done, total, _: listener(_trained(done, total)))


def _trained(done: int, total: int) -> ActivityProgressed:
    return ActivityProgressed("training", done, total)


def _report(r2: Sequence[float], shuffled: Sequence[float], train: int, test: int) -> None:
    console = result_console()
    console.print(
        f"\nHeld-out R² of hand velocity: [bold green]{r2[0]:.2f}[/bold green] (x), "
        f"[bold green]{r2[1]:.2f}[/bold green] (y)"
    )
    console.print(f"With the spikes of other windows (chance): {shuffled[0]:.2f}, {shuffled[1]:.2f}")
    console.print(f"Trained on {train} windows, tested on {test} later ones that share no time bin with them.")
