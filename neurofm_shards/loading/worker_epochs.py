"""Which epoch an iterable data set is in, told the same way in every worker process of a DataLoader."""

from __future__ import annotations

import torch
from torch.utils.data import get_worker_info

from neurofm_shards.errors import ConfigError

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
