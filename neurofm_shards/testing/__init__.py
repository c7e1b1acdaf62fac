"""Conformance suites: subclass one in your plugin's tests and pytest checks your plugin against its contract.

Examples
--------
::

    from neurofm_shards.testing import CodecConformance

    class TestTextCodec(CodecConformance):
        name = "text"
        values = ("", "one line")
        refused = (1.5,)
"""

import pytest

# Before the suites are imported, so that a failing assert shows its values.
pytest.register_assert_rewrite(
    *(f"neurofm_shards.testing.{name}" for name in ("codecs", "compressions", "executors", "sources", "transforms"))
)

from neurofm_shards.testing.codecs import CodecConformance
from neurofm_shards.testing.compressions import CompressionConformance
from neurofm_shards.testing.executors import ExecutorConformance
from neurofm_shards.testing.sources import SourceConformance
from neurofm_shards.testing.transforms import TransformConformance

__all__ = [
    "CodecConformance",
    "CompressionConformance",
    "ExecutorConformance",
    "SourceConformance",
    "TransformConformance",
]
