"""What ``finalize()`` and a conversion return: the data set in a few numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neurofm_shards.format.manifest import Manifest


def summary(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Return the summary of a data set, as JSON values."""
    return {
        "output_dir": str(folder),
        "total_samples": manifest.total_samples,
        "total_shards": manifest.total_shards,
        "total_bytes": sum(shard.shard_bytes for shard in manifest.shards),
        "shard_size": manifest.shard_size,
        "compression": manifest.compression,
        "modalities": list(manifest.modalities),
        "sessions": len({source["session_id"] for source in manifest.sources if "session_id" in source}),
        "failures": list(manifest.failures),
    }
