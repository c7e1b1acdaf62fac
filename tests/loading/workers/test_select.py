"""Which workers a loader uses, and which numbers of them there are."""

from __future__ import annotations

import pytest

from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.workers.select import WorkerOptions


@pytest.mark.parametrize("count", [-1, "auto", 1.0, True, None])
def test_a_number_of_workers_that_is_none_is_refused(count):
    with pytest.raises(ConfigError, match=f"num_workers={count!r}: a number of workers is needed, 0 for none"):
        WorkerOptions("thread", count)


@pytest.mark.parametrize("factor", [0, -1, "2"])
def test_workers_fetch_at_least_one_batch_in_advance(factor):
    with pytest.raises(ConfigError, match=f"prefetch_factor={factor!r}: workers fetch 1 batch or more in advance"):
        WorkerOptions("thread", 2, factor)
