"""Conversions of neurofm-shards on Slurm."""
