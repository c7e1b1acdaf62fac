"""What is on disk: tar members and headers, keys, indexes, metadata tables, manifests."""
