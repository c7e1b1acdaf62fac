"""What this distribution registers."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.hookspecs import hookimpl


@hookimpl
def neurofm_register_sources() -> Sequence[SourceEntry]:
    """Describe the source ``npz``."""
    return (
        SourceEntry(
            name="npz",
            summary="NumPy .npz archives: samples-first arrays, or a recording with a rate or time stamps",
            factory="neurofm_shards_npz.source:NpzSource",
            config="neurofm_shards_npz.config:NpzConfig",
            suffixes=(".npz",),
        ),
    )
