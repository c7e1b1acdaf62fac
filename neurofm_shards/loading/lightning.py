"""Lightning, resumed in the middle of an epoch with another number of ranks.

Lightning saves how many batches of the epoch a rank had done, and counts on from there to the length of the loader.
With other ranks, or another batch size, the same samples are more or fewer batches: it would end the epoch too early,
or leave out the validation at its end. Lightning takes callbacks for every Trainer from packages that offer them as an
entry point; ours counts the batches again when training starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

_COUNTERS = ("ready", "started", "processed", "completed")


@runtime_checkable
class CountsBatches(Protocol):
    """A loader that knows where it stands; :class:`~neurofm_shards.loading.dataloader.ShardDataLoader` is one."""

    @property
    def batches_behind(self) -> int:
        """Batches of the running epoch that lie behind, counted as this number of ranks would have shared them."""

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""


def for_lightning() -> list[Any]:
    """Return the callbacks for every ``lightning.pytorch.Trainer``."""
    return _callbacks("lightning.pytorch.callbacks")


def for_pytorch_lightning() -> list[Any]:
    """Return the callbacks for every ``pytorch_lightning.Trainer``."""
    return _callbacks("pytorch_lightning.callbacks")


def _callbacks(module: str) -> list[Any]:
    return [import_module(module).LambdaCallback(on_train_start=count_batches_again)]


def count_batches_again(trainer: Any, module: Any) -> None:  # noqa: ARG001  (what Lightning gives to a callback)
    """Let Lightning's count of the epoch's batches say what the loader's state says.

    Parameters
    ----------
    trainer : lightning.pytorch.Trainer
        Its loaders have their states, and its loops have not begun.
    module : lightning.pytorch.LightningModule
        Not used.
    """
    loops = trainer.fit_loop.epoch_loop
    loaders = [each for each in _leaves(trainer.train_dataloader) if isinstance(each, CountsBatches)]
    length = trainer.num_training_batches
    done = loops.batch_progress.current.completed + bool(getattr(loops, "restarted_on_train_batch_end", False))
    if not loops.restarting or not loaders or not done:
        return
    loader = min(loaders, key=lambda each: abs(len(each) - length))
    over = loops.batch_progress.is_last_batch or not loader.batches_behind
    counted = length if over else min(loader.batches_behind, length)
    for counter in _COUNTERS:
        before = getattr(loops.batch_progress.current, counter)
        setattr(loops.batch_progress.current, counter, before + counted - done)


def _leaves(loaders: Any) -> Iterator[Any]:
    """Iterate over the loaders of a Trainer, which may lie in lists and dicts."""
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, Sequence):
        for each in loaders:
            yield from _leaves(each)
    else:
        yield loaders
