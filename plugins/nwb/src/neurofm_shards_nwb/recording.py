"""An NWB file as a recording: who it is, and all of its streams, described and not read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import xxhash

from neurofm_shards.errors import SourceError
from neurofm_shards.plugins.toolkit import file_fingerprint
from neurofm_shards.streams import AnyStream, IrregularStream, Recording, RegularStream
from neurofm_shards.types import Problem
from neurofm_shards_nwb.content import FileContent, with_meanings
from neurofm_shards_nwb.events import describe_annotated_events, describe_event_list, describe_event_table
from neurofm_shards_nwb.series import describe_series, imaging_rank
from neurofm_shards_nwb.sweeps import describe_sweeps, sweeps_of_series
from neurofm_shards_nwb.tables import describe_intervals, describe_units


def ids_of(path: str, facts: Mapping[str, Any]) -> tuple[str, str, list[Problem]]:
    """Return session id and subject id: the file's own, else its identifier, else its name.

    Returns
    -------
    (str, str, list of Problem)
        Session id, subject id, and a note on each fall-back.
    """
    name = Path(path).name.removesuffix(".zarr").removesuffix(".nwb")
    fallback, source = (str(facts["identifier"]), "identifier") if facts.get("identifier") else (name, "file name")
    problems = [
        Problem(where, "empty or missing", f"the file's {source} {fallback!r} is used instead", "info")
        for key, where in (("session_id", "general/session_id"), ("subject_id", "general/subject/subject_id"))
        if not facts.get(key)
    ]
    return str(facts.get("session_id") or fallback), str(facts.get("subject_id") or fallback), problems


def fingerprint(path: str, linked: list[str]) -> str:
    """Return what identifies the content of a file (and of the files it links to), wherever it lies."""
    return file_fingerprint([path, *linked])


def folder_fingerprint(path: str) -> str:
    """Return what identifies the content of a Zarr store: names and sizes of all files, content of small ones."""
    digest = xxhash.xxh3_128()
    root = Path(path)
    digest.update(root.name.encode())
    for file in sorted(root.rglob("*")):
        if file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.relative_to(root).as_posix()}\0{size}\0".encode())
            with file.open("rb") as content:
                digest.update(content.read(4096))
    return f"xxh3-{digest.hexdigest()}"


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
        self.subject_is_known = bool(facts.get("subject_id"))
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
    for table in with_meanings(content.tables):
        stream: AnyStream | None = None
        odd: list[Problem] = []
        if "Units" in table.types:
            stream, odd = describe_units(content.path, table)
        elif "TimeIntervals" in table.types:
            stream, odd = describe_intervals(table)
        elif "AnnotatedEventsTable" in table.types or "AnnotatedEvents" in table.types:
            stream, odd = describe_annotated_events(table)
        elif "EventsTable" in table.types:
            stream, odd = describe_event_table(table)
        streams += [] if stream is None else [stream]
        problems += odd
    for listed in content.events:
        event_list, odd = describe_event_list(listed)
        streams += [] if event_list is None else [event_list]
        problems += odd
    ranks: dict[str, int] = {}
    for series in content.series:
        described = describe_series(content.path, series)
        streams += [] if described.stream is None else [described.stream]
        problems += described.problems
        ranks[series.path] = imaging_rank(series)
    sweeps = describe_sweeps(content.sweeps or sweeps_of_series(content.series), content.series)
    streams += [] if sweeps is None else [sweeps]
    return _with_behavior(_with_usual_imaging(streams, ranks)), problems


def _with_usual_imaging(streams: list[AnyStream], ranks: Mapping[str, int]) -> list[AnyStream]:
    """Mark the one imaging series that is meant where others accompany it; planes of one rank stay a choice."""
    imaging = [stream.path for stream in streams if stream.modality == "ophys"]
    first = min((ranks[path] for path in imaging), default=0)
    usual = [path for path in imaging if ranks[path] == first]
    if len(usual) != 1 or len(imaging) == 1:
        return streams
    return [
        replace(stream, preferred=True)
        if stream.path in usual and isinstance(stream, (RegularStream, IrregularStream))
        else stream
        for stream in streams
    ]


def _with_behavior(streams: list[AnyStream]) -> list[AnyStream]:
    """Take plain series of processing modules for behaviour where nothing else is."""
    if any(stream.modality == "behavior" for stream in streams):
        return streams
    return [
        replace(stream, modality="behavior")
        if stream.modality == "other" and stream.kind_name == "TimeSeries" and stream.path.startswith("processing/")
        else stream
        for stream in streams
    ]
