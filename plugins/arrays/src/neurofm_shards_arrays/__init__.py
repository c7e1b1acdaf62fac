"""NumPy ``.npy`` files as input of neurofm-shards."""
