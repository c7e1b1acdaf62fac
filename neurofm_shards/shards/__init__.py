"""The shard engine: tar, index, manifest, writers and the read side; numpy only."""
