"""What this distribution registers; does not import Ray."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm_shards.plugins.entries import ExecutorEntry
from neurofm_shards.plugins.hookspecs import hookimpl


@hookimpl
def neurofm_register_executors() -> Sequence[ExecutorEntry]:
    """Describe the executor."""
    return [
        ExecutorEntry(
            name="ray",
            summary="a Ray cluster, by its address or on this machine",
            factory="neurofm_shards_ray.executor:RayExecutor",
            config="neurofm_shards_ray.config:RayConfig",
        )
    ]
