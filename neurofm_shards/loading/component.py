"""One data set's rows in the order of an epoch: collection, selection and order put together."""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash

from neurofm_shards._typing import Rows
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.order.shuffle import EpochOrder


class Component:
    """Turns positions of an epoch into rows of a collection.

    Parameters
    ----------
    collection : ShardCollection
        The data.
    mode, buffer_size, seed, shuffle_shards
        See :class:`~neurofm_shards.loading.order.shuffle.EpochOrder`.
    subset : numpy.ndarray of int64 or None
        Selected rows, ascending and unique; None for all.
    """

    def __init__(
        self,
        collection: Any,
        mode: bool | str,
        buffer_size: int,
        seed: int,
        shuffle_shards: bool | None,
        subset: Rows | None,
    ) -> None:
        self.collection = collection
        self.subset = None if subset is None else _checked(subset, collection.num_samples)
        starts = np.asarray(collection.starts, dtype=np.int64)
        #: First selected sample of each shard, and the number of all (shards + 1).
        self.starts = starts if self.subset is None else np.searchsorted(self.subset, starts).astype(np.int64)
        self.order = EpochOrder(np.diff(self.starts), mode, buffer_size, seed, shuffle_shards=shuffle_shards)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def rows(self, epoch: int, positions: Rows) -> Rows:
        """Return the rows at these positions (0 to ``len(self) - 1``) of the epoch."""
        selected = self.order.positions_to_rows(epoch, positions)
        return selected if self.subset is None else self.subset[selected]

    def shard_at(self, epoch: int, position: int) -> int:
        """Return the number of the shard with the sample at ``position``; -1 at the end of the epoch."""
        if position >= len(self):
            return -1
        selected = self.order.positions_to_rows(epoch, np.array([position], dtype=np.int64))
        return int(np.searchsorted(self.starts, selected[0], side="right")) - 1

    def identity(self) -> dict[str, Any]:
        """Return fingerprint, sizes, subset and order settings."""
        return self._identity(self.collection.fingerprint, len(self.starts) - 1, len(self), self.subset)

    def prefix_identity(self, num_shards: int) -> dict[str, Any] | None:
        """Return what ``identity`` was when the collection had the first ``num_shards`` shards only."""
        if not 0 < num_shards < len(self.starts):
            return None
        count = int(self.starts[num_shards])
        subset = None if self.subset is None else self.subset[:count]
        return self._identity(self.collection.prefix_fingerprint(num_shards), num_shards, count, subset)

    def _identity(self, fingerprint: str, shards: int, samples: int, subset: Rows | None) -> dict[str, Any]:
        found: dict[str, Any] = {"dataset": str(fingerprint)[:32], "shards": shards, "samples": samples}
        if subset is not None:
            found["subset"] = xxhash.xxh3_64_hexdigest(np.ascontiguousarray(subset, dtype="<i8").tobytes())
        return found | self.order.settings()


def _checked(subset: Rows, num_samples: int) -> Rows:
    """Refuse rows that are out of range, repeated or out of order."""
    rows = np.ascontiguousarray(subset, dtype=np.int64)
    if len(rows) and (rows[0] < 0 or rows[-1] >= num_samples or bool((np.diff(rows) <= 0).any())):
        raise ConfigError(f"a subset must be ascending, unique rows between 0 and {num_samples - 1:,}")
    return rows
