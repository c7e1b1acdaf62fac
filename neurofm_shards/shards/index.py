"""Where everything is inside a shard: the index, made while writing or rebuilt from the shard, and kept beside it."""

from neurofm_shards.format.index import ColumnIndex, ShardIndex, shard_checksum
from neurofm_shards.format.index_io import INDEX_SUFFIX, SIDECAR_DIR, index_path, load_index, read_index, save_index
from neurofm_shards.shards.fingerprints import shard_fingerprint
from neurofm_shards.shards.index_builder import build_index

__all__ = [
    "INDEX_SUFFIX",
    "SIDECAR_DIR",
    "ColumnIndex",
    "ShardIndex",
    "build_index",
    "index_path",
    "load_index",
    "read_index",
    "save_index",
    "shard_checksum",
    "shard_fingerprint",
]
