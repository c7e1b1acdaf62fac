"""Which shards of an unfinished conversion are complete: one checked line each, appended and synced.

The first line says what the conversion is; a resumed run continues only if it would make the same. Before a shard is
moved into the data set's folder, a line names it, so that it can be found whatever happens next; when it is there,
another line records it. Every line starts with a checksum of the rest, so that a line that was torn by a crash is
recognised and redone.

A conversion that is run in parts has a journal for each part beside the first one; together they are one journal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import xxhash
from pydantic import TypeAdapter, ValidationError

from neurofm_shards.errors import FormatError, InputNotFoundError
from neurofm_shards.format.files import Folder, names_in
from neurofm_shards.format.manifest import FileName, ShardEntry
from neurofm_shards.format.unfinished import JOURNAL_NAME, PART_JOURNAL_PREFIX, belongs_to_conversion
from neurofm_shards.writing.lock import boot_id

_DIGEST_BYTES = 16
_FILE_NAME = TypeAdapter(FileName)


@dataclass(frozen=True)
class JournalHeader:
    """What an unfinished conversion is.

    Attributes
    ----------
    kind : str
        ``"convert"``, ``"append"`` or ``"retry"``; ``"part"`` in the journal of a part.
    identity : mapping
        JSON values that a resumed run must have in common: config, inputs, base.
    total_shards : int
        How many shards it will write at most.
    durable : bool
        Whether shards were synced before they were recorded.
    boot : str
        Which start of the machine it was written in.
    """

    kind: str
    identity: Mapping[str, Any]
    total_shards: int
    durable: bool
    boot: str = field(default_factory=boot_id)


@dataclass(frozen=True)
class JournalContent:
    """A journal as it was found.

    Attributes
    ----------
    header : JournalHeader
        What is being made.
    shards : dict of int to dict
        The records of finished shards, by shard number.
    announced : frozenset of str
        Names of shards that were about to be moved into place.
    notes : tuple of dict
        What was written down of runs: who started when, and how it ended.
    sound_bytes : int
        Length of the part whose checksums match.
    """

    header: JournalHeader
    shards: dict[int, dict[str, Any]]
    announced: frozenset[str]
    notes: tuple[dict[str, Any], ...]
    sound_bytes: int

    def shard_names(self) -> set[str]:
        """Return the names of all shards that may be in the folder."""
        recorded = (line["shard"] for line in self.shards.values())
        return {shard["shard_name"] for shard in recorded if shard is not None} | self.announced


def read_journal(sidecars: Path) -> JournalContent | None:
    """Read the journal of an output's hidden folder; None where there is none or its first line was never whole.

    Raises
    ------
    FormatError
        It was written by another program, or made up.
    """
    first = read_one_journal(sidecars, JOURNAL_NAME)
    if first is None:
        return None
    parts = [part for name in part_journals(sidecars) if (part := read_one_journal(sidecars, name)) is not None]
    shards = {number: line for content in (*parts, first) for number, line in content.shards.items()}
    announced = first.announced.union(*(part.announced for part in parts))
    boots = {first.header.boot, *(part.header.boot for part in parts)}
    header = replace(first.header, boot=first.header.boot if len(boots) == 1 else "")
    return JournalContent(header, shards, announced, first.notes, first.sound_bytes)


def read_one_journal(sidecars: Path, name: str) -> JournalContent | None:
    """Read one journal file; None where there is none or its first line was never whole (raises FormatError)."""
    try:
        with Folder.open(sidecars) as folder:
            data = folder.read(name)
    except InputNotFoundError:
        return None
    lines, sound_bytes = _sound_lines(data)
    if not lines:
        return None
    try:
        return _content(lines, sound_bytes)
    except (KeyError, TypeError, ValidationError) as error:
        raise FormatError(f"{sidecars / name} is no journal of this version ({error}); remove it") from error


def part_journals(sidecars: Path) -> list[str]:
    """Return the names of the journals of parts."""
    return sorted(name for name in names_in(sidecars) if name.startswith(PART_JOURNAL_PREFIX) and "." not in name)


def _content(lines: list[dict[str, Any]], sound_bytes: int) -> JournalContent:
    header = JournalHeader(**lines[0])
    shards: dict[int, dict[str, Any]] = {}
    announced = set()
    notes = []
    for line in lines[1:]:
        if "note" in line:
            notes.append(line)
            continue
        if "announced" in line:
            announced.add(_FILE_NAME.validate_python(line["announced"]))
            continue
        if line["shard"] is not None:
            ShardEntry.model_validate(line["shard"])
        shards[int(line["shard_idx"])] = line
    return JournalContent(header, shards, frozenset(announced), tuple(notes), sound_bytes)


def remove_journal(sidecars: Path) -> None:
    """Remove the journal, those of parts and the plan: the conversion is finished."""
    with Folder.open(sidecars) as folder:
        for name in sorted(filter(belongs_to_conversion, folder.names()), reverse=True):  # the first one last
            folder.remove(name)


class Journal:
    """Appends to a journal; a context manager.

    Parameters
    ----------
    sidecars : Path
        The output's hidden folder.
    header : JournalHeader
        Written first, unless ``found`` is continued.
    found : JournalContent or None
        What an interrupted run left; a torn last line is cut off.
    name : str
        Name of the file.
    """

    def __init__(
        self, sidecars: Path, header: JournalHeader, found: JournalContent | None, name: str = JOURNAL_NAME
    ) -> None:
        self._durable = header.durable
        with Folder.open(sidecars, create=True) as folder:
            if found is None:
                folder.remove(name)  # one whose first line was never whole
                descriptor = folder.create_file(name)
            else:
                descriptor = folder.open_own_file(name, os.O_WRONLY)
            self._file = os.fdopen(descriptor, "wb")
            try:
                self._start(folder, header, found)
            except BaseException:
                self._file.close()
                raise

    def _start(self, folder: Folder, header: JournalHeader, found: JournalContent | None) -> None:
        if found is not None:
            self._file.truncate(found.sound_bytes)
            self._file.seek(found.sound_bytes)
            return
        self._append([asdict(header)])
        if self._durable:
            folder.sync()
            with Folder.open(folder.path.parent) as parent:
                parent.sync()

    def announce(self, shard_names: Iterable[str]) -> None:
        """Record that shards are about to be moved into the data set's folder."""
        self._append({"announced": name} for name in shard_names)

    def record(self, shards: Iterable[Mapping[str, Any]]) -> None:
        """Record shards that are complete; each has ``shard_idx``."""
        self._append(shards)

    def note(self, what: str, **facts: Any) -> None:
        """Write down something of the run itself."""
        self._append([{"note": what, **facts}])

    def close(self) -> None:
        """Close the file; the journal stays until it is removed."""
        self._file.close()

    def _append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        for line in lines:
            text = orjson.dumps(line)
            self._file.write(xxhash.xxh3_64_hexdigest(text).encode() + b" " + text + b"\n")
        self._file.flush()
        if self._durable:
            os.fsync(self._file.fileno())


def _sound_lines(data: bytes) -> tuple[list[dict[str, Any]], int]:
    lines: list[dict[str, Any]] = []
    end = 0
    for raw in data.split(b"\n")[:-1]:
        digest, text = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES + 1 :]
        if xxhash.xxh3_64_hexdigest(text).encode() != digest:
            break
        lines.append(orjson.loads(text))
        end += len(raw) + 1
    return lines, end
