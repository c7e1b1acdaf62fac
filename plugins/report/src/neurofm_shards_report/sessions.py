"""The parts of a report about sessions, time and splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neurofm_shards._wording import counted
from neurofm_shards_report import figures
from neurofm_shards_report.facts import DatasetFacts, Session
from neurofm_shards_report.measures import Validity, validity
from neurofm_shards_report.page import Figures, Part, Table, Text, table


def session_parts(facts: DatasetFacts, canvas: Figures) -> list[Part]:
    """Return when sessions were recorded, where windows lie and are valid, and what was left out."""
    parts: list[Part] = []
    rows = len(facts.sessions)
    shown = figures.spread_over(rows, figures.MAX_ROWS)
    valid = validity(facts, shown)
    listed = _session_table(facts)
    left_out = _left_out_table(facts)
    figure = figures.timeline(facts, valid)
    if figure is None:
        parts += [Text("The samples say no times, so there is no timeline."), *([listed] if _are_told(facts) else [])]
    else:
        what = "When each session was recorded, where its windows lie, and why time is in none."
        caption = f"{what}{_few(rows, 'sessions')}{_looked_at(valid)}"
        parts.append(canvas.picture(figure, caption, listed))
        parts += [left_out] if left_out is not None else []
    drops = facts.drops()
    if drops:
        title = "Windows left out"
        parts.append(table("windows left out because|windows", drops.items(), title=title, numbers=(1,)))
    return parts


def _left_out_table(facts: DatasetFacts) -> Table | None:
    cells = [
        (reason, session.summary.name or "(none)", round(start, 3), round(stop, 3))
        for session in facts.sessions
        for reason, spans in session.summary.left_out_s.items()
        for start, stop in spans
    ]
    title = f"Time in no window, and why ({counted(len(cells), 'span')})"
    heads = "left out because|session|from (s)|to (s)"
    return table(heads, cells, title=title, folded=True, numbers=(2, 3)) if cells else None


def _are_told(facts: DatasetFacts) -> bool:
    return facts.sessions_of.are_known or facts.subjects_of.are_known


def _looked_at(valid: Sequence[Validity]) -> str:
    if not valid:
        return ""
    return f" Paler where fewer values are valid, in {counted(len(valid[0].share), 'window')} looked at."


def _session_table(facts: DatasetFacts) -> Table:
    heads = (
        "session|subject|source|samples|splits|recorded (s)|in windows (s)|units|bin (ms)|bins per window|"
        "windows left out|valid throughout"
    )
    shares = facts.valid_by_session()
    rows = [_session_row(facts, session, shares) for session in facts.sessions]
    title = f"{counted(len(rows), 'session')} as a table"
    return table(heads, rows, title=title, folded=True, numbers=(3, 5, 6, 7, 8, 9))


def _session_row(facts: DatasetFacts, session: Session, shares: Mapping[str, Mapping[str, float]]) -> tuple[Any, ...]:
    s = session.summary
    splits = ", ".join(f"{name} {count:,}" for name, count in s.splits.items()) if facts.has_splits else ""
    valid = ", ".join(f"{name} {share:.1%}" for name, share in shares.get(s.name, {}).items())
    return (
        s.name or "(none)", s.subject, ", ".join(s.files), s.samples, splits, s.recorded_s, session.covered_s,
        s.tables.get("units"), s.bin_size_ms, s.window_bins, _reasons(s.drops), valid,
    )  # fmt: skip


def _reasons(drops: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in drops.items())


def split_parts(facts: DatasetFacts, canvas: Figures) -> list[Part]:
    """Return how samples are spread over splits, sessions and subjects, and what splits share."""
    parts: list[Part] = []
    if not facts.has_splits:
        parts.append(Text("The samples belong to no split."))
    rows = [
        (name, count, f"{count / facts.num_samples:.1%}", _sessions_of(facts, name))
        for name, count in facts.splits_of.counts().items()
    ]
    parts.append(table("split|samples|share|sessions", rows, numbers=(1, 2, 3)))
    by_session = {s.summary.name or "(none)": {**s.summary.splits, **_left_out(s)} for s in facts.sessions}
    by_subject = _by_subject(facts)
    for counts, what in ((by_session, "session"), (by_subject, "subject")):
        if len(counts) > 1:
            parts.append(_bars(facts, canvas, counts, what))
    leaks = facts.leaks()
    if leaks and (facts.start is not None or _are_told(facts)):
        parts.append(_leak_table(facts, leaks))
    return parts


def _leak_table(facts: DatasetFacts, leaks: Sequence[Mapping[str, Any]]) -> Table:
    sessions, subjects = facts.sessions_of.are_known, facts.subjects_of.are_known
    cells = [
        (
            " and ".join(leak["splits"]), leak["overlapping"], some(leak["sessions"]) if sessions else None,
            some(leak["subjects"]) if subjects else None,
        )
        for leak in leaks
    ]  # fmt: skip
    heads = "splits|windows that overlap in time|sessions in both|subjects in both"
    return table(heads, cells, title="What splits share", numbers=(1,))


def _sessions_of(facts: DatasetFacts, split: str) -> int | None:
    return sum(split in s.summary.splits for s in facts.sessions) if facts.sessions_of.are_known else None


def _left_out(session: Session) -> dict[str, int]:
    return {f"left out: {reason}": count for reason, count in session.summary.drops.items()}


def _bars(facts: DatasetFacts, canvas: Figures, counts: Mapping[str, Mapping[str, int]], what: str) -> Part:
    kinds = list(dict.fromkeys(kind for own in counts.values() for kind in own))
    rows = [(name, *(own.get(kind, 0) for kind in kinds)) for name, own in counts.items()]
    behind = table("|".join([what, *kinds]), rows, title="As a table", folded=True, numbers=range(1, len(kinds) + 1))
    figure = figures.stacked(counts, figures.split_colours(facts), "windows")
    return canvas.picture(figure, f"Windows of each {what}.{_few(len(counts), f'{what}s')}", behind)


def _few(count: int, what: str) -> str:
    return f" {figures.MAX_ROWS} of {count:,} {what}, evenly chosen." if count > figures.MAX_ROWS else ""


def some(names: Sequence[str]) -> str:
    """Return the number of names, and the first of them."""
    return f"{len(names):,} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else "none"


def _by_subject(facts: DatasetFacts) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for session in facts.sessions:
        counts = found.setdefault(session.summary.subject or "(none)", {})
        for split, count in session.summary.splits.items():
            counts[split] = counts.get(split, 0) + count
    return found
