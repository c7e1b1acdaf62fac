"""``neurofm-shards demo``: the whole path on a made-up session, with a small decoder tested on unseen time."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurofm_shards.cli.console import note_console, print_json, result_console
from neurofm_shards.cli.progress import progress_listener
from neurofm_shards.events import ActivityProgressed
from neurofm_shards.plugins.interfaces import Command

if TYPE_CHECKING:
    import torch

#: Called with (steps done, steps in all, loss) while training.
Progress = Callable[[int, int, float], None]

#: What the demo asks of a conversion: windows of 1 s, split by time before they are cut.
OPTIONS: Mapping[str, Any] = {
    "format": "nwb",
    "shard_size": 200,
    "windows": {
        "modalities": ["spikes", "lfp", "behavior"],
        "bin_size_ms": 10.0,
        "sequence_length": 100,
        "behavior": [{"path": "hand_velocity"}],
        "label_columns": ["target", "outcome"],
        "split": {"by": "time", "fractions": {"train": 0.8, "test": 0.2}},
    },
}


@dataclass(frozen=True)
class DecoderResult:
    """How well hand velocity was decoded.

    Attributes
    ----------
    r2 : tuple of float
        Coefficient of determination on held-out time, for x and y.
    r2_shuffled : tuple of float
        The same for a decoder that is given the spikes of other windows: what chance gives.
    train_windows, test_windows : int
        Windows in each split.
    steps : int
        Training steps.
    """

    r2: tuple[float, ...]
    r2_shuffled: tuple[float, ...]
    train_windows: int
    test_windows: int
    steps: int

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)


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
        from neurofm_shards.convert.session import convert_inputs  # noqa: PLC0415  (after --help)
        from neurofm_shards_nwb.demo import write_demo_session  # noqa: PLC0415

        say = note_console()
        session, shards = args.output / "session.nwb", args.output / "shards"
        say.print(f"[bold]1[/bold] writing a made-up session of {args.seconds:g} s: {session}")
        session.parent.mkdir(parents=True, exist_ok=True)
        write_demo_session(session, seconds=args.seconds, seed=args.seed)
        say.print(f"[bold]2[/bold] converting it into windows of 1 s, split by time: {shards}")
        convert_inputs([session], shards, OPTIONS, mode="overwrite")
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
        note_console().print(f"  {finding.severity} {finding.where}: {finding.what}", markup=False)
    return len(report.findings)


def _summarise(shards: Path) -> None:
    from neurofm_shards.reading.info import ShardedDatasetInfo  # noqa: PLC0415

    ShardedDatasetInfo(shards).print_summary()


def _train(shards: Path, steps: int, seed: int) -> DecoderResult:
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


def decode(shards: Path, *, steps: int = 400, seed: int = 0, progress: Progress | None = None) -> DecoderResult:
    """Train a small convolutional decoder of hand velocity from spike counts, and test it on held-out time.

    Parameters
    ----------
    shards : Path
        A data set with columns ``spikes`` and ``behavior`` and the splits ``train`` and ``test``.
    steps : int
        Training steps of 32 windows.
    seed : int
        Seed of the initial weights and of the order of samples.
    progress : callable, optional
        Hears of every step.

    Returns
    -------
    DecoderResult
    """
    import torch  # noqa: PLC0415  (not for --help)

    from neurofm_shards.loading.dataloader import create_webdataset_dataloader  # noqa: PLC0415
    from neurofm_shards.reading.collection import ShardCollection  # noqa: PLC0415

    columns = ["spikes", "behavior", "behavior_valid"]
    train = create_webdataset_dataloader(
        shards, batch_size=32, num_workers=2, seed=seed, split="train", columns=columns, drop_last=True
    )
    test = create_webdataset_dataloader(
        shards, batch_size=64, num_workers=0, shuffle=False, split="test", columns=columns
    )
    torch.manual_seed(seed)
    batches = _forever(train)
    model = _model(next(batches)["spikes"].shape[-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with _one_thread():
        for step in range(1, steps + 1):
            batch = next(batches)
            error = (model(batch["spikes"]) - batch["behavior"] / _SCALE)[batch["behavior_valid"]]
            loss = error.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if progress is not None:
                progress(step, steps, loss.item())
    spikes, velocity, valid = (torch.cat([batch[name] for batch in test]) for name in columns)
    with ShardCollection.open(shards) as collection:
        windows = Counter(collection.metadata_table().values("split").tolist())
    with torch.no_grad():
        decoded = model(spikes) * _SCALE
        elsewhere = model(spikes.roll(len(spikes) // 2, 0)) * _SCALE
    return DecoderResult(
        r2=_r2(velocity, decoded, valid),
        r2_shuffled=_r2(velocity, elsewhere, valid),
        train_windows=windows["train"],
        test_windows=windows["test"],
        steps=steps,
    )


#: cm/s; brings velocities near 1, where the optimizer works well.
_SCALE = 10.0


def _model(units: int) -> torch.nn.Module:
    from torch import nn  # noqa: PLC0415

    class Decoder(nn.Module):
        """Counts (batch, time, units) to velocity (batch, time, 2): 8 mixtures of units, each smoothed over 410 ms.

        So few weights that 8 minutes of data cannot be learnt by heart.
        """

        def __init__(self) -> None:
            super().__init__()
            smooth = nn.Conv1d(8, 8, 41, padding=20, groups=8)
            self.layers = nn.Sequential(nn.Conv1d(units, 8, 1), smooth, nn.Conv1d(8, 2, 1))

        def forward(self, counts: torch.Tensor) -> torch.Tensor:
            velocity: torch.Tensor = self.layers(counts.transpose(1, 2)).transpose(1, 2)
            return velocity

    return Decoder()


@contextmanager
def _one_thread() -> Iterator[None]:
    """So small a model is several times slower on all cores than on one, where others use them too."""
    import torch  # noqa: PLC0415

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _forever(loader: Any) -> Any:
    while True:
        yield from loader


def _r2(truth: torch.Tensor, decoded: torch.Tensor, valid: torch.Tensor) -> tuple[float, ...]:
    scores = []
    for axis in range(truth.shape[-1]):
        y, x = truth[..., axis][valid[..., axis]].double(), decoded[..., axis][valid[..., axis]].double()
        scores.append(float(1 - (y - x).square().sum() / (y - y.mean()).square().sum()))
    return tuple(scores)
