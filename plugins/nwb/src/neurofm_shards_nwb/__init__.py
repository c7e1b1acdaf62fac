"""NWB files as input of neurofm-shards: describes streams, and leaves bins, windows and resampling to the core."""
