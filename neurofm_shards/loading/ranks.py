"""Which rank this process is, and of how many."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from neurofm_shards.errors import ConfigError


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
