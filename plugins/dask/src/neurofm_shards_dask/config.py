"""Options of the executor ``dask``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neurofm_shards.plugins.interfaces import PluginConfig


class DaskConfig(PluginConfig):
    """Options of the executor ``dask``."""

    kind: Literal["dask"] = "dask"
    workers: int = Field(2, ge=1, description="processes of the local cluster; how many shards are begun at once")
    address: str | None = Field(
        None, description="address of a scheduler (that of dask-jobqueue, say); a cluster on this machine otherwise"
    )
    scheduler_file: str | None = Field(None, description="file with the address of a scheduler, as dask-mpi writes it")
    connect_timeout_s: float = Field(
        10.0, gt=0, description="seconds to wait for the scheduler, at the start and when the connection breaks"
    )
    patience_s: float | None = Field(
        None,
        gt=0,
        description="seconds to go on when all workers are gone: 10 unless told, 30 on this machine, where workers are "
        "started again",
    )
