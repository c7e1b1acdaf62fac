"""Which sidecars a shard has, and where they lie."""

from __future__ import annotations

from pathlib import Path

from neurofm_shards.format.index_io import INDEX_SUFFIX, SIDECAR_DIR
from neurofm_shards.format.metadata_table import METADATA_SUFFIX


def sidecar_paths(shard_path: Path | str) -> list[Path]:
    """Return the paths of a shard's sidecars beside the data; a function of the shard's path alone."""
    path = Path(shard_path)
    return [path.parent / SIDECAR_DIR / (path.name + suffix) for suffix in (INDEX_SUFFIX, METADATA_SUFFIX)]
