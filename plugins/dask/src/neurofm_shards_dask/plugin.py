"""What this distribution registers; does not import Dask."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm_shards.plugins.entries import ExecutorEntry
from neurofm_shards.plugins.hookspecs import hookimpl


@hookimpl
def neurofm_register_executors() -> Sequence[ExecutorEntry]:
    """Describe the executor."""
    return [
        ExecutorEntry(
            name="dask",
            summary="a Dask cluster, by its address or on this machine",
            factory="neurofm_shards_dask.executor:DaskExecutor",
            config="neurofm_shards_dask.config:DaskConfig",
        )
    ]
