"""The whole path on one made-up session: write, convert, validate, train a small decoder, test it on unseen time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurofm_shards.plugins.registry import registry

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


def write_session(path: Path, *, seconds: float, seed: int) -> None:
    """Write the example session of whichever plugin reads NWB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    registry().sources.make("nwb").write_example(str(path), seconds=seconds, seed=seed)


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
