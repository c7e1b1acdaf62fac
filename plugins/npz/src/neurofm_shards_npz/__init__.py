"""NumPy ``.npz`` archives as input of neurofm-shards."""
