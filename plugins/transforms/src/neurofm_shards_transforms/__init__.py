"""Sample transforms for neurofm-shards."""
