"""Registering plugins from code: notebooks, scripts, and plugin files that prefer a call to a hook."""

from __future__ import annotations

from neurofm_shards.plugins.entries import (
    CodecEntry,
    CompressionEntry,
    ExecutorEntry,
    SourceEntry,
    TransformEntry,
)
from neurofm_shards.plugins.registry import registry


def register_source(entry: SourceEntry) -> None:
    """Make an input format known in this process (and in the workers it starts)."""
    registry().sources.register(entry)


def register_codec(entry: CodecEntry) -> None:
    """Make a field codec known in this process (and in the workers it starts).

    Examples
    --------
    >>> from neurofm_shards.plugins.entries import CodecEntry
    >>> register_codec(CodecEntry(name="text", summary="UTF-8 text", extension="txt", factory="my_codecs:TextCodec"))
    """
    registry().codecs.register(entry)


def register_compression(entry: CompressionEntry) -> None:
    """Make a shard compression known in this process (and in the workers it starts)."""
    registry().compressions.register(entry)


def register_transform(entry: TransformEntry) -> None:
    """Make a sample transform known in this process (and in the workers it starts)."""
    registry().transforms.register(entry)


def register_executor(entry: ExecutorEntry) -> None:
    """Make a conversion executor known in this process."""
    registry().executors.register(entry)
