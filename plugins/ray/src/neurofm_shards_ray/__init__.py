"""Conversions of neurofm-shards on Ray."""
