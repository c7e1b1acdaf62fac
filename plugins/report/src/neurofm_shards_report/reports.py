"""The report of a data set or a recording: what it is, drawn, in one HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from neurofm_shards.blocks import dtype_name
from neurofm_shards.errors import ConfigError, FormatError, InputNotFoundError
from neurofm_shards.format.files import write_atomically
from neurofm_shards.loading.shuffle_quality import shuffle_report
from neurofm_shards.maintenance.validate import shard_files, validate_dataset
from neurofm_shards_report import figures
from neurofm_shards_report.facts import DatasetFacts, ProblemGroup, drawn_rows, open_facts, total_drops
from neurofm_shards_report.measures import DrawnSamples
from neurofm_shards_report.page import (
    Alarm,
    Code,
    Facts,
    Figures,
    Gallery,
    Page,
    Part,
    Picture,
    Section,
    Table,
    Text,
    render,
    table,
)
from neurofm_shards_report.pictures import describe, plot_view
from neurofm_shards_report.recording import recording_page

#: Samples drawn in a report.
SAMPLES_DRAWN = 12


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


def damage_page(path: str | os.PathLike[str], error: FormatError) -> Page:
    """Return the page about a data set that cannot be read: what is damaged, and what to do."""
    found = validate_dataset(Path(path)).findings
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for finding in found:
        kinds.setdefault((finding.severity, finding.what, finding.consequence), []).append(finding.where)
    rows = [(*kind, _named(list(dict.fromkeys(shards)))) for kind, shards in kinds.items()]
    parts: list[Part] = [
        Text(str(error)),
        table("severity|what|consequence|shards", rows, title="What a check of the whole data set found"),
        Text("neurofm-shards repair makes new indexes and keeps what can be saved; then make the report again."),
    ]
    name = Path(path).resolve().name
    alarm = Alarm("error", "The data set is damaged, so nothing in it is drawn.")
    return Page(f"Data set {name}", "It cannot be read whole.", [Section("damage", "Damage", parts)], [alarm])


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
    canvas = Figures()
    sections = [
        Section("what", "What it is", _card(facts, drawn)),
        Section("time", "Sessions and time", _sessions(facts, canvas)),
        Section("splits", "Splits and leaks", _splits(facts, canvas)),
        Section("signals", "Signals", _signals(drawn, canvas)),
        Section("samples", "Samples", _samples(facts, drawn, canvas)),
        Section("problems", "Problems", _problems(facts)),
        Section("shuffling", "Shuffling", _shuffling(facts)),
        Section("provenance", "Provenance", _provenance(facts)),
    ]
    name = Path(path).resolve().name
    counted = [(facts.num_samples, "sample"), (len(facts.collection.catalog.names), "shard")]
    lead = f"{', '.join(_number(*each) for each in counted)}. {_sources_in_a_line(facts)}"
    return Page(f"Data set {name}", lead, [section for section in sections if section.parts], _alarms(facts, drawn))


def _sources_in_a_line(facts: DatasetFacts) -> str:
    named = [session.summary.name for session in facts.sessions if session.summary.name]
    subjects = {session.summary.subject for session in facts.sessions} - {""}
    if not named:
        return "The samples say nothing of sessions."
    hours = _hours(facts)
    spent = "" if hours is None else f", {hours} in windows"
    return f"{_number(len(named), 'session')} of {_number(len(subjects), 'subject')}{spent}."


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _hours(facts: DatasetFacts) -> str | None:
    covered = [session.covered_s for session in facts.sessions if session.covered_s is not None]
    if not covered:
        return None
    total = sum(covered)
    return f"{total / 3600:.2f} h" if total >= 3600 else f"{total / 60:.1f} min" if total >= 60 else f"{total:.1f} s"


def _alarms(facts: DatasetFacts, drawn: DrawnSamples) -> list[Alarm]:
    found = []
    manifest = facts.manifest
    if manifest is None:
        found.append(Alarm("info", "These shards were not written by neurofm-shards: there is no manifest."))
    elif manifest.failures:
        found.append(Alarm("error", f"{len(manifest.failures):,} inputs could not be converted; see Problems."))
    if facts.stores_recordings:
        said = "Recordings are stored as they are; this page shows the windows that loaders cut of them by default."
        found.append(Alarm("info", said))
    leaks = [leak for leak in facts.leaks() if leak["overlapping"]]
    found += [
        Alarm(
            "error",
            f"Splits {leak['splits'][0]} and {leak['splits'][1]} share time: {leak['overlapping']:,} windows overlap.",
        )
        for leak in leaks
    ]
    if facts.has_splits and not leaks and facts.start is not None:
        found.append(Alarm("good", "No window of one split overlaps in time with one of another."))
    severe = sum(group.sources for group in facts.problems() if group.severity in ("warning", "error"))
    if severe:
        found.append(Alarm("warning", f"{severe:,} warnings about the sources; see Problems."))
    empty = [name for name, share in drawn.valid_shares().items() if share == 0]
    found += [
        Alarm("warning", f"No value of {name} is valid in the {len(drawn.rows)} samples looked at.") for name in empty
    ]
    return found


def _card(facts: DatasetFacts, drawn: DrawnSamples) -> list[Part]:
    collection, manifest = facts.collection, facts.manifest
    stored = int(collection.catalog.file_bytes.sum())
    rows = [
        ("samples", f"{facts.num_samples:,}"),
        ("shards", f"{len(collection.catalog.names):,}"),
        ("size on disk", size(stored)),
        ("compression", manifest.compression if manifest else "as the shards' names say"),
        ("sessions", f"{sum(bool(session.summary.name) for session in facts.sessions):,}"),
        ("subjects", f"{len({s.summary.subject for s in facts.sessions} - {''}):,}"),
        *(
            (f"{name} in all sessions", f"{entry.rows:,}")
            for name, entry in (manifest.tables if manifest else {}).items()
        ),
        ("time in windows", _hours(facts) or "unknown"),
        *_said_by_sources(facts),
    ]
    columns = table(
        "column|dtype|shape of a sample|unit|valid",
        [
            (name, dtype_name(spec.dtype), shape_text(spec.shape, spec.dtype), spec.unit, _valid_text(drawn, name))
            for name, spec in collection.columns.items()
        ],
        title="Columns",
    )
    return [Facts(rows), columns]


def _valid_text(drawn: DrawnSamples, column: str) -> str:
    share = drawn.valid_shares().get(column)
    return "" if share is None else f"{share:.1%} of {len(drawn.rows)} samples looked at"


def _said_by_sources(facts: DatasetFacts) -> list[tuple[str, str]]:
    """Return what the sources say of species, licence and the like, each distinct text once."""
    wanted = (
        "species",
        "license",
        "licence",
        "institution",
        "lab",
        "experimenter",
        "nwb_version",
        "related_publications",
    )
    found: dict[str, dict[str, None]] = {}
    for source in facts.source_facts():
        for name, value in ((source.get("facts") or {}).get("facts") or {}).items():
            if name in wanted and value:
                found.setdefault(name, {})[str(value)] = None
    return [(name.replace("_", " "), "; ".join(list(texts)[:5])) for name, texts in found.items()]


def shape_text(shape: Sequence[int | None] | None, dtype: str | None) -> str:
    """Return the shape of a sample's array, with ``?`` for a length that varies."""
    if dtype is None:
        return ""
    return "varies" if shape is None else " × ".join("?" if n is None else str(n) for n in shape) or "one number"


def size(count: int) -> str:
    """Return a number of bytes in decimal units."""
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}" if units[0] != "bytes" else f"{count} bytes"


def _sessions(facts: DatasetFacts, canvas: Figures) -> list[Part]:
    parts: list[Part] = []
    rows = [
        (
            s.name or "(none)", s.subject, ", ".join(s.files), s.samples,
            s.recorded_s, covered, s.tables.get("units"),
            s.bin_size_ms, s.window_bins, sum(s.drops.values()),
        )
        for s, covered in ((session.summary, session.covered_s) for session in facts.sessions)
    ]  # fmt: skip
    listed = table(
        "session|subject|source|samples|recorded (s)|in windows (s)|units|bin (ms)|bins per window|windows left out",
        rows, title=f"{_number(len(rows), 'session')} as a table", folded=True, numbers=(3, 4, 5, 6, 7, 8, 9),
    )  # fmt: skip
    figure = figures.timeline(facts)
    if figure is None:
        parts += [Text("The samples say no times, so there is no timeline."), listed]
    else:
        shown = min(len(rows), figures.MAX_ROWS)
        more = "" if shown == len(rows) else f" {shown} of {len(rows):,} sessions, evenly chosen."
        parts.append(canvas.picture(figure, f"When each session was recorded and where its windows lie.{more}", listed))
    drops = total_drops(facts.sessions)
    if drops:
        parts.append(table("windows left out because|windows", drops.items(), title="Windows left out", numbers=(1,)))
    return parts


def _splits(facts: DatasetFacts, canvas: Figures) -> list[Part]:
    counts = facts.splits_of.counts()
    parts: list[Part] = []
    if not facts.has_splits:
        parts.append(Text("The samples belong to no split."))
    parts.append(
        table("split|samples|share|sessions", [
            (name, count, f"{count / facts.num_samples:.1%}", sum(name in s.summary.splits for s in facts.sessions))
            for name, count in counts.items()
        ], numbers=(1, 2, 3))
    )  # fmt: skip
    colours = figures.split_colours(facts)
    by_session = {s.summary.name or "(none)": s.summary.splits for s in facts.sessions}
    if len(by_session) > 1:
        parts.append(
            canvas.picture(
                figures.stacked(by_session, colours, "samples"),
                f"Samples of each session by split.{_few(len(by_session), 'sessions')}",
            )
        )
    by_subject = _by_subject(facts)
    if len(by_subject) > 1:
        parts.append(
            canvas.picture(
                figures.stacked(by_subject, colours, "samples"),
                f"Samples of each subject by split.{_few(len(by_subject), 'subjects')}",
            )
        )
    leaks = facts.leaks()
    if leaks:
        rows = [
            (" and ".join(k["splits"]), k["overlapping"], _named(k["sessions"]), _named(k["subjects"])) for k in leaks
        ]
        parts.append(
            table(
                "splits|windows that overlap in time|sessions in both|subjects in both",
                rows,
                title="Leaks",
                numbers=(1,),
            )
        )
    return parts


def _few(count: int, what: str) -> str:
    return f" {figures.MAX_ROWS} of {count:,} {what}, evenly chosen." if count > figures.MAX_ROWS else ""


def _named(names: Sequence[str]) -> str:
    return f"{len(names):,}" + (f": {', '.join(names[:3])}{'…' if len(names) > 3 else ''}" if names else "")


def _by_subject(facts: DatasetFacts) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for session in facts.sessions:
        counts = found.setdefault(session.summary.subject or "(none)", {})
        for split, count in session.summary.splits.items():
            counts[split] = counts.get(split, 0) + count
    return found


def _signals(drawn: DrawnSamples, canvas: Figures) -> list[Part]:
    parts: list[Part] = []
    rates = figures.firing_rates(drawn.unit_rows)
    counts = drawn.counts_per_unit()
    if rates is not None:
        parts.append(
            canvas.picture(
                rates, "Firing rates of all units over their whole recordings, by region.", _unit_table(drawn.unit_rows)
            )
        )
    elif counts is not None:
        parts.append(
            canvas.picture(
                figures.mean_counts(counts), f"Mean count in a bin of each unit, over {len(drawn.rows)} samples."
            )
        )
    for found in drawn.spectra():
        rows = zip(found.frequency.tolist(), found.median.tolist(), strict=True)
        behind = table("frequency (Hz)|" + found.unit, rows, title="Median as a table", folded=True, numbers=(0, 1))
        parts.append(
            canvas.picture(
                figures.spectrum(found),
                f"Power spectral density of {found.column}, from {found.samples} windows without masked values.",
                behind,
            )
        )
    behaviour = drawn.distributions()
    if behaviour:
        rows_ = [
            (d.name, d.unit, d.number, d.invalid, d.outside, *map(float, (d.edges[0], d.edges[-1]))) for d in behaviour
        ]
        behind = table(
            "feature|unit|valid values|masked|outside|0.1 %|99.9 %",
            rows_,
            title="As a table",
            folded=True,
            numbers=(2, 3, 4, 5, 6),
        )
        parts.append(canvas.picture(
            figures.distributions(behaviour),
            f"Behaviour between its 0.1st and 99.9th percentile, from {len(drawn.rows)} samples.", behind,
        ))  # fmt: skip
    return parts


def _unit_table(units: Sequence[Mapping[str, Any]]) -> Table:
    rows = [(u.get("id"), u.get("location"), u.get("num_spikes"), u.get("firing_rate_hz")) for u in units]
    return table(
        "unit|region|spikes|rate (Hz)",
        rows,
        title=f"{_number(len(rows), 'unit')} as a table",
        folded=True,
        numbers=(2, 3),
    )


def _samples(facts: DatasetFacts, drawn: DrawnSamples, canvas: Figures) -> list[Part]:
    chosen = drawn_rows(facts, SAMPLES_DRAWN).tolist()
    pictures = [_sample(drawn, row, canvas) for row in chosen]
    odd = [_sample(drawn, one.row, canvas, one.why) for one in drawn.oddest()]
    parts: list[Part] = [
        Text(f"{_number(len(chosen), 'sample')}, some of every split, spread over sessions and time."),
        Gallery([picture for picture in pictures if picture is not None]),
    ]
    if odd:
        parts += [
            Text(f"The extremes among {len(drawn.rows)} samples."),
            Gallery([one for one in odd if one is not None]),
        ]
    return parts


def _sample(drawn: DrawnSamples, row: int, canvas: Figures, why: str = "") -> Picture | None:
    view = drawn.view(row)
    try:
        figure = plot_view(view, width=5.2, title="")
    except ConfigError:
        return None  # nothing in it can be drawn, which the table of columns says
    said = describe(view).replace("\n", " ")
    return canvas.picture(figure, f"Sample {row:,}: {said}." + (f" {why}." if why else ""))


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
    heads = f"shuffle|{found.grouped_by}s per batch|longest run of one|neighbours alike|correlation with storage"
    return [Text(said), table(heads, rows, numbers=(1, 2, 3, 4))]


def _provenance(facts: DatasetFacts) -> list[Part]:
    manifest = facts.manifest
    if manifest is None:
        return [Text("Without a manifest nothing is known of how the shards were made.")]
    parts: list[Part] = [Facts([(name, text) for name, text in manifest.software.items()])]
    sources = [
        (", ".join(map(str, s.get("files", ()))), s.get("format"), s.get("num_samples"), s.get("fingerprint"))
        for s in manifest.sources
    ]
    if sources:
        parts.append(
            table(
                "source|format|samples|fingerprint",
                sources,
                title=_number(len(sources), "source"),
                folded=True,
                numbers=(2,),
            )
        )
    if manifest.config:
        parts.append(Code(orjson.dumps(_set_options(manifest.config), option=orjson.OPT_INDENT_2).decode()))
    return parts


def _set_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out options without a value."""
    return {
        name: _set_options(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if value not in (None, {}, [], ())
    }
