"""Where a loader stands, and where its next iteration starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.plans.plan import EpochPlan
from neurofm_shards.loading.ranks import Ranks, confirm
from neurofm_shards.loading.state import LoaderState


class Epochs(Protocol):
    """Holds the epoch of the next iteration."""

    upcoming: int

    def everywhere(self, epoch: int) -> None:
        """Set the next epoch for all who share this."""


class OwnEpochs:
    """An epoch counter of one process."""

    def __init__(self) -> None:
        self.upcoming = 0

    def everywhere(self, epoch: int) -> None:
        """Set the next epoch."""
        self.upcoming = epoch


class Cursor:
    """Epoch and position of a loader.

    Each iteration is one epoch; the next one is the next epoch, from its start. A loaded state is where the next
    iteration starts.

    Parameters
    ----------
    plan : EpochPlan
        What is iterated.
    place : Ranks
        The rank that the plan was made for.
    epochs : Epochs, optional
        Where the next epoch is kept; by default here.
    """

    def __init__(self, plan: EpochPlan, place: Ranks, epochs: Epochs | None = None) -> None:
        self._plan = plan
        self._place = place
        self._epochs = OwnEpochs() if epochs is None else epochs
        self._iteration = 0
        self._offset = 0
        self._now: tuple[int, int] | None = None
        self._process = os.getpid()

    @property
    def standing(self) -> tuple[int, int]:
        """Epoch and position: behind the last delivered sample, or where the next iteration starts."""
        if self._now is None or self._process != os.getpid():  # a forked child's iterations are its own
            return self._epochs.upcoming, self._offset
        return self._now

    @property
    def epoch(self) -> int:
        """The epoch that is running, or comes next where none has begun."""
        return self.standing[0]

    def begin(self) -> tuple[int, int, int]:
        """Begin an iteration; return its number, its epoch and the position it starts at.

        Raises
        ------
        ConfigError
            This process became another rank since.
        """
        confirm(self._place)
        self._iteration += 1
        self._process = os.getpid()
        self._now = epoch, position = self._epochs.upcoming, self._offset
        self._epochs.upcoming, self._offset = epoch + 1, 0
        return self._iteration, epoch, position

    def move(self, iteration: int, position: int) -> None:
        """Say that the samples before ``position`` are with the caller; an iteration that was superseded is ignored."""
        if iteration == self._iteration and self._now is not None:
            self._now = (self._now[0], position)

    def set_epoch(self, epoch: int) -> None:
        """Choose the next iteration's epoch; a loaded position inside that very epoch is kept."""
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise ConfigError(f"epoch {epoch!r}: epochs are whole numbers that count from 0")
        self._start_at(epoch, self._offset if self._epochs.upcoming == epoch else 0)
        self._epochs.everywhere(epoch)

    def state(self) -> LoaderState:
        """Return the state that continues behind the last delivered sample."""
        return LoaderState.of(self._plan, *self.standing)

    def load(self, state: Mapping[str, Any] | LoaderState) -> None:
        """Continue where a state says.

        Raises
        ------
        StateError
            It is no state, or not one of this data set and these settings.
        """
        found = state if isinstance(state, LoaderState) else LoaderState.from_dict(state)
        self._start_at(*found.resume(self._plan))

    def _start_at(self, epoch: int, position: int) -> None:
        self._epochs.upcoming, self._offset = epoch, position
        self._now = None
        self._iteration += 1  # an iteration that still runs no longer says where the loader stands
