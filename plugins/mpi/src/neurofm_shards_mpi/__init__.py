"""Conversions of neurofm-shards on MPI."""
