"""What this distribution registers; imports neither matplotlib nor jinja2."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm_shards.plugins.entries import CommandEntry
from neurofm_shards.plugins.hookspecs import hookimpl


@hookimpl
def neurofm_register_commands() -> Sequence[CommandEntry]:
    """Describe the commands ``report`` and ``show``."""
    return (
        CommandEntry(
            name="report",
            summary="write an HTML page of pictures and tables about a data set or a recording",
            factory="neurofm_shards_report.commands:Report",
        ),
        CommandEntry(
            name="show",
            summary="draw samples of a data set, into a file or into the terminal",
            factory="neurofm_shards_report.commands:Show",
        ),
    )
