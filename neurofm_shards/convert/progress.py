"""What a conversion tells whoever watches it; the command line draws it, everybody else ignores it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurofm_shards.convert.planning import ConversionPlan, InputPlan


class Observer:
    """Hears of each step. Every method does nothing unless it is overridden."""

    def planning(self, total: int) -> None:
        """Hear that so many inputs are about to be opened."""

    def planned(self, item: InputPlan) -> None:
        """Hear that an input was opened, or failed."""

    def started(self, plan: ConversionPlan, finished_shards: int) -> None:
        """Hear that writing starts, and how many shards an interrupted run has left."""

    def shard(self, line: Mapping[str, Any]) -> None:
        """Hear that a shard is in place (or turned out empty)."""
