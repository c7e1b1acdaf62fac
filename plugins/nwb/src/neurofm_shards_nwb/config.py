"""The plugin's own options; what to take from a recording, and how to cut it, are options of the core."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neurofm_shards.plugins.interfaces import PluginConfig


class NwbConfig(PluginConfig):
    """How NWB files are opened."""

    kind: Literal["nwb"] = "nwb"
    reader: Literal["auto", "pynwb", "h5py"] = Field(
        "auto",
        description="auto: h5py, and pynwb for what is built unlike known schemas; or only one of them",
    )
    allow_links: tuple[str, ...] = Field(
        (), description="folders, besides the one of the file, that links in it may lead to"
    )
