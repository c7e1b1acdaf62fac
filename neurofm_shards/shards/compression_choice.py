"""The compression that a name, a configuration or a file name stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.plugins.registry import registry


def compression_object(compression: str | Mapping[str, Any] | Compression) -> Compression | None:
    """Return the compression that a name, configuration or object stands for; None for ``"none"``."""
    if compression == "none":
        return None
    if isinstance(compression, Compression):
        return compression
    made: Compression = registry().compressions.make(
        dict(compression) if isinstance(compression, Mapping) else compression
    )
    return made


def compression_of(shard_name: str) -> Compression | None:
    """Return the compression that a file name stands for; None for a plain tar."""
    found = registry().compressions.by_suffix(shard_name)
    return None if found is None else compression_object(found.qualified_name)
