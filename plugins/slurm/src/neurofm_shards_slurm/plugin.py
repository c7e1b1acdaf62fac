"""What this distribution registers; does not import submitit."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm_shards.plugins.entries import ExecutorEntry
from neurofm_shards.plugins.hookspecs import hookimpl


@hookimpl
def neurofm_register_executors() -> Sequence[ExecutorEntry]:
    """Describe the executor."""
    return [
        ExecutorEntry(
            name="slurm",
            summary="jobs of a Slurm cluster, each of which runs many tasks",
            factory="neurofm_shards_slurm.executor:SlurmExecutor",
            config="neurofm_shards_slurm.config:SlurmConfig",
        )
    ]
