"""An iterable data set that writes checkpoints by itself and continues from them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import get_worker_info

from neurofm_shards.errors import ConfigError
from neurofm_shards.format.files import remove_stale_partials
from neurofm_shards.loading.loaders import WebDatasetLoader
from neurofm_shards.loading.state import LoaderState, read_state, save_state


class ResumableWebDatasetLoader(WebDatasetLoader):
    """A :class:`~neurofm_shards.loading.loaders.WebDatasetLoader` that survives its process.

    A new object continues exactly behind the last checkpoint. Checkpoints are written every ``checkpoint_interval``
    samples, when the loop is left by ``break`` or an exception, and at the end of an epoch, which then resumes at the
    next one. They hold the samples that were handed over, the one in the loop's hands included.

    Parameters
    ----------
    shard_dir : path-like
        Folder of shards.
    checkpoint_path : path-like or None
        The checkpoint file, written atomically; None switches checkpoints off. With several ranks, each needs a path
        of its own.
    checkpoint_interval : int
        Samples between checkpoints.
    **options
        See :class:`~neurofm_shards.loading.loaders.WebDatasetLoader`.

    Raises
    ------
    StateError
        The file is torn, is no checkpoint, or belongs to another data set or other settings.
    """

    def __init__(
        self,
        shard_dir: str | os.PathLike[str],
        checkpoint_path: str | os.PathLike[str] | None = None,
        checkpoint_interval: int = 1000,
        **options: Any,
    ) -> None:
        if checkpoint_interval < 1:
            raise ConfigError(f"checkpoint_interval is {checkpoint_interval}; it must be at least 1")
        super().__init__(shard_dir, **options)
        self.checkpoint_path = None if checkpoint_path is None else Path(checkpoint_path)
        self.checkpoint_interval = checkpoint_interval
        self.load_checkpoint()
        if self.checkpoint_path is not None:
            remove_stale_partials(self.checkpoint_path.parent, glob.escape(self.checkpoint_path.name))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over one epoch, or what is left of it."""
        if get_worker_info() is not None:
            raise ConfigError(
                "ResumableWebDatasetLoader cannot be used with DataLoader workers: several processes would write one "
                "checkpoint. Use create_webdataset_dataloader(shard_dir, num_workers=...) and save its state_dict(), "
                "or DataLoader(..., num_workers=0)"
            )
        return super().__iter__() if self.checkpoint_path is None else self._with_checkpoints()

    def _with_checkpoints(self) -> Iterator[dict[str, Any]]:
        samples = super().__iter__()
        try:
            for number, sample in enumerate(samples, 1):
                if number % self.checkpoint_interval == 0:
                    self.save_checkpoint()
                yield sample
        finally:
            self.save_checkpoint()

    def save_checkpoint(self) -> None:
        """Write the checkpoint now. Without a checkpoint path, nothing happens."""
        if self.checkpoint_path is not None:
            self.checkpoint_path.parent.mkdir(parents=True, exist_ok=True)
            save_state(self.checkpoint_path, LoaderState.from_dict(self.state_dict()))

    def load_checkpoint(self) -> bool:
        """Continue where the checkpoint file says; return False where there is none yet.

        Raises
        ------
        StateError
            See the class.
        """
        if self.checkpoint_path is None:
            return False
        try:
            state = read_state(self.checkpoint_path)
        except FileNotFoundError:
            return False
        self.load_state_dict(state.to_dict())
        return True
