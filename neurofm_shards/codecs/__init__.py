"""Codecs of the format: ``.pyd`` and ``.npy`` for arrays, ``.json`` for everything else."""
