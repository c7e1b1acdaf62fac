"""What a data set is, in a few lines."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurofm_shards._wording import counted, html_table
from neurofm_shards.blocks import dtype_name, is_count, shape_text
from neurofm_shards.errors import ConfigError, FormatError
from neurofm_shards.format.card import croissant
from neurofm_shards.format.manifest import read_manifest, split_counts
from neurofm_shards.format.resolve import compression_suffix, missing_codec, missing_compression
from neurofm_shards.format.sessions import SessionSummary, session_summaries
from neurofm_shards.plugins.registry import registry
from neurofm_shards.reading.catalog import CatalogColumn, read_catalog

if TYPE_CHECKING:
    from rich.console import Console

    from neurofm_shards.format.manifest import Manifest

_SHOWN_SESSIONS = 20


def report(path: str | os.PathLike[str], output: str | os.PathLike[str] = "report.html") -> Path:
    """Write an HTML page of pictures and tables about a data set or a recording.

    Runs the command ``report`` of whichever plugin provides it: ``pip install 'neurofm-shards[report]'``.

    Parameters
    ----------
    path : path-like
        A folder of shards, one shard, or an input file that a source plugin reads.
    output : path-like
        The file to write.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    MissingPluginError
        No installed plugin provides the command.
    """
    command = registry().commands.instance("report")
    parser = ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args([os.fspath(path), "--output", os.fspath(output)]))
    return Path(output)


class ShardedDatasetInfo:
    """Describes a folder of shards, or one shard; reads manifest and indexes only.

    Parameters
    ----------
    shard_dir : path-like
        A folder of shards (ours or from elsewhere), or one shard.

    Raises
    ------
    InputNotFoundError, NoShardsError
        There is no such folder, or no shard in it.
    FormatError
        The conversion was never finished, or manifest or index is damaged.

    Examples
    --------
    >>> ShardedDatasetInfo("./shards").get_summary()["total_samples"]  # doctest: +SKIP
    10000
    """

    def __init__(self, shard_dir: str | os.PathLike[str]) -> None:
        self._path = Path(shard_dir)
        self._catalog = read_catalog(self._path)

    def __repr__(self) -> str:
        return f"ShardedDatasetInfo({self._catalog.summary()})"

    def get_summary(self) -> dict[str, Any]:
        """Return the summary, as JSON values.

        Returns
        -------
        dict
            ``total_samples``, ``total_shards``, ``shard_size`` (samples of a full shard), ``compression``,
            ``sessions`` (one dict each: name, subject, samples, splits, seconds, bin_size_ms, window_bins, rows of side
            tables, windows left out), ``splits`` (samples by name), ``subjects`` (ids), ``modalities`` (names),
            ``columns`` (by name: dtype, shape, codec, unit, optional), ``total_bytes`` (on disk), ``tar_bytes``
            (decoded), ``sources``, ``failures`` (inputs that could not be converted), ``origin``
            (``"neurofm_shards"`` or ``"foreign"``) and ``notes`` (what to know before using other tools).
        """
        catalog, manifest = self._catalog, self._catalog.manifest
        sessions = [] if manifest is None else session_summaries(manifest)
        return {
            "path": str(self._path),
            "total_samples": int(catalog.num_samples.sum()),
            "total_shards": len(catalog.names),
            "shard_size": int(catalog.num_samples.max()) if manifest is None else manifest.shard_size,
            "compression": self._compression() if manifest is None else manifest.compression,
            "modalities": list(catalog.columns),
            "columns": {name: _column(column) for name, column in catalog.columns.items()},
            "total_bytes": int(catalog.file_bytes.sum()),
            "tar_bytes": int(catalog.tar_bytes.sum()),
            "sessions": [_session(session) for session in sessions if session.name],
            "splits": {} if manifest is None else split_counts(manifest),
            "subjects": sorted({session.subject for session in sessions} - {""}),
            "sources": [] if manifest is None else list(manifest.sources),
            "failures": [] if manifest is None else list(manifest.failures),
            "origin": "foreign" if manifest is None else "neurofm_shards",
            "notes": self._notes(),
        }

    def _repr_html_(self) -> str:
        """Return sizes, splits and columns as tables, for notebooks."""
        summary = self.get_summary()
        splits = ", ".join(f"{name} {count:,}" for name, count in summary["splits"].items())
        facts = [("samples", summary["total_samples"]), ("shards", summary["total_shards"]), ("splits", splits)]
        facts += [("bytes", summary["total_bytes"]), ("sessions", len(summary["sessions"]))]
        columns = [
            (name, dtype_name(c["dtype"]), None if c["shape"] is None else tuple(c["shape"]), c["unit"])
            for name, c in summary["columns"].items()
        ]
        heads = ("column", "dtype", "shape", "unit")
        return html_table(summary["path"], facts) + html_table("columns", columns, heads)

    def croissant(self, name: str | None = None, *, url: str = "", description: str = "") -> dict[str, Any]:
        """Return Croissant metadata (a JSON-LD description of the data set), as JSON values.

        Parameters
        ----------
        name : str, optional
            What the data set is called; the folder's name by default.
        url : str
            Where it is published, if it is.
        description : str
            What it is; a sentence with its numbers by default.

        Raises
        ------
        ConfigError
            The shards have no manifest: they were not written by this program.
        """
        manifest = self._catalog.manifest
        if manifest is None:
            raise ConfigError(f"{self._path} has no manifest: Croissant metadata are made from it")
        return croissant(manifest, name or self._path.resolve().name, url=url, description=description)

    def print_summary(self, console: Console | None = None) -> None:
        """Print the summary as tables."""
        from neurofm_shards._console import SafeConsole, print_table  # noqa: PLC0415  (printing needs it)

        summary = self.get_summary()
        console = console or SafeConsole()
        console.print(summary["path"], style="bold", markup=False)
        for name, text in _facts(summary):
            console.print(f"  {name:<13}  {text}", markup=False)
        columns = [(_column_cells(name, column), "") for name, column in summary["columns"].items()]
        print_table(console, ("column", "type", "shape", "codec", "unit"), columns)
        if summary["sessions"]:
            _print_sessions(console, summary["sessions"])
        for note in summary["notes"]:
            console.print(f"note: {note}", markup=False)

    def _compression(self) -> str:
        """Return the shards' compression, or several, as their names say."""
        found = {registry().compressions.by_suffix(name) for name in self._catalog.names}
        return ", ".join(sorted("none" if entry is None else entry.entry.name for entry in found))

    def _notes(self) -> list[str]:
        catalog = self._catalog
        suffixes = sorted({compression_suffix(name) for name in catalog.names})
        notes = [_compression_note(suffix, catalog.manifest) for suffix in suffixes]
        notes += [_column_note(name, column, catalog.distribution(name)) for name, column in catalog.columns.items()]
        if any(name != name.lower() for name in catalog.columns):
            notes.append("field names with capitals: webdataset and Hugging Face datasets read them in lower case")
        if catalog.manifest is None:
            notes.append(self._origin())
        return [note for note in notes if note]

    def _origin(self) -> str:
        """Say what shards without a manifest are."""
        folder, names = self._catalog.folder, self._catalog.names
        checksums = set(self._catalog.checksums)
        try:
            whole = read_manifest(folder)
        except FormatError:
            whole = None  # it says nothing that could be relied on
        entries = [] if whole is None else [entry for entry in whole.shards if entry.checksum in checksums]
        if whole is not None and len(entries) == len(names):
            return (
                f"part of the data set {folder} ({counted(whole.total_samples, 'sample')} in "
                f"{counted(whole.total_shards, 'shard')}): give the folder for its sessions, splits and tables"
            )
        return "not written by this program: indexes were made from the shards"


def _compression_note(suffix: str, manifest: Manifest | None) -> str:
    found = registry().compressions.by_suffix("x.tar" + suffix) if suffix else None
    if found is None:
        known = ("", "") if manifest is None else (manifest.compression, manifest.compression_distribution)
        return "" if not suffix else missing_compression(suffix, *known)
    compression = registry().compressions.instance(found.qualified_name)
    name, notes = found.entry.name, []
    if not compression.universal:
        notes.append(f"{name} shards are read by this program and the {name} tools, not by webdataset or tarfile")
    if not compression.random_access:
        notes.append(
            f"{name} shards are decoded from their beginning: read them in order, or convert to gz, xz or zstd"
        )
    return "; ".join(notes)


def _column_note(name: str, column: CatalogColumn, distribution: str) -> str:
    missing = [text for codec in column.codecs if (text := missing_codec(codec, name, distribution))]
    if missing:
        return missing[0]
    if not column.everywhere:
        return f"{name}: some samples lack it; Hugging Face datasets takes its fields from the first samples"
    if "" in column.codecs:
        return f"{name}: no installed codec reads it; it is given as bytes"
    return ""


def _column(column: CatalogColumn) -> dict[str, Any]:
    spec = column.spec
    return {
        "dtype": spec.dtype,
        "shape": None if spec.shape is None else list(spec.shape),
        "codec": ", ".join(column.codecs),
        "unit": "count" if is_count(spec) else spec.unit,
        "optional": not column.everywhere,
    }


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines about the whole data set, as names and texts."""
    size = f"{summary['total_bytes']:,} bytes"
    if summary["tar_bytes"] != summary["total_bytes"]:
        size += f" ({summary['tar_bytes']:,} decoded)"
    facts = {
        "samples": f"{summary['total_samples']:,}",
        "shards": f"{summary['total_shards']:,} of up to {counted(summary['shard_size'], 'sample')}",
        "compression": summary["compression"],
        "size": size,
        "sources": f"{len(summary['sources']):,}",
        "sessions": _sessions_text(summary),
        "recorded": _recorded_text(summary["sessions"]),
        "splits": ", ".join(f"{name} {count:,}" for name, count in summary["splits"].items()),
        "failed inputs": f"{len(summary['failures']):,}" if summary["failures"] else "",
    }
    return [(name, text) for name, text in facts.items() if text]


def _session(session: SessionSummary) -> dict[str, Any]:
    return {
        "name": session.name,
        "subject": session.subject,
        "samples": session.samples,
        "splits": dict(session.splits),
        "seconds": session.recorded_s,
        "bin_size_ms": session.bin_size_ms,
        "window_bins": session.window_bins,
        "tables": dict(session.tables),
        "left_out": sum(session.drops.values()),
    }


def _sessions_text(summary: dict[str, Any]) -> str:
    """Return the number of sessions and subjects, and how long the sessions are."""
    sessions = summary["sessions"]
    if not sessions:
        return ""
    subjects = len(summary["subjects"])
    text = f"{len(sessions):,} of {counted(subjects, 'subject') if subjects else 'unknown subjects'}"
    lengths = [session["seconds"] for session in sessions if session["seconds"]]
    spans = dict.fromkeys(f"{f(lengths):,.0f}" for f in (min, max) if lengths)
    return text + (f", {' to '.join(spans)} s" if spans else "")


def _recorded_text(sessions: list[dict[str, Any]]) -> str:
    """Return the time in which something was recorded, in all sessions that say it."""
    lengths = [session["seconds"] for session in sessions if session["seconds"]]
    return f"{sum(lengths) / 3600:,.2f} h" if lengths else ""


def _print_sessions(console: Console, sessions: list[dict[str, Any]]) -> None:
    from neurofm_shards._console import print_table  # noqa: PLC0415  (only printing needs it)

    largest = max(session["samples"] or 0 for session in sessions)
    rows = [(_session_cells(session, largest), _session_note(session)) for session in sessions[:_SHOWN_SESSIONS]]
    print_table(console, ("session", "samples", "", "seconds", "bins", "left out"), rows)
    if len(sessions) > _SHOWN_SESSIONS:
        console.print(f"and {counted(len(sessions) - _SHOWN_SESSIONS, 'more session')}")


def _session_cells(session: dict[str, Any], largest: int) -> list[str]:
    """Return a session's numbers, its samples also as a bar."""
    samples, seconds, width = session["samples"], session["seconds"], session["bin_size_ms"]
    return [
        session["name"],
        "" if samples is None else f"{samples:,}",
        "=" * round(10 * (samples or 0) / max(1, largest)),
        "" if seconds is None else f"{seconds:,.0f}",
        "" if width is None else f"{session['window_bins']} x {width:g} ms",
        f"{session['left_out']:,}",
    ]


def _session_note(session: dict[str, Any]) -> str:
    """Return a session's subject, rows of side tables, and splits."""
    said = [f"subject {session['subject']}"] if session["subject"] else []
    said += [f"{name} {count:,}" for name, count in session["tables"].items()]
    said += [f"{name} {count:,}" for name, count in session["splits"].items() if count]
    return ", ".join(said)


def _column_cells(name: str, column: dict[str, Any]) -> list[str]:
    shape = "varies" if column["shape"] is None else shape_text(column["shape"])
    return [name, dtype_name(column["dtype"]), shape if column["dtype"] else "", column["codec"], column["unit"] or ""]
