"""Telling whether a file is still the one that was indexed, without reading it all."""

from __future__ import annotations

import os
from pathlib import Path

import xxhash

from neurofm_shards.format.files import open_regular

_PIECE = 4096


def shard_fingerprint(path: Path | str) -> str:
    """Return xxh3_64 of a file's size and of its first, middle and last 4 KiB, in hexadecimal.

    Times and names play no part: a copied or moved shard keeps its fingerprint. A change that leaves the size and all
    three pieces alone is found by the checksums (``validate``, ``verify=True``), not here.
    """
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        digest = xxhash.xxh3_64(size.to_bytes(8, "little"))
        for start in (0, size // 2, max(size - _PIECE, 0)):
            digest.update(os.pread(descriptor, _PIECE, start))
    finally:
        os.close(descriptor)
    return digest.hexdigest()
