"""Which rank this process is, and of how many: as people start jobs, and decided when an iteration begins."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass
from types import FrameType
from typing import Any

from neurofm_shards.errors import ConfigError
from neurofm_shards.values import check_whole

#: Variables by which launchers say rank and world size, the one that is nearest to the process first.
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),  # torchrun, and whoever follows it
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),  # MVAPICH
    ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI
    ("SLURM_PROCID", "SLURM_NTASKS"),  # srun
)


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, the number of ranks, and where that was found (``"argument"``, ``"torch"``, ...)."""

    rank: int
    world_size: int
    found_in: str


@dataclass(frozen=True)
class RankRequest:
    """A loader's arguments about ranks; :meth:`find` resolves them.

    Attributes
    ----------
    rank, world_size : int or None
        As given; both or neither.
    shard : bool
        False: somebody else divides the samples among ranks.
    """

    rank: int | None = None
    world_size: int | None = None
    shard: bool = True

    def find(self) -> Ranks:
        """Return the rank of this process, and of how many.

        ``torch.distributed`` decides when it is initialised, else the environment (torchrun, MPI, ``srun``, Lightning),
        else the arguments; without any of them this is rank 0 of 1. ``shard=False`` and ``rank=0, world_size=1`` win
        over all of these, because whoever says so wants all samples. Other arguments that contradict what is found are
        an error rather than a silent choice, since two ranks would then read the same samples.

        Raises
        ------
        ConfigError
            When only one of the two is known, they are out of range, or the sources disagree.
        """
        rank, world_size = self.rank, self.world_size
        if (rank is None) != (world_size is None):
            raise ConfigError(f"rank={rank} and world_size={world_size}: give both or neither")
        given = None if rank is None or world_size is None else _checked(rank, world_size, "argument")
        if not self.shard and given is not None and given.world_size > 1:
            raise ConfigError(
                f"shard=False leaves the division among ranks to somebody else, and rank={rank} of {world_size} asks "
                "for it: give one of them"
            )
        if not self.shard or (given is not None and given.world_size == 1):
            return Ranks(0, 1, "argument")
        found = _from_torch() or _from_environment()
        if found is None:
            return given or Ranks(0, 1, "default")
        if given is not None and (given.rank, given.world_size) != (found.rank, found.world_size):
            raise ConfigError(
                f"rank {given.rank} of {given.world_size} was asked for, but {found.found_in} says rank {found.rank} "
                f"of {found.world_size}: leave the arguments out, or correct whichever is wrong"
            )
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        found = self.find()  # a DataLoader's worker, started anew, has no process group to ask
        return RankRequest, (found.rank, found.world_size, self.shard)


def warn_of_lonely_task(place: Ranks) -> None:
    """Warn where this process is one of several, and nothing but a guess says that it gets all samples."""
    if place.world_size > 1 or place.found_in == "argument":
        return
    hint = _signs_of_others()
    if hint:
        warnings.warn(
            f"this process seems to be one of several ({hint}), and would get all samples, as the others do: start it "
            "with srun or torchrun, initialise torch.distributed first, or give rank= and world_size= (shard=False to "
            "give all samples to each)",
            stacklevel=2,
        )


def warn_of_second_division(place: Ranks) -> None:
    """Warn where the samples, divided here, are divided once more by Accelerate, which Hugging Face's Trainer uses."""
    if place.world_size > 1 and _inside_accelerate():
        warnings.warn(
            f"this loader gives rank {place.rank} of {place.world_size} its part of the samples, and Accelerate "
            "divides that part once more, so that most samples reach nobody: make the loader with shard=False, or use "
            "create_webdataset_dataloader, which Accelerate leaves alone",
            stacklevel=2,
        )


def _inside_accelerate() -> bool:
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  (a data set is not told by whom it is iterated)
    while frame is not None:
        if frame.f_globals.get("__name__") == "accelerate.data_loader":
            return True
        frame = frame.f_back
    return _accelerate_divides()


def _accelerate_divides() -> bool:
    """Say so in a DataLoader's worker, where Accelerate's own frames are in another process."""
    torch, state = sys.modules.get("torch"), sys.modules.get("accelerate.state")
    if torch is None or torch.utils.data.get_worker_info() is None:
        return False
    return state is not None and bool(state.is_initialized()) and state.PartialState().num_processes > 1


def _signs_of_others() -> str:
    """Return the variables that speak of other tasks; the empty string where none does."""
    found = [
        f"{name}={text}"
        for name in ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
        if (text := os.environ.get(name, "")).isdecimal() and int(text) > 1
    ]
    ranked = ("LOCAL_RANK", "PMIX_RANK")
    found += [f"{name}={text}" for name in ranked if (text := os.environ.get(name, "")).isdecimal() and int(text)]
    return ", ".join(found)


def _from_torch() -> Ranks | None:
    """Ask ``torch.distributed``; a program that never imported torch has not initialised it."""
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return _checked(distributed.get_rank(), distributed.get_world_size(), "torch.distributed")


def _from_environment() -> Ranks | None:
    if "RANK" not in os.environ and "LOCAL_RANK" in os.environ:
        return _from_lightning()
    for names in _LAUNCHERS:
        found = {name: os.environ.get(name, "").strip() for name in names}
        if any(found.values()) and not (names[0] == "SLURM_PROCID" and _in_batch_script()):
            return _parsed(found)
    return None


def _parsed(found: dict[str, str]) -> Ranks:
    for name, text in found.items():
        if not text.isdecimal():
            other = " and ".join(f"{key}={value!r}" for key, value in found.items())
            raise ConfigError(f"the environment has {other}: {name} must be a whole number; set both or neither")
    rank, world_size = map(int, found.values())
    return _checked(rank, world_size, f"the environment ({', '.join(found)})")


def _in_batch_script() -> bool:
    """Return whether this is a Slurm job outside of srun: sbatch's own script has SLURM_PROCID=0 too."""
    if os.environ.get("SLURM_JOB_NAME") in {"bash", "interactive"}:
        return True
    return "SLURM_JOB_ID" in os.environ and "SLURM_STEP_ID" not in os.environ


def _from_lightning() -> Ranks | None:
    """Read the variables that Lightning's launcher sets: a rank within the node, and the world size."""
    # on further nodes the rank follows from the process group alone, which is there once an iteration begins
    local, size, node = (os.environ.get(name, "").strip() for name in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK"))
    if not size or node not in {"", "0"}:
        return None
    return _parsed({"LOCAL_RANK": local, "WORLD_SIZE": size})


def _checked(rank: int, world_size: int, found_in: str) -> Ranks:
    for name, value in (("rank", rank), ("world_size", world_size)):
        check_whole(name, value, "a whole number is needed")
    if world_size < 1 or not 0 <= rank < world_size:
        raise ConfigError(f"{found_in} says rank {rank} of {world_size}: ranks count from 0 to world_size - 1")
    return Ranks(rank, world_size, found_in)
