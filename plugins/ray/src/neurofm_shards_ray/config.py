"""Options of the executor ``ray``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from neurofm_shards.plugins.interfaces import PluginConfig


class RayConfig(PluginConfig):
    """Options of the executor ``ray``."""

    kind: Literal["ray"] = "ray"
    workers: int = Field(2, ge=1, description="processors of a local Ray; how many shards are begun at once")
    address: str | None = Field(
        None, description="auto, or ray://host:port; a Ray of its own on this machine otherwise"
    )
    connect_timeout_s: float = Field(10.0, gt=0, description="seconds to wait for whoever answers at the address")
    num_cpus: float = Field(1.0, ge=0, description="processors that one shard needs")
    memory_bytes: int | None = Field(None, ge=1, description="memory that one shard needs")
    resources: dict[str, float] = Field(default_factory=dict, description="custom resources that one shard needs")
    runtime_env: dict[str, Any] = Field(default_factory=dict, description="Ray's runtime environment")
    patience_s: float = Field(10.0, gt=0, description="seconds to go on when all nodes are gone")
