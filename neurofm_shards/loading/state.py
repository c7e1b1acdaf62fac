"""The position of a run: epoch, position and identity; ranks, epoch counters and saved states."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import get_worker_info

from neurofm_shards.errors import ConfigError, FormatError, StateError
from neurofm_shards.format.files import open_regular, write_atomically
from neurofm_shards.loading.plans.plan import EpochPlan
from neurofm_shards.values import loads_unique

STATE_VERSION = 1

#: A state is smaller than this as JSON; a checkpoint file that is larger is none of ours.
MAX_STATE_BYTES = 1024

_KEYS = {"version", "epoch", "position", "shard_idx", "sample_offset", "identity"}
_LABELS = {
    "dataset": "the data set's fingerprint",
    "shards": "the number of shards",
    "samples": "the number of samples",
    "subset": "the selected samples",
    "order_version": "the version of the ordering algorithm",
    "shuffle": "shuffle",
    "shuffle_shards": "shuffle_shards",
    "buffer_size": "buffer_size",
    "seed": "seed",
}


@dataclass(frozen=True)
class LoaderState:
    """Where a run stands.

    Attributes
    ----------
    epoch : int
        Epochs finished so far.
    position : int
        Samples of this epoch's global order that were delivered to the training loop, over all ranks.
    identity : mapping
        See :meth:`~neurofm_shards.loading.plans.plan.EpochPlan.identity`.
    shard_idx : int
        The shard of the next sample; -1 where there is none. For the reader only.
    """

    epoch: int
    position: int
    identity: Mapping[str, Any]
    shard_idx: int = -1

    @classmethod
    def of(cls, plan: EpochPlan, epoch: int, position: int) -> LoaderState:
        """Describe where a run over ``plan`` stands; the end of an epoch is the start of the next."""
        if plan.finished(epoch, position):
            epoch, position = epoch + 1, 0
        return cls(epoch, position, plan.identity(), plan.shard_at(epoch, position))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: the fields, ``sample_offset`` (the position) and ``version``."""
        return {"version": STATE_VERSION, "sample_offset": self.position, **asdict(self)}

    @classmethod
    def from_dict(cls, found: Any) -> LoaderState:
        """Read what :meth:`to_dict` gave.

        Raises
        ------
        StateError
            When it is no state, or one of another version of this package.
        """
        if not isinstance(found, Mapping) or _KEYS - set(found):
            raise StateError("this is not the state of a loader: it needs the keys " + ", ".join(sorted(_KEYS)))
        if found["version"] != STATE_VERSION:
            raise StateError(
                f"the state has version {_short(found['version'])} and this release reads version {STATE_VERSION}: "
                "resume with the release that wrote it, or start anew"
            )
        epoch, position, shard = (_whole(found, key) for key in ("epoch", "position", "shard_idx"))
        if found["sample_offset"] != position or not isinstance(found["identity"], Mapping):
            raise StateError("the state contradicts itself: sample_offset and position differ, or identity is missing")
        return cls(epoch, position, dict(found["identity"]), shard)

    def resume(self, plan: EpochPlan) -> tuple[int, int]:
        """Return the epoch and position at which a run over ``plan`` goes on.

        The state fits when the plan's identity is the saved one. Where samples were only appended since, it still
        fits if no position changed its meaning: in storage order, or at the start of an epoch.

        Raises
        ------
        StateError
            When the state belongs to another data set, another version of it, or other settings; says what differs.
        """
        identity = json.loads(json.dumps(plan.identity()))
        saved = json.loads(json.dumps(dict(self.identity)))
        if saved != identity and not self._appended(plan, saved):
            raise StateError(_difference(saved, identity))
        if self.position > plan.length(self.epoch):
            raise StateError(
                f"the state stands at sample {self.position:,} of epoch {self.epoch}, which has only "
                f"{plan.length(self.epoch):,}"
            )
        if plan.finished(self.epoch, self.position):
            return self.epoch + 1, 0
        return self.epoch, self.position

    def _appended(self, plan: EpochPlan, saved: dict[str, Any]) -> bool:
        """Say whether the plan's data starts with the saved data and the position means the same in both."""
        shards = saved.get("shards")
        if not isinstance(shards, int) or plan.prefix_identity(shards) != saved:
            return False
        if plan.appendable or self.position == 0:
            return True
        raise StateError(
            f"samples were appended to the data set since this state was saved, at sample {self.position:,} of epoch "
            f"{self.epoch}: a shuffled epoch cannot go on in another order. Finish the epoch with the first {shards} "
            f"shards alone, or start at the next epoch with set_epoch({self.epoch + 1})"
        )


def save_state(path: str | os.PathLike[str], state: LoaderState) -> None:
    """Write a checkpoint file atomically: after a crash there is the old one or the new one, whole."""
    text = json.dumps(state.to_dict(), separators=(",", ":"))
    if len(text) >= MAX_STATE_BYTES:
        raise StateError(f"the state takes {len(text)} bytes; states are smaller than {MAX_STATE_BYTES}")
    write_atomically(Path(path), [text.encode()], durable=True)


def read_state(path: str | os.PathLike[str]) -> LoaderState:
    """Read a checkpoint file.

    Raises
    ------
    StateError
        When the file is torn, too large, or not a checkpoint. A missing file is a ``FileNotFoundError``.
    """
    path = Path(path)
    try:
        descriptor = open_regular(path)
    except FormatError as error:
        raise StateError(f"no checkpoint: {error}") from error
    with os.fdopen(descriptor, "rb") as file:
        raw = file.read(MAX_STATE_BYTES + 1)
    try:
        if len(raw) > MAX_STATE_BYTES:
            raise StateError(f"it is larger than {MAX_STATE_BYTES} bytes")
        return LoaderState.from_dict(loads_unique(raw.decode("ascii")))
    except (ValueError, RecursionError) as error:
        raise StateError(
            f"{path} is not a whole checkpoint ({_short(error)}): remove it to start anew, or restore it from a copy"
        ) from error


def _whole(found: Mapping[str, Any], key: str) -> int:
    """Return a whole number of at most 62 bits; only ``shard_idx`` may be -1."""
    value = found[key]
    if type(value) is not int or not (-1 if key == "shard_idx" else 0) <= value < 1 << 62:
        raise StateError(f"the state's {key} is {_short(value)}; a whole number was expected")
    return value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "..."


def _difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name what differs between two identities."""
    names = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    parts = [
        f"{_LABELS.get(name, name)} was {_short(saved.get(name, 'not set'))}, is {_short(now.get(name, 'not set'))}"
        for name in names
    ]
    data = {"dataset", "shards", "samples", "datasets"} & set(names)
    advice = "load the data set it was saved with" if data else "use the settings it was saved with"
    return f"the state belongs to another run: {'; '.join(parts)}. To resume, {advice}; or start anew"


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, the number of ranks, and where that was found (``"argument"``, ``"torch"``, ...)."""

    rank: int
    world_size: int
    found_in: str


def ranks(rank: int | None = None, world_size: int | None = None) -> Ranks:
    """Find rank and world size.

    ``torch.distributed`` decides when it is initialised, else the environment (``RANK`` and ``WORLD_SIZE``), else the
    arguments; without any of them this is rank 0 of 1. Arguments that contradict an initialised process group or the
    environment are an error rather than a silent choice, since two ranks would then read the same samples.

    Parameters
    ----------
    rank, world_size : int or None
        Both or neither.

    Raises
    ------
    ConfigError
        When only one of the two is known, they are out of range, or the sources disagree.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(f"rank={rank} and world_size={world_size}: give both or neither")
    given = None if rank is None or world_size is None else _checked(rank, world_size, "argument")
    found = _from_torch() or _from_environment()
    if found is None:
        return given or Ranks(0, 1, "default")
    if given is not None and (given.rank, given.world_size) != (found.rank, found.world_size):
        raise ConfigError(
            f"rank {given.rank} of {given.world_size} was asked for, but {found.found_in} says rank {found.rank} of "
            f"{found.world_size}: leave the arguments out, or correct whichever is wrong"
        )
    return found


def confirm(place: Ranks) -> None:
    """Refuse to go on as another rank than ``torch.distributed`` says, which may have been initialised since.

    Raises
    ------
    ConfigError
        All ranks would read the same samples.
    """
    found = _from_torch()
    if found is not None and (found.rank, found.world_size) != (place.rank, place.world_size):
        raise ConfigError(
            f"this loader was made as rank {place.rank} of {place.world_size}, and torch.distributed, initialised "
            f"since, says rank {found.rank} of {found.world_size}: make the loader after init_process_group (with "
            "Lightning, in train_dataloader())"
        )


def _from_torch() -> Ranks | None:
    """Ask ``torch.distributed``; a program that never imported torch has not initialised it."""
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return _checked(distributed.get_rank(), distributed.get_world_size(), "torch.distributed")


def _from_environment() -> Ranks | None:
    found = {name: os.environ.get(name, "").strip() for name in ("RANK", "WORLD_SIZE")}
    if not any(found.values()):
        return None
    for name, text in found.items():
        if not text.isdecimal():
            other = " and ".join(f"{key}={value!r}" for key, value in found.items())
            raise ConfigError(f"the environment has {other}: {name} must be a whole number; set both or neither")
    return _checked(int(found["RANK"]), int(found["WORLD_SIZE"]), "the environment (RANK, WORLD_SIZE)")


def _checked(rank: int, world_size: int, found_in: str) -> Ranks:
    if world_size < 1 or not 0 <= rank < world_size:
        raise ConfigError(f"{found_in} says rank {rank} of {world_size}: ranks count from 0 to world_size - 1")
    return Ranks(rank, world_size, found_in)


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


#: A DataLoader with more workers than this is refused.
MOST_WORKERS = 1023


def worker_place() -> tuple[int, int]:
    """Return the number of this DataLoader worker and how many there are; (0, 1) outside of workers."""
    info = get_worker_info()
    if info is None:
        return 0, 1
    if info.num_workers > MOST_WORKERS:
        raise ConfigError(f"num_workers={info.num_workers}; at most {MOST_WORKERS} are possible")
    return info.id, info.num_workers


class WorkerEpochs:
    """The epoch that the next iteration is in, for the main process and for each DataLoader worker.

    It lies in shared memory without a name: a DataLoader starts new worker processes for each epoch, each with a copy
    of a data set that never moved, so the count must outlive them.
    """

    def __init__(self) -> None:
        self._upcoming: torch.Tensor = torch.zeros(MOST_WORKERS + 1, dtype=torch.int64)
        self._upcoming.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def upcoming(self) -> int:
        """The epoch of this process's next iteration."""
        return int(self._upcoming[self._slot()])

    @upcoming.setter
    def upcoming(self, epoch: int) -> None:
        self._upcoming[self._slot()] = epoch

    def everywhere(self, epoch: int) -> None:
        """Set the next epoch of this process and of all workers."""
        self._upcoming.fill_(epoch)

    def _slot(self) -> int:
        return 0 if get_worker_info() is None else worker_place()[0] + 1
