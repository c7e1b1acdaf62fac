"""Which shards of an unfinished conversion are complete: one checked line each, appended and synced.

The first line says what the conversion is; a resumed run continues only if it would make the same. Every line starts
with a checksum of the rest, so that a line that was torn by a crash is recognised and redone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import xxhash

from neurofm_shards.format.files import SIDECAR_DIR, sync_folder
from neurofm_shards.format.manifest import MANIFEST_NAME

#: Names the finished shards of a conversion; removed after the manifest was written.
JOURNAL_NAME = "journal"
#: A Python writer is writing here, or was when it was killed.
UNFINISHED_NAME = "unfinished"
#: Names what is being deleted.
DOOMED_NAME = "doomed"
#: How folders start that hold files to be moved into place as one step.
COMMITTED_PREFIX = "commit-"
#: A folder laid out like a data set, in which the one that replaces the present one is written.
REPLACEMENT_NAME = "replacement"


def pending_step(folder: Path) -> str | None:
    """Say what must be finished or given up before anything is added to the data set of a folder."""
    sidecars = folder / SIDECAR_DIR
    for name, what in (
        (JOURNAL_NAME, "an addition to"),
        (f"{COMMITTED_PREFIX}*", "a drop, a merge or an overwriting of"),
        (REPLACEMENT_NAME, "an overwriting of"),
    ):
        if any(sidecars.glob(name)):
            return f"{what} {folder} was interrupted: finish it with the same command, or run `neurofm-shards repair`"
    return None


def why_unfinished(folder: Path) -> str | None:
    """Say what was interrupted in a folder that has no manifest, and what to do; None where nothing was.

    Shards may lie in such a folder, but they are no data set.
    """
    sidecars = folder / SIDECAR_DIR
    if (sidecars / JOURNAL_NAME).exists():
        return (
            f"{folder} is an unfinished conversion: it has a journal but no {MANIFEST_NAME}. Finish it by running the "
            "same `neurofm-shards convert` command again with --resume"
        )
    if any(sidecars.glob(f"{COMMITTED_PREFIX}*")):
        return (
            f"{folder} is an unfinished merge or overwriting: everything is written, but not yet in its place. "
            "`neurofm-shards repair` finishes it"
        )
    if (sidecars / DOOMED_NAME).exists():
        return (
            f"{folder} is an unfinished deletion: what was here was being replaced. Run the command that replaces it "
            "again with --overwrite"
        )
    if (sidecars / UNFINISHED_NAME).exists():
        return (
            f"{folder} is an unfinished data set: the program that wrote it was interrupted before finalize(). Write "
            "it again with overwrite=True, or keep what is there with `neurofm-shards repair`"
        )
    return None


_DIGEST_BYTES = 16


def boot_id() -> str:
    """Return what tells one start of this machine from the next; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class JournalHeader:
    """What an unfinished conversion is.

    Attributes
    ----------
    kind : str
        ``"convert"``, ``"append"`` or ``"retry"``.
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
    """A journal as it was found: its header and the records of finished shards, by shard number."""

    header: JournalHeader
    shards: dict[int, dict[str, Any]]
    sound_bytes: int


def read_journal(folder: Path) -> JournalContent | None:
    """Read the journal of an output's sidecar folder; None where there is none or its first line was never whole."""
    try:
        data = (folder / JOURNAL_NAME).read_bytes()
    except FileNotFoundError:
        return None
    lines, sound_bytes = _sound_lines(data)
    if not lines:
        return None
    shards = {line["shard_idx"]: line for line in lines[1:]}
    return JournalContent(JournalHeader(**lines[0]), shards, sound_bytes)


def remove_journal(folder: Path) -> None:
    """Remove the journal: the conversion is finished."""
    (folder / JOURNAL_NAME).unlink(missing_ok=True)


class Journal:
    """Appends to a journal; a context manager.

    Parameters
    ----------
    folder : Path
        The output's sidecar folder.
    header : JournalHeader
        Written first, unless ``found`` is continued.
    found : JournalContent or None
        What an interrupted run left; a torn last line is cut off.
    """

    def __init__(self, folder: Path, header: JournalHeader, found: JournalContent | None) -> None:
        self._path = folder / JOURNAL_NAME
        self._durable = header.durable
        self._file: BinaryIO = self._path.open("r+b" if found else "wb")
        try:
            self._start(header, found)
        except BaseException:
            self._file.close()
            raise

    def _start(self, header: JournalHeader, found: JournalContent | None) -> None:
        if found:
            self._file.truncate(found.sound_bytes)
            self._file.seek(found.sound_bytes)
            return
        self._append(header.__dict__)
        if self._durable:
            sync_folder(self._path.parent)
            sync_folder(self._path.parent.parent)

    def record(self, shard: Mapping[str, Any]) -> None:
        """Record a shard that is complete; ``shard`` has ``shard_idx``."""
        self._append(shard)

    def close(self) -> None:
        """Close the file; the journal stays until it is removed."""
        self._file.close()

    def _append(self, line: Mapping[str, Any]) -> None:
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
