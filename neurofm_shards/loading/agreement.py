"""Ranks that share an epoch share one plan: each tells its own in the process group's store, and reads the others'.

No collective is used: a rank that iterates when others do not must hear of it, and must not hang. A loader tells its
plan when it is made, so that one that all ranks made and only one iterates goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist
import xxhash

from neurofm_shards.errors import ConfigError, WorkerError
from neurofm_shards.loading.plans.plan import EpochPlan
from neurofm_shards.loading.state import differences

#: How long to wait for other ranks to make the same loader, in seconds.
PATIENCE = 120.0

#: How many loaders of each data set this process has made that are divided: how ranks know which is which.
_made: Counter[str] = Counter()


class Agreement:
    """What one loader tells the other ranks, and hears from them.

    Parameters
    ----------
    plan : EpochPlan
        The plan of this rank when the loader is made.
    """

    def __init__(self, plan: EpochPlan) -> None:
        data = _digest(_data(plan))
        _made[data] += 1
        self._name = f"neurofm-shards/{data}/{_made[data]}"
        self._told = ""
        self._agreed = ""
        self._begun = 0

    def tell(self, plan: EpochPlan) -> None:
        """Tell this rank's plan to whoever asks; does not wait. Nothing happens without a process group."""
        said = json.dumps(_said(plan), sort_keys=True)
        if not _divided(plan) or said == self._told:
            return
        self._told = said
        store = dist.distributed_c10d._get_default_store()  # noqa: SLF001  (torch has no other name for it)
        store.add(f"{self._name}/{_digest(said)}", 1)
        store.set(f"{self._name}/rank {plan.sharding.rank}", said)

    def confirm(self, plan: EpochPlan) -> None:
        """Return once every rank has published the same plan (raises ConfigError, WorkerError)."""
        self.tell(plan)
        if not _divided(plan) or self._agreed == self._told:
            return
        store = dist.distributed_c10d._get_default_store()  # noqa: SLF001
        others = [f"{self._name}/rank {rank}" for rank in range(plan.sharding.world_size)]
        try:
            store.wait(others, timedelta(seconds=PATIENCE))
        except RuntimeError as error:
            missing = [str(rank) for rank, other in enumerate(others) if not store.check([other])]
            if not missing:
                raise
            raise WorkerError(
                f"rank {plan.sharding.rank} waited {PATIENCE:.0f} s for rank {', '.join(missing)} to make the loader "
                "that the ranks share, and gets a part of the samples only. If this rank alone is to iterate, make the "
                "loader with shard=False; else make it on every rank, in the same order"
            ) from error
        if store.add(f"{self._name}/{_digest(self._told)}", 0) < len(others):
            raise ConfigError(_disagreement(plan.sharding.rank, [json.loads(store.get(other)) for other in others]))
        self._agreed = self._told

    def begin(self, plan: EpochPlan, epoch: int, position: int) -> None:
        """Tell where this rank begins an iteration, and compare with ranks that have begun theirs; does not wait.

        Raises
        ------
        ConfigError
            Another rank began elsewhere: from another checkpoint, say.
        """
        if not _divided(plan):
            return
        self._begun += 1
        store = dist.distributed_c10d._get_default_store()  # noqa: SLF001
        mine, rank = f"epoch {epoch}, sample {position}", plan.sharding.rank
        keys = [f"{self._name}/start {self._begun} of rank {rank}" for rank in range(plan.sharding.world_size)]
        store.set(keys[rank], mine)
        for other in {0, rank - 1, rank + 1} & set(range(len(keys))):
            if other != rank and store.check([keys[other]]):
                theirs = store.get(keys[other]).decode()
                if theirs != mine:
                    raise ConfigError(
                        f"ranks that share an epoch begin at one place: rank {rank} at {mine}, rank {other} at "
                        f"{theirs}. Load the same state on every rank"
                    )


def _divided(plan: EpochPlan) -> bool:
    """Return whether the samples are divided among the ranks of a process group."""
    if plan.sharding.world_size == 1 or not dist.is_available() or not dist.is_initialized():
        return False
    return bool(dist.get_world_size() == plan.sharding.world_size)


def _said(plan: EpochPlan) -> dict[str, Any]:
    sharding = plan.sharding
    return {
        **plan.identity(),
        "batch_size": sharding.batch_size,
        "world_size": sharding.world_size,
        "even": sharding.even,
        "drop_last": sharding.drop_last,
    }


def _data(plan: EpochPlan) -> str:
    identity = plan.identity()
    return str(identity.get("dataset", identity.get("datasets")))


def _digest(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode())


def _disagreement(rank: int, said: list[Mapping[str, Any]]) -> str:
    """Return which rank has other settings, and which."""
    counts = Counter(json.dumps(each, sort_keys=True) for each in said)
    usual = json.loads(counts.most_common(1)[0][0]) if max(counts.values()) > 1 else said[0]
    other = next(i for i, each in enumerate(said) if each != usual)
    of = next(i for i, each in enumerate(said) if each == usual)
    differing = "; ".join(
        f"{label}: {one} on rank {of}, {another} on rank {other}"
        for label, one, another in differences(usual, said[other])
    )
    return (
        f"ranks that share an epoch need the same loader, and theirs differ in {differing}. Give every rank the same "
        f"arguments (this is rank {rank}); samples would be lost or come twice"
    )
