"""What this distribution registers; does not import mpi4py."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm_shards.plugins.entries import ExecutorEntry
from neurofm_shards.plugins.hookspecs import hookimpl


@hookimpl
def neurofm_register_executors() -> Sequence[ExecutorEntry]:
    """Describe the executor."""
    return [
        ExecutorEntry(
            name="mpi",
            summary="the processes of mpiexec, by mpi4py.futures",
            factory="neurofm_shards_mpi.executor:MPIExecutor",
            config="neurofm_shards_mpi.config:MPIConfig",
        )
    ]
