"""What this distribution registers."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm_shards.plugins.entries import CompressionEntry
from neurofm_shards.plugins.hookspecs import hookimpl


@hookimpl
def neurofm_register_compressions() -> Sequence[CompressionEntry]:
    """Describe zstd and lz4."""
    return (
        CompressionEntry(
            name="zstd",
            summary="Zstandard; random access; zstd and tar tools, not tarfile or webdataset",
            factory="neurofm_shards_compression.zstd:ZstdCompression",
            config="neurofm_shards_compression.zstd:ZstdConfig",
            suffix=".zst",
            magic=b"\x28\xb5\x2f\xfd",
        ),
        CompressionEntry(
            name="lz4",
            summary="LZ4; fastest, random access; lz4 and tar tools, not tarfile or webdataset",
            factory="neurofm_shards_compression.lz4:Lz4Compression",
            config="neurofm_shards_compression.lz4:Lz4Config",
            suffix=".lz4",
            magic=b"\x04\x22\x4d\x18",
        ),
    )
