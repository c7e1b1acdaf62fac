"""From shards to batches: orders, plans, loaders and their workers."""
