"""Looks at a configuration before anything is read or written."""

from __future__ import annotations

from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.plugins.registry import registry
from neurofm_shards.shards.compression_choice import compression_object
from neurofm_shards.writing.output_folder import ShardNames


def check_config(config: ConversionConfig) -> None:
    """Make every plugin that a configuration names once, so that a mistake costs seconds rather than hours.

    Raises
    ------
    ConfigError
        Options or names are wrong.
    MissingPluginError
        A plugin is not installed; the message says how to get it.
    """
    known = registry()
    for name in (config.codec, *config.codecs.values()):
        known.codecs.get(name).make()
    for transform in config.transforms:
        known.transforms.make(transform)
    if config.format != "auto":
        known.sources.get(config.format)
    shard_names(config)


def shard_names(config: ConversionConfig) -> ShardNames:
    """Return how the shards are called, the compression's suffix included."""
    compression = compression_object(config.compression)
    return ShardNames(config.shard_name_pattern, compression.suffix if compression is not None else "")
