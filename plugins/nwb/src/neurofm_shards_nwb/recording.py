"""An NWB file as a recording: all of its streams, described and not read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from neurofm_shards.errors import SourceError
from neurofm_shards.streams import AnyStream, Recording
from neurofm_shards.types import Problem
from neurofm_shards_nwb.content import FileContent
from neurofm_shards_nwb.event_tables import describe_event_table
from neurofm_shards_nwb.identity import ids_of
from neurofm_shards_nwb.intervals import describe_intervals
from neurofm_shards_nwb.series import describe_series
from neurofm_shards_nwb.units import describe_units


class NwbRecording(Recording):
    """One NWB file.

    Parameters
    ----------
    path : str
        The file.
    version : str
        Its NWB version.
    facts : mapping
        JSON facts; ids are taken from here.
    described : (list of stream, list of Problem)
        What the file holds.
    fingerprint : str
        See ``SourcePlan.fingerprint``.
    release : callable
        Closes the file.
    """

    def __init__(
        self,
        path: str,
        version: str,
        facts: Mapping[str, Any],
        described: tuple[list[AnyStream], list[Problem]],
        fingerprint: str,
        release: Callable[[], None],
    ) -> None:
        self._streams, odd = described
        self._release = release
        self.source_file = Path(path).name
        self.fingerprint = fingerprint
        self.session_id, self.subject_id, problems = ids_of(path, facts)
        self.problems: Sequence[Problem] = (*odd, *problems)
        self.facts: Mapping[str, Any] = {"nwb_version": version, **facts}

    @property
    def streams(self) -> Sequence[AnyStream]:
        """All streams: units tables, series by path, tables of intervals."""
        return self._streams

    def close(self) -> None:
        """Close the file; streams cannot be read any more."""
        self._release()

    def __reduce__(self) -> NoReturn:
        raise SourceError(
            f"{self.source_file}: an open NWB file cannot be sent to another process: send the source and the path, "
            "and open it there"
        )


def describe(content: FileContent) -> tuple[list[AnyStream], list[Problem]]:
    """Describe everything in a file as streams, with what was odd about it."""
    streams: list[AnyStream] = []
    problems = list(content.problems)
    for table in content.tables:
        stream: AnyStream | None = None
        odd: list[Problem] = []
        if "Units" in table.types:
            stream, odd = describe_units(content.path, table)
        elif "TimeIntervals" in table.types:
            stream, odd = describe_intervals(table)
        elif "EventsTable" in table.types and table.plain:
            stream, odd = describe_event_table(table)
        streams += [] if stream is None else [stream]
        problems += odd
    for series in content.series:
        described = describe_series(content.path, series)
        streams += [] if described.stream is None else [described.stream]
        problems += described.problems
    return streams, problems
