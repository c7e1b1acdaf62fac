"""zstd and lz4 shards for neurofm-shards."""
