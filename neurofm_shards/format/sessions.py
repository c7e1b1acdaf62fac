"""Summarise the sessions of a data set from its manifest alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from neurofm_shards._wording import first_part
from neurofm_shards.format.manifest import Manifest

#: Sessions, texts of inputs, and kinds of problems, that a description of a data set lists.
MOST_ROWS = 20
#: Facts of inputs that a description of a data set tells, as sources name them, and the words for each.
TOLD: Mapping[str, str] = {
    "species": "species",
    "license": "licence",
    "related_publications": "publications",
    "experimenter": "experimenter",
    "lab": "lab",
    "institution": "institution",
    "keywords": "keywords",
    "experiment_description": "experiment",
    "protocol": "protocol",
    "data_collection": "data collection",
    "notes": "notes",
    "source_script": "made from",
    "nwb_version": "NWB version",
}


@dataclass(frozen=True)
class SessionSummary:
    """What the inputs of one session became.

    Attributes
    ----------
    name, subject : str
        Ids; empty where the input has none.
    files : tuple of str
        Names of the inputs.
    samples : int or None
        Its samples; None where the sources' numbers do not add up to those of the data set, because a transform dropped
        some or they were withdrawn.
    splits : mapping of str to int
        Samples by split; empty where the data set has none or saved ones, or ``samples`` is None.
    extent_s : tuple of (float, float) or None
        First and last second of the recording.
    recorded_s : float or None
        Seconds in which something was recorded: the extent without pauses.
    bin_size_ms, window_bins : float and int, or None
        Width of a bin, and bins in a window.
    drops : mapping of str to int
        Windows left out, by reason.
    left_out_s : mapping of str to list of (float, float)
        Stretches of time that are in no window, by the reason for which they were left out.
    tables : mapping of str to int
        Rows in each side table (units, channels, features).
    """

    name: str
    subject: str = ""
    files: tuple[str, ...] = ()
    samples: int | None = None
    splits: Mapping[str, int] = field(default_factory=dict)
    extent_s: tuple[float, float] | None = None
    recorded_s: float | None = None
    bin_size_ms: float | None = None
    window_bins: int | None = None
    drops: Mapping[str, int] = field(default_factory=dict)
    left_out_s: Mapping[str, list[tuple[float, float]]] = field(default_factory=dict)
    tables: Mapping[str, int] = field(default_factory=dict)


def texts_of_sources(manifest: Manifest, name: str) -> list[str]:
    """Return the texts that the inputs have under a name, which may be lists of them, each once."""
    facts = [source.get("facts") or {} for source in manifest.sources]
    found = [(said.get("facts") or said).get(name) for said in facts]
    listed = [value if isinstance(value, (list, tuple)) else [value] for value in found]
    return list(dict.fromkeys(str(text) for texts in listed for text in texts if text))


def said_by_sources(manifest: Manifest) -> dict[str, str]:
    """Return descriptions and licences of the inputs by label; a line says where no licence is named."""
    said = {words: _in_a_line(texts_of_sources(manifest, name)) for name, words in TOLD.items()}
    said["licence"] = said["licence"] or ("none is named in the sources" if manifest.sources else "")
    return {words: text for words, text in said.items() if text}


def _in_a_line(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - MOST_ROWS} more" if len(texts) > MOST_ROWS else ""
    return first_part("; ".join(texts[:MOST_ROWS])) + more


def session_summaries(manifest: Manifest) -> list[SessionSummary]:
    """Return the sessions of a manifest, in the order of its sources; inputs of one session together."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for number, source in enumerate(manifest.sources):
        name = source.get("session_id")
        by_name.setdefault(str(name) if name else f"\0{number}", []).append(source)
    found = [_session(name if name[0] != "\0" else "", sources) for name, sources in by_name.items()]
    if sum(session.samples or 0 for session in found) != manifest.total_samples:
        return [replace(session, samples=None, splits={}) for session in found]
    if manifest.splits:  # saved ones count, and nobody says here which of them a session is in
        return [replace(session, splits={}) for session in found]
    return found


def _session(name: str, sources: Sequence[Mapping[str, Any]]) -> SessionSummary:
    facts = [source.get("facts") or {} for source in sources]
    extents = [said["extent_s"] for said in facts if said.get("extent_s")]
    tables = [{table: rows for table, (_, rows) in (source.get("tables") or {}).items()} for source in sources]
    return SessionSummary(
        name=name,
        subject=next((str(said["subject_id"]) for said in facts if said.get("subject_id")), ""),
        files=tuple(str(file) for source in sources for file in source.get("files") or ()),
        samples=sum(source.get("num_samples") or 0 for source in sources),
        splits=_added(said.get("splits") for said in facts),
        extent_s=(min(e[0] for e in extents), max(e[1] for e in extents)) if extents else None,
        recorded_s=sum(map(_recorded, facts)) if extents else None,
        bin_size_ms=facts[0].get("bin_size_ms"),
        window_bins=facts[0].get("window_bins"),
        drops=_added(source.get("drops") for source in sources),
        left_out_s=_stretches(said.get("left_out_s") for said in facts),
        tables=_added(tables),
    )


def _recorded(facts: Mapping[str, Any]) -> float:
    first, last = facts.get("extent_s") or (0.0, 0.0)
    recorded = facts.get("recorded_s")
    return float(last - first if recorded is None else recorded)


def _stretches(told: Iterable[Mapping[str, Any] | None]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for some in told:
        for reason, spans in (some or {}).items():
            found.setdefault(reason, []).extend((float(start), float(stop)) for start, stop in spans)
    return found


def _added(counts: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for some in counts:
        total.update(some or {})
    return dict(total)
