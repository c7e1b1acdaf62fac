"""Options of the executor ``slurm``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from neurofm_shards.plugins.interfaces import PluginConfig


class SlurmConfig(PluginConfig):
    """Options of the executor ``slurm``."""

    kind: Literal["slurm"] = "slurm"
    workers: int = Field(2, ge=1, description="jobs of the array")
    partition: str | None = Field(None, description="partition of the jobs")
    account: str | None = Field(None, description="account that pays")
    qos: str | None = Field(None, description="quality of service")
    time_min: int | None = Field(None, ge=1, description="minutes that a job may run; unlimited as the partition says")
    memory_gb: float | None = Field(None, gt=0, description="memory of a job in GB")
    cpus: int = Field(1, ge=1, description="processors of a job")
    array_parallelism: int | None = Field(None, ge=1, description="jobs that run at once; all of them otherwise")
    requeue: bool = Field(True, description="whether Slurm starts preempted jobs again")
    sbatch: dict[str, Any] = Field(default_factory=dict, description="further options of sbatch, by name")
    folder: str = Field(
        "slurm-jobs", description="where jobs and program meet, and where logs are; all machines see it"
    )
    lost_after_s: float = Field(
        15.0,
        gt=0,
        description="a job whose node has not been heard of for so long is lost; one that was killed is lost at once",
    )
