"""What this distribution registers."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.hookspecs import hookimpl


@hookimpl
def neurofm_register_sources() -> Sequence[SourceEntry]:
    """Describe the source ``arrays``."""
    return (
        SourceEntry(
            name="arrays",
            summary="NumPy .npy files: a file, several files or a folder of them; one column per file",
            factory="neurofm_shards_arrays.source:ArraysSource",
            config="neurofm_shards_arrays.config:ArraysConfig",
            suffixes=(".npy",),
            magic=((0, b"\x93NUMPY"),),
            folders=True,
        ),
    )
