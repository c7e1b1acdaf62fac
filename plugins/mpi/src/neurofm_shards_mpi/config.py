"""Options of the executor ``mpi``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neurofm_shards.plugins.interfaces import PluginConfig


class MPIConfig(PluginConfig):
    """Options of the executor ``mpi``."""

    kind: Literal["mpi"] = "mpi"
    workers: int = Field(
        2, ge=1, description="processes to start where the launcher has not started them; see mpi4py.futures"
    )
