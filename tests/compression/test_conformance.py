"""The compressions of the standard library pass the suite that plugin authors use."""

from __future__ import annotations

from neurofm_shards.testing.compressions import CompressionConformance


class TestGz(CompressionConformance):
    name = "gz"


class TestBz2(CompressionConformance):
    name = "bz2"


class TestXz(CompressionConformance):
    name = "xz"
