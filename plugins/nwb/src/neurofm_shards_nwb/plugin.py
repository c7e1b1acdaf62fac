"""What this distribution registers."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm_shards.plugins.entries import CommandEntry, SourceEntry
from neurofm_shards.plugins.hookspecs import hookimpl


@hookimpl
def neurofm_register_sources() -> Sequence[SourceEntry]:
    """Return the source ``nwb``."""
    return [
        SourceEntry(
            name="nwb",
            summary="NWB 2.x and 1.x: units, LFP, behaviour, ROI responses, events and trials",
            suffixes=(".nwb", ".nwb.zarr"),
            magic=((0, b"\x89HDF\r\n\x1a\n"),),
            folders=True,
            joins_files=False,
            config="neurofm_shards_nwb.config:NwbConfig",
            factory="neurofm_shards_nwb.source:NwbSource",
        )
    ]


@hookimpl
def neurofm_register_commands() -> CommandEntry:
    """Return the command ``demo``."""
    return CommandEntry(
        name="demo",
        summary="make a session, convert it, train a small decoder on it",
        factory="neurofm_shards_nwb.demo_command:Demo",
    )
