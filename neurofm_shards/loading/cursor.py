"""Where a loader stands, and where its next iteration starts."""

from __future__ import annotations

from typing import Any

from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.plan import EpochPlan
from neurofm_shards.loading.state import LoaderState


class Cursor:
    """Epoch and position of a loader.

    Each iteration is one epoch; the next one is the next epoch, from its start. A loaded state is where the next
    iteration starts.

    Parameters
    ----------
    plan : EpochPlan
        What is iterated.
    """

    def __init__(self, plan: EpochPlan) -> None:
        self._plan = plan
        self._iteration = 0
        self._next = self._now = (0, 0)

    @property
    def epoch(self) -> int:
        """The epoch that is running, or comes next where none has begun."""
        return self._now[0]

    @property
    def position(self) -> int:
        """Samples of the epoch's global order that were delivered."""
        return self._now[1]

    def begin(self) -> tuple[int, int, int]:
        """Begin an iteration; return its number, its epoch and the position it starts at."""
        self._iteration += 1
        self._now, self._next = self._next, (self._next[0] + 1, 0)
        return self._iteration, *self._now

    def move(self, iteration: int, position: int) -> None:
        """Say that the samples before ``position`` are with the caller; an iteration that was superseded is ignored."""
        if iteration == self._iteration:
            self._now = (self._now[0], position)

    def set_epoch(self, epoch: int) -> None:
        """Choose the next iteration's epoch; a loaded position inside that very epoch is kept."""
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise ConfigError(f"epoch {epoch!r}: epochs are whole numbers that count from 0")
        if self._next[0] != epoch:
            self._start_at(epoch, 0)

    def state(self) -> LoaderState:
        """Return the state that continues behind the last delivered sample."""
        return LoaderState.of(self._plan, *self._now)

    def load(self, state: dict[str, Any] | LoaderState) -> None:
        """Continue where a state says.

        Raises
        ------
        StateError
            It is no state, or not one of this data set and these settings.
        """
        found = state if isinstance(state, LoaderState) else LoaderState.from_dict(state)
        self._start_at(*found.resume(self._plan))

    def _start_at(self, epoch: int, position: int) -> None:
        self._next = self._now = (epoch, position)
        self._iteration += 1  # an iteration that still runs no longer says where the loader stands
