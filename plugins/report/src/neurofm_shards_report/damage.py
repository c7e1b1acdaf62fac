"""What is wrong with a data set: the check of its shards, and the page about one that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

from neurofm_shards._wording import counted
from neurofm_shards.errors import FormatError
from neurofm_shards.format.manifest import read_manifest
from neurofm_shards.format.sessions import session_summaries
from neurofm_shards.maintenance.validate import validate_dataset
from neurofm_shards.types import Problem
from neurofm_shards_report.facts import DatasetFacts
from neurofm_shards_report.page import Alarm, Facts, Page, Part, Section, Text, table
from neurofm_shards_report.sessions import some

#: Larger data sets are not compared with their checksums for a report, which draws from indexes and few samples.
MAX_CHECKED_BYTES = 256 << 20


def errors_of(facts: DatasetFacts) -> list[Problem] | None:
    """Return what a check of the shards finds; None where that would take long, or there is nothing to compare with."""
    small = int(facts.collection.catalog.file_bytes.sum()) <= MAX_CHECKED_BYTES
    if facts.manifest is None or not small or not Path(facts.path).is_dir():
        return None
    return [found for found in validate_dataset(facts.path).findings if found.severity != "info"]


def damage_page(path: str | os.PathLike[str], error: FormatError) -> Page:
    """Return the page about a data set that cannot be read: what is damaged, what was there, and what to do."""
    place = Path(path)
    found = validate_dataset(place).findings if place.is_dir() else ()
    alarm = Alarm("error", "The data set is damaged, so nothing in it is drawn.")
    sections = [Section("damage", "Damage", [Text(str(error)), *damage_parts(found)]), *_as_listed(place)]
    return Page(f"Data set {place.resolve().name}", "It cannot be read whole.", sections, [alarm])


def damage_parts(found: tuple[Problem, ...] | list[Problem]) -> list[Part]:
    """Return what a check found, equal findings together, and what to do."""
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for finding in found:
        where = f"{finding.where}, {finding.key}" if finding.key else finding.where
        kinds.setdefault((finding.severity, finding.what, finding.consequence), []).append(where)
    rows = [(*kind, some(list(dict.fromkeys(shards)))) for kind, shards in sorted(kinds.items())]
    if not rows:
        return []
    listed = table("severity|what|consequence|where", rows, title="What a check of the whole data set found")
    return [listed, Text("neurofm-shards repair makes new indexes and keeps what can be saved; then report again.")]


def _as_listed(folder: Path) -> list[Section]:
    """Return what the manifest says that there should be; nothing where it cannot be read."""
    try:
        manifest = read_manifest(folder) if folder.is_dir() else None
    except FormatError:
        return []  # a finding of the check
    if manifest is None:
        return []
    sessions = [session for session in session_summaries(manifest) if session.name]
    rows = [(s.name, s.subject, ", ".join(s.files), s.samples, s.recorded_s) for s in sessions]
    numbers = Facts([
        ("samples", f"{manifest.total_samples:,}"),
        ("shards", f"{manifest.total_shards:,}"),
        ("sessions", f"{len(sessions):,}"),
        ("columns", ", ".join(manifest.modalities)),
    ])  # fmt: skip
    title = counted(len(sessions), "session")
    listed = table("session|subject|source|samples|recorded (s)", rows, title=title, numbers=(3, 4))
    shards = [(shard.shard_name, shard.num_samples, shard.split, shard.shard_bytes) for shard in manifest.shards]
    behind = table(
        "shard|samples|split|bytes", shards, title=counted(len(shards), "shard"), folded=True, numbers=(1, 3)
    )
    return [Section("listed", "What the manifest lists", [numbers, listed, behind])]
