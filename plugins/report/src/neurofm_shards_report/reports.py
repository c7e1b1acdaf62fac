"""The report of a data set or a recording: what it is, drawn, in one HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from neurofm_shards._wording import counted, size_text
from neurofm_shards.blocks import dtype_name
from neurofm_shards.errors import FormatError, InputNotFoundError
from neurofm_shards.format.files import write_atomically
from neurofm_shards.format.sessions import said_by_sources
from neurofm_shards.loading.shuffle_quality import shuffle_report
from neurofm_shards.maintenance.validate import shard_files
from neurofm_shards.types import Problem
from neurofm_shards_report.damage import MAX_CHECKED_BYTES, damage_page, damage_parts, errors_of
from neurofm_shards_report.facts import DatasetFacts, Labels, ProblemGroup, open_facts
from neurofm_shards_report.measures import DrawnSamples
from neurofm_shards_report.page import (
    Alarm,
    Code,
    Facts,
    Figures,
    Page,
    Part,
    Section,
    Table,
    Text,
    render,
    table,
)
from neurofm_shards_report.recording import recording_page
from neurofm_shards_report.sessions import session_parts, split_parts
from neurofm_shards_report.signals import sample_parts, signal_parts

#: Names of folders that many data sets have.
_USUAL = frozenset({"shards", "data", "out", "output", "train", "dataset"})


def report(
    path: str | os.PathLike[str], output: str | os.PathLike[str] = "report.html", *, format_name: str = "auto"
) -> Path:
    """Write a report about a data set or a recording: one HTML file without scripts that loads nothing.

    Parameters
    ----------
    path : path-like
        A folder of shards, one shard, or an input file that a source plugin reads.
    output : path-like
        The file to write.
    format_name : str
        Name of the source plugin of an input file; found by suffix and content by default.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputNotFoundError, NoShardsError
        There is no such path, or nothing in it to report on.
    MissingPluginError
        No installed plugin reads the input.
    """
    page = _dataset_or_damage(path) if is_dataset(path) else recording_page(os.fspath(path), format_name)
    target = Path(output)
    write_atomically(target, [render(page).encode()])
    return target


def _dataset_or_damage(path: str | os.PathLike[str]) -> Page:
    try:
        return dataset_page(path)
    except FormatError as error:
        return damage_page(path, error)


def is_dataset(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a folder of shards or a shard, rather than an input."""
    place = Path(path)
    if not place.exists():
        raise InputNotFoundError(f"{place} does not exist: name a folder of shards, a shard or an input file")
    if place.is_dir():
        return (place / "dataset_metadata.json").exists() or bool(shard_files(place))
    return ".tar" in place.name


def dataset_page(path: str | os.PathLike[str]) -> Page:
    """Return the page about a data set."""
    facts = open_facts(path)
    drawn = DrawnSamples(facts)
    found = errors_of(facts)
    canvas = Figures()
    sections = [
        Section("damage", "Damage", damage_parts(found or [])),
        Section("what", "What it is", _card(facts, drawn)),
        Section("time", "Sessions and time", session_parts(facts, canvas)),
        Section("splits", "Splits and leaks", split_parts(facts, canvas)),
        Section("signals", "Signals", signal_parts(drawn, canvas)),
        Section("samples", "Samples", sample_parts(facts, drawn, canvas)),
        Section("problems", "Problems", _problems(facts)),
        Section("shuffling", "Shuffling", _shuffling(facts)),
        Section("provenance", "Provenance", _provenance(facts)),
    ]
    numbers = [(facts.num_samples, "sample"), (len(facts.collection.catalog.names), "shard")]
    lead = f"{', '.join(counted(*each) for each in numbers)}. {_sources_in_a_line(facts)}"
    alarms = [*_of_check(found, facts), *_alarms(facts, drawn)]
    return Page(f"Data set {title_of(path)}", lead, [section for section in sections if section.parts], alarms)


def title_of(path: str | os.PathLike[str]) -> str:
    """Return what a data set is called: its folder, and the one around it where many are called the same."""
    place = Path(path).resolve()
    return f"{place.parent.name}/{place.name}" if place.name in _USUAL else place.name


def _of_check(found: Sequence[Problem] | None, facts: DatasetFacts) -> list[Alarm]:
    """Return what the check of the shards comes to."""
    if found is None:
        larger = int(facts.collection.catalog.file_bytes.sum()) > MAX_CHECKED_BYTES
        said = f"The shards were not compared with their checksums, being larger than {size_text(MAX_CHECKED_BYTES)}"
        return [Alarm("info", f"{said}: run `neurofm-shards validate`.")] if larger else []
    errors = sum(one.severity == "error" for one in found)
    if errors:
        said = f"The data set is damaged: {counted(errors, 'error')}; what is drawn below may be wrong. See Damage."
        return [Alarm("error", said)]
    if found:
        return [Alarm("warning", f"A check of the shards found {counted(len(found), 'warning')}; see Damage.")]
    number = len(facts.collection.catalog.names)
    said = "The shard matches its checksums." if number == 1 else f"All {number:,} shards match their checksums."
    return [Alarm("good", said)]


def _sources_in_a_line(facts: DatasetFacts) -> str:
    named = [session.summary.name for session in facts.sessions if session.summary.name]
    subjects = {session.summary.subject for session in facts.sessions} - {""}
    if not named:
        return "The samples say nothing of sessions."
    hours = _hours(facts)
    spent = "" if hours is None else f", {hours} in windows"
    whose = counted(len(subjects), "subject") if subjects else "unknown subjects"
    return f"{counted(len(named), 'session')} of {whose}{spent}."


def _hours(facts: DatasetFacts) -> str | None:
    covered = [session.covered_s for session in facts.sessions if session.covered_s is not None]
    return span(sum(covered)) if covered else None


def span(seconds: float) -> str:
    """Return a length of time in the unit that suits it."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.2f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def _alarms(facts: DatasetFacts, drawn: DrawnSamples) -> list[Alarm]:
    found = []
    manifest = facts.manifest
    if manifest is None:
        found.append(Alarm("info", "There is no manifest: nothing is known of sources, options and checksums."))
    elif manifest.failures:
        found.append(
            Alarm("error", f"{counted(len(manifest.failures), 'input')} could not be converted; see Problems.")
        )
    if facts.stores_recordings:
        said = "Recordings are stored as they are; this page shows the windows that loaders cut of them by default."
        found.append(Alarm("info", said))
    leaks = [leak for leak in facts.leaks() if leak["overlapping"]]
    found += [
        Alarm(
            "error",
            f"Splits {leak['splits'][0]} and {leak['splits'][1]} share time: "
            f"{counted(leak['overlapping'], 'overlapping window')}.",
        )
        for leak in leaks
    ]
    if facts.has_splits and not leaks and facts.start is not None:
        found.append(Alarm("good", "No window of one split overlaps in time with one of another."))
    found += _in_several_splits(facts)
    severe = sum(group.sources for group in facts.problems() if group.severity in ("warning", "error"))
    if severe:
        found.append(Alarm("warning", f"{counted(severe, 'warning')} about the sources; see Problems."))
    empty = [name for name, share in drawn.valid_shares().items() if share == 0]
    found += [
        Alarm("warning", f"No value of {name} is valid in the {counted(len(drawn.rows), 'sample')} looked at.")
        for name in empty
    ]
    return found


def _in_several_splits(facts: DatasetFacts) -> list[Alarm]:
    """Return how many sessions and subjects are in several splits: what a decoder that generalises must not see."""
    leaks, known = facts.leaks(), {"session": facts.sessions_of.are_known, "subject": facts.subjects_of.are_known}
    if not leaks or not any(known.values()):
        return []
    found = {
        what: {name for leak in leaks for name in leak[f"{what}s"]} for what, is_known in known.items() if is_known
    }
    several = [counted(len(names), what) for what, names in found.items() if names]
    if several:
        return [Alarm("info", f"In more than one split: {' and '.join(several)}; see Splits and leaks.")]
    return [Alarm("info", f"No {' and no '.join(found)} is in more than one split.")]


def _card(facts: DatasetFacts, drawn: DrawnSamples) -> list[Part]:
    collection, manifest = facts.collection, facts.manifest
    recorded = [s.summary.recorded_s for s in facts.sessions if s.summary.recorded_s is not None]
    rows = [
        ("samples", f"{facts.num_samples:,}"),
        ("shards", f"{len(collection.catalog.names):,}"),
        ("size on disk", size_text(int(collection.catalog.file_bytes.sum()))),
        ("compression", manifest.compression if manifest else "as the shards' names say"),
        ("sources", _files(facts)),
        ("sessions", _known(facts.sessions_of)),
        ("subjects", _known(facts.subjects_of)),
        *((f"{name}, of all sessions", f"{rows:,}") for name, rows in collection.tables.items()),
        ("recorded", span(sum(recorded)) if recorded else ""),
        ("time in windows", _hours(facts) or "unknown"),
        ("windows", _windows(facts)),
        *(said_by_sources(manifest).items() if manifest else ()),
        ("made by", ", ".join(f"{name} {text}" for name, text in (manifest.software if manifest else {}).items())),
    ]
    values, windows = drawn.valid_shares(), facts.valid_windows()
    cells = [
        (name, dtype_name(spec.dtype), shape_text(spec.shape, spec.dtype), spec.unit,
         _share(windows.get(name) if name in values else None), _share(values.get(name)))
        for name, spec in collection.columns.items()
    ]  # fmt: skip
    heads = f"column|dtype|shape of a sample|unit|valid windows|valid values, in {counted(len(drawn.rows), 'sample')}"
    listed = table(heads, cells, title="Columns", numbers=(4, 5))
    return [Facts([row for row in rows if row[1]]), listed]


def _known(labels: Labels) -> str:
    """Return how many distinct ids there are; nothing where the samples say none."""
    return f"{sum(map(bool, labels.names)):,}" if labels.are_known else ""


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _files(facts: DatasetFacts) -> str:
    """Return how many inputs there are, of which formats, and their names where they are few."""
    sources = facts.source_facts()
    names = [str(file) for source in sources for file in source.get("files") or ()]
    formats = ", ".join(sorted({str(source.get("format")) for source in sources if source.get("format")}))
    if not names:
        return ""
    return f"{counted(len(names), 'file')} ({formats})" + (f": {', '.join(names)}" if len(names) <= 5 else "")


def _windows(facts: DatasetFacts) -> str:
    """Return how windows were cut, where all were cut alike."""
    cut = {(session.summary.window_bins, session.summary.bin_size_ms) for session in facts.sessions}
    bins, width = cut.pop() if len(cut) == 1 else (None, None)
    if bins is None or width is None or facts.manifest is None:
        return ""
    options = facts.manifest.config.get("windows") or {}
    step, overlap = options.get("stride"), options.get("overlap")
    if options.get("sampling", "fixed") == "fixed":
        often = (
            f", one every {step} bins" if step else f", each repeats {overlap:.0%} of the one before" if overlap else ""
        )
    else:
        often = ", one for each trial"
    return f"{bins} bins of {width:g} ms, {bins * width / 1000:g} s{often}"


def shape_text(shape: Sequence[int | None] | None, dtype: str | None) -> str:
    """Return the shape of a sample's array, with ``?`` for a length that varies."""
    if dtype is None:
        return ""
    return "varies" if shape is None else " × ".join("?" if n is None else str(n) for n in shape) or "one number"


def _problems(facts: DatasetFacts) -> list[Part]:
    parts: list[Part] = []
    if facts.manifest is not None and facts.manifest.failures:
        rows = [
            (", ".join(map(str, entry.get("files", ()))), str(entry.get("error", "")))
            for entry in facts.manifest.failures
        ]
        parts.append(table("input|why it was not converted", rows, title="Inputs that failed"))
    groups = facts.problems()
    if groups:
        parts.append(problem_table(groups))
    return parts or [Text("The sources reported no problem.")]


def problem_table(groups: Sequence[ProblemGroup]) -> Table:
    """Return problems as a table, one row for each kind."""
    rows = [
        (
            g.severity,
            g.what,
            g.consequence,
            ", ".join(g.where[:4]) + (f" and {len(g.where) - 4} more" if len(g.where) > 4 else ""),
            g.sources,
        )
        for g in groups
    ]
    return table("severity|what|consequence|where|inputs", rows, title="What was odd about the inputs", numbers=(4,))


def _shuffling(facts: DatasetFacts) -> list[Part]:
    found = shuffle_report(facts.collection)
    rows = [
        (m.mode, f"{m.groups_per_batch:.1f} ({m.expected_groups:.1f})", f"{m.longest_run:.1f} ({m.expected_run:.1f})",
         f"{m.adjacent_rate:.3f} ({m.expected_adjacent:.3f})", f"{m.rank_correlation:+.3f} (0)")
        for m in found.modes
    ]  # fmt: skip
    said = (
        f"How random the order of an epoch is for batches of {found.batch_size} and a buffer of {found.buffer_size:,}; "
        "in brackets what a uniformly random order gives."
    )
    grouped = found.grouped_by.removesuffix("_id")
    heads = f"shuffle|{grouped}s per batch|longest run of one|neighbours alike|correlation with storage"
    return [Text(said), table(heads, rows, numbers=(1, 2, 3, 4))]


def _provenance(facts: DatasetFacts) -> list[Part]:
    manifest = facts.manifest
    if manifest is None:
        return [Text("Without a manifest nothing is known of how the shards were made.")]
    parts: list[Part] = [Text("How the data set was made: software, sources with their fingerprints, and options.")]
    parts.append(Facts([(name, text) for name, text in manifest.software.items()]))
    sources = [
        (", ".join(map(str, s.get("files", ()))), s.get("format"), s.get("num_samples"), s.get("fingerprint"))
        for s in manifest.sources
    ]
    if sources:
        parts.append(
            table(
                "source|format|samples|fingerprint",
                sources,
                title=counted(len(sources), "source"),
                folded=True,
                numbers=(2,),
            )
        )
    if manifest.config:
        options = orjson.dumps(_set_options(manifest.config), option=orjson.OPT_INDENT_2).decode()
        parts.append(Code(options, "All options"))
    return parts


def _set_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out options without a value."""
    return {
        name: _set_options(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if value not in (None, {}, [], ())
    }
