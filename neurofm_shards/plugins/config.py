"""Public import path of :class:`~neurofm_shards.plugins.interfaces.PluginConfig`."""

from neurofm_shards.plugins.interfaces import PluginConfig

__all__ = ["PluginConfig"]
