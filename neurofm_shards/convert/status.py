"""Status: how far a conversion is, by whom and how fast, read from the files in its output folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neurofm_shards.convert.parts import Part, part_contents
from neurofm_shards.convert.stored_plan import INPUTS_PREFIX, PLAN_NAME, read_header
from neurofm_shards.errors import InputNotFoundError, NeurofmShardsError
from neurofm_shards.format.files import names_in
from neurofm_shards.writing.journal import JournalContent
from neurofm_shards.writing.output_folder import OutputFolder


@dataclass(frozen=True)
class PartStatus:
    """How far a part is.

    Attributes
    ----------
    part : str
        ``K/N``.
    state : str
        ``"waiting"``, ``"running"``, ``"finished"``, ``"failed"`` or ``"stopped"`` (killed, or never seen to end).
    finished_shards, total_shards : int
        Shards that are in place, and all of its share.
    host, job : str
        Where it ran last, and as which job of a scheduler.
    pid : int
        The process.
    shards_per_s : float
        Speed since it was started last.
    last_s : float or None
        Seconds since its last sign of life.
    error : str
        How it failed last.
    """

    part: str
    state: str
    finished_shards: int
    total_shards: int
    host: str = ""
    job: str = ""
    pid: int = 0
    shards_per_s: float = 0.0
    last_s: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Status:
    """How far a conversion is.

    Attributes
    ----------
    folder : str
        The output.
    state : str
        ``"finished"``, ``"planning"``, ``"unfinished"`` or ``"nothing"``.
    finished_shards, total_shards : int
        Shards that are in place, and all of them; of a planning, its parts.
    num_samples, num_bytes : int
        What the finished shards hold.
    shards_per_s : float
        Speed of all running parts together.
    remaining_s : float or None
        Seconds that are left at this speed.
    failures : tuple of str
        What was left out, and why.
    parts : tuple of PartStatus
        The parts, where it has some.
    """

    folder: str
    state: str
    finished_shards: int = 0
    total_shards: int = 0
    num_samples: int = 0
    num_bytes: int = 0
    shards_per_s: float = 0.0
    remaining_s: float | None = None
    failures: tuple[str, ...] = ()
    parts: tuple[PartStatus, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        return asdict(self)


def read_status(folder: str | os.PathLike[str]) -> Status:
    """Read how far the conversion into a folder is; nothing is changed.

    Raises
    ------
    InputNotFoundError
        There is no such folder.
    """
    output = OutputFolder(Path(folder))
    if not output.folder.is_dir():
        raise InputNotFoundError(f"there is no folder {folder}")
    try:
        return _finished(output) or _going_on(output)
    except NeurofmShardsError:  # journal and plan go when the manifest is written, perhaps in this very moment
        status = _finished(output)
        if status is None:
            raise
        return status


def _finished(output: OutputFolder) -> Status | None:
    manifest = output.manifest()
    if manifest is None:
        return None
    size = sum(entry.shard_bytes for entry in manifest.shards)
    count = manifest.total_shards
    failures = tuple(entry["error"] for entry in manifest.failures)
    return Status(str(output.folder), "finished", count, count, manifest.total_samples, size, failures=failures)


def _going_on(output: OutputFolder) -> Status:
    journal = output.journal()
    if journal is None:
        return _planning(output)
    parts = _parts(output, time.time()) if PLAN_NAME in names_in(output.sidecars) else ()
    return _unfinished(output, journal, parts)


def _planning(output: OutputFolder) -> Status:
    names = names_in(output.sidecars) if output.sidecars.is_dir() else []
    planned = [name.removeprefix(INPUTS_PREFIX).partition("-of-") for name in names if name.startswith(INPUTS_PREFIX)]
    if not planned:
        return Status(str(output.folder), "nothing")
    return Status(str(output.folder), "planning", len(planned), int(planned[0][2]))


def _unfinished(output: OutputFolder, journal: JournalContent, parts: Sequence[PartStatus]) -> Status:
    lines = list(journal.shards.values())
    entries = [line["shard"] for line in lines if line["shard"] is not None]
    speed = sum(part.shards_per_s for part in parts if part.state == "running") if parts else _speed(lines)
    left = journal.header.total_shards - len(lines)
    return Status(
        str(output.folder),
        "unfinished",
        len(lines),
        journal.header.total_shards,
        sum(entry["num_samples"] for entry in entries),
        sum(entry["shard_bytes"] for entry in entries),
        speed,
        left / speed if speed else None,
        tuple(failure["error"] for line in lines for failure in line["failures"]),
        tuple(parts),
    )


def _parts(output: OutputFolder, now: float) -> tuple[PartStatus, ...]:
    header = read_header(output.folder, output.sidecars)
    found = part_contents(output)
    planned = [Part(k, header.parts) for k in range(1, header.parts + 1)]
    others = sorted((part for part in found if part.n != header.parts), key=lambda part: (part.n, part.k))
    return tuple(_part(part, found.get(part), header.total_shards, now) for part in [*planned, *others])


def _part(part: Part, found: tuple[JournalContent, bool] | None, total_shards: int, now: float) -> PartStatus:
    total = len(part.share(total_shards))
    if found is None:
        return PartStatus(str(part), "waiting", 0, total)
    content, is_running = found
    last = content.notes[-1] if content.notes else {}
    began = next((note["at"] for note in reversed(content.notes) if note["note"] == "started"), now)
    lines = [line for line in content.shards.values() if line.get("at", 0) >= began]
    at = max((line["at"] for line in lines), default=last.get("at", now))
    return PartStatus(
        str(part),
        "running" if is_running else _ended(last, len(content.shards), total),
        len(content.shards),
        total,
        last.get("host", ""),
        last.get("job", ""),
        last.get("pid", 0),
        _speed(lines, began),
        max(0.0, now - at),
        last.get("error", "") if not is_running else "",
    )


def _ended(last: Mapping[str, Any], finished: int, total: int) -> str:
    if finished == total:
        return "finished"
    return "failed" if last.get("note") == "failed" else "stopped"


def _speed(lines: Iterable[Mapping[str, Any]], began: float | None = None) -> float:
    """Return shards per second, from when the first was begun to when the last was in place."""
    times = [(line["at"] - line["seconds"], line["at"]) for line in lines if "at" in line]
    if not times:
        return 0.0
    start = began if began is not None else min(begun for begun, _ in times)
    return float(len(times) / max(max(at for _, at in times) - start, 1e-3))
