"""Conversions of neurofm-shards on Dask."""
