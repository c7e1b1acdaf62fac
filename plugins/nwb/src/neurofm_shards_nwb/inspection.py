"""What ``neurofm-shards inspect`` says about an NWB file, whether it can be converted or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurofm_shards._typing import Floats
from neurofm_shards.errors import SourceError
from neurofm_shards.plugins.interfaces import Inspection
from neurofm_shards.recordings.inspection import event_problems
from neurofm_shards.streams import EventStream, IntervalStream, IrregularStream, RegularStream
from neurofm_shards.types import Problem
from neurofm_shards_nwb.opening import Opened

#: A step longer than this many median intervals is a gap.
GAP_INTERVALS = 1.5


def inspect_file(opened: Opened, refusal: SourceError | None) -> Inspection:
    """Describe an opened file as a tree.

    Parameters
    ----------
    opened : Opened
        The file.
    refusal : SourceError or None
        Why convert refuses it, if it does.
    """
    recording = opened.recording
    problems = list(recording.problems)
    if refusal is not None and not opened.refusal:
        problems.insert(0, Problem("file", str(refusal), "convert refuses this file", "error"))
    tree: dict[str, Any] = {
        "session": {"session_id": recording.session_id, "subject_id": recording.subject_id, **recording.facts},
        "units": {},
        "series": {},
        "events": {},
        "intervals": {},
    }
    for stream in recording.streams:
        try:
            branch, leaves = _branch(stream)
            problems += event_problems(stream) if isinstance(stream, EventStream) else []
        except SourceError as error:
            branch, leaves = "series", {"unreadable": str(error)}
            if not any(problem.where == stream.path and problem.severity == "error" for problem in problems):
                problems.append(Problem(stream.path, str(error), "an error as soon as it is asked for", "error"))
        tree[branch][stream.path] = leaves
    tree["not converted"] = _rest(opened)
    return Inspection(opened.title, {name: branch for name, branch in tree.items() if branch}, problems)


def unreadable(path: str, error: SourceError) -> Inspection:
    """Say why a file cannot even be opened."""
    return Inspection(
        f"{Path(path).name} (cannot be opened)", {}, [Problem("file", str(error), "convert refuses this file", "error")]
    )


def _branch(stream: object) -> tuple[str, dict[str, Any]]:
    if isinstance(stream, EventStream):
        return ("units", _units(stream)) if stream.modality == "spikes" else ("events", _events(stream))
    if isinstance(stream, IntervalStream):
        return "intervals", _intervals(stream)
    if isinstance(stream, (RegularStream, IrregularStream)):
        return "series", _series(stream)
    raise AssertionError(f"unknown stream {type(stream).__name__}")


def _units(stream: EventStream) -> dict[str, Any]:
    times, owner = stream.read()
    counts = np.bincount(owner, minlength=len(stream.owners))
    finite = times[np.isfinite(times)]
    lasts = float(np.ptp(finite)) if finite.size else 0.0
    rates = counts / lasts if lasts else np.zeros(len(counts))
    backwards = int(np.count_nonzero((np.diff(times) < 0) & (np.diff(owner) == 0)))
    leaves: dict[str, Any] = {
        "units": len(stream.owners),
        "spikes": len(times),
        "time": _span(finite),
        "rates": f"{rates.min():.3g} to {rates.max():.3g} Hz, median {np.median(rates):.3g} Hz"
        if len(rates)
        else "none",
        "columns": ", ".join(stream.table[0]) if stream.table else "none",
    }
    if stream.observed is not None:
        leaves["observed"] = f"intervals for {sum(rows is not None for rows in stream.observed())} units"
    leaves |= {"not in order": f"{backwards} steps back in time"} if backwards else {}
    leaves |= {"not a number": len(times) - len(finite)} if len(finite) < len(times) else {}
    return leaves


def _events(stream: EventStream) -> dict[str, Any]:
    times, owner = stream.read()
    counts = np.bincount(owner, minlength=len(stream.owners)).tolist()
    codes = [f"{name} ({count})" for name, count in zip(stream.owners, counts, strict=True)]
    return {
        "type": stream.kind_name,
        "events": len(times),
        "codes": _listed(codes),
        "time": _span(times[np.isfinite(times)]),
    }


def _series(stream: RegularStream | IrregularStream) -> dict[str, Any]:
    leaves: dict[str, Any] = {
        "type": stream.kind_name,
        "modality": stream.modality,
        "shape": list(stream.shape),
        "dtype": np.dtype(stream.dtype).name,
        "unit": stream.unit or "not said",
        "scale": _scale(stream),
    }
    leaves |= _regular_clock(stream) if isinstance(stream, RegularStream) else _irregular_clock(stream)
    if stream.circular is not None:
        leaves["circular"] = f"wraps at {stream.circular[0]:.4g} and {stream.circular[1]:.4g}"
    if stream.continuity != "continuous":
        leaves["continuity"] = stream.continuity
    if stream.channels:
        leaves["channels"] = _listed(stream.channels)
    return leaves


def _regular_clock(stream: RegularStream) -> dict[str, Any]:
    end = stream.t0 + stream.shape[0] / stream.rate
    return {"rate": f"{stream.rate:.6g} Hz", "time": f"{stream.t0:.3f} to {end:.3f} s", "gaps": "none (constant rate)"}


def _irregular_clock(stream: IrregularStream) -> dict[str, Any]:
    times = stream.timestamps()
    finite = times[np.isfinite(times)]
    leaves: dict[str, Any] = {"rate": "time stamps", "time": _span(finite)}
    steps = np.diff(finite)
    if steps.size and (interval := float(np.median(steps))) > 0:
        gaps = steps[steps > GAP_INTERVALS * interval]
        leaves["rate"] = f"time stamps, about {1 / interval:.4g} Hz"
        leaves["gaps"] = f"{len(gaps)}, {gaps.sum():.3f} s in all, longest {gaps.max():.3f} s" if gaps.size else "none"
    if steps.size and steps.min() < 0:
        leaves["not in order"] = f"{int(np.count_nonzero(steps < 0))} steps back in time"
    if len(finite) < len(times):
        leaves["not a number"] = len(times) - len(finite)
    return leaves


def _scale(stream: RegularStream | IrregularStream) -> str:
    if not stream.calibrated:
        return "uncalibrated: integers without a factor"
    factors = np.unique(np.asarray(stream.scale))
    text = f"{factors[0]:.6g}" if len(factors) == 1 else f"{factors[0]:.6g} to {factors[-1]:.6g}, one per channel"
    return f"{text} per count" + (f", offset {np.ravel(stream.offset)[0]:.6g}" if np.any(stream.offset) else "")


def _intervals(stream: IntervalStream) -> dict[str, Any]:
    return {
        "modality": stream.modality,
        "rows": len(stream),
        "time": _span(np.concatenate([stream.start, stream.stop])),
        "columns": ", ".join(stream.columns),
    } | ({"relative to each row's start": ", ".join(stream.relative_columns)} if stream.relative_columns else {})


def _rest(opened: Opened) -> dict[str, str]:
    if opened.content is None:
        return {}
    converted = {stream.path for stream in opened.recording.streams}
    tables = {
        table.path: f"{(*table.types, 'table')[0]}, {len(table)} rows: {', '.join(table.columns)}"
        for table in opened.content.tables
    }
    series = {item.path: item.types[0] for item in opened.content.series}
    return {path: what for path, what in sorted((tables | series).items()) if path not in converted}


def _span(times: Floats) -> str:
    finite = times[np.isfinite(times)]
    return f"{finite.min():.3f} to {finite.max():.3f} s" if finite.size else "no finite time"


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
