"""Streams of an inspection as rows of a table: one row per stream, streams that are alike in one row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from neurofm_shards._wording import counted
from neurofm_shards.plugins.interfaces import Inspection

#: Branches of an inspection's tree that hold no streams.
_NO_STREAMS = ("session", "time", "facts", "left out")


@dataclass(frozen=True)
class StreamRow:
    """One stream, or several that differ in nothing but their names.

    Attributes
    ----------
    names : tuple of str
        Paths inside the input.
    modality : str
        What it is taken for (``"spikes"``, ``"columns"`` of samples, ``"not converted"``).
    size : str
        Shape, number of ids and events, or number of rows.
    rate : str
        Sampling rate, or least and most firing rate.
    unit : str
        Physical unit; empty where it is unknown.
    first_s, last_s : float or None
        First and last second.
    notes : str
        Gaps, kind of values, why it cannot be used.
    """

    names: tuple[str, ...]
    modality: str
    size: str = ""
    rate: str = ""
    unit: str = ""
    first_s: float | None = None
    last_s: float | None = None
    notes: str = ""

    @property
    def name(self) -> str:
        """One name, or the number of streams and the first and last of them."""
        if len(self.names) == 1:
            return self.names[0]
        return f"{len(self.names)} alike: {self.names[0]} ... {self.names[-1].rpartition('/')[2]}"


def stream_rows(inspection: Inspection) -> list[StreamRow]:
    """Return the streams of an inspection, one row each."""
    return [_row(modality, path, leaf) for modality, path, leaf in _leaves(inspection)]


def grouped(rows: list[StreamRow], least: int = 3) -> list[StreamRow]:
    """Join ``least`` and more rows that differ in nothing but their names and times."""
    alike: dict[tuple[str, ...], list[StreamRow]] = {}
    for row in rows:
        alike.setdefault((row.modality, row.size, row.rate, row.unit, row.notes), []).append(row)
    found = []
    for group in alike.values():
        found += [_joined(group)] if len(group) >= least else group
    return found


def _joined(group: list[StreamRow]) -> StreamRow:
    first, *_ = group
    starts = [row.first_s for row in group if row.first_s is not None]
    stops = [row.last_s for row in group if row.last_s is not None]
    return StreamRow(
        tuple(name for row in group for name in row.names), first.modality, first.size, first.rate, first.unit,
        min(starts, default=None), max(stops, default=None), first.notes,
    )  # fmt: skip


def _leaves(inspection: Inspection) -> Iterator[tuple[str, str, Any]]:
    for modality, streams in inspection.tree.items():
        if modality not in _NO_STREAMS and isinstance(streams, Mapping):
            for path, leaf in streams.items():
                yield modality, str(path), leaf


def _row(modality: str, path: str, leaf: Any) -> StreamRow:
    if not isinstance(leaf, Mapping):
        return StreamRow((path,), modality, notes=str(leaf))
    first, last = _times(leaf)
    return StreamRow(
        (path,), modality, _size(leaf), _rate(leaf), str(leaf.get("unit") or ""), first, last, _notes(leaf)
    )


def _size(leaf: Mapping[str, Any]) -> str:
    if "number" in leaf:
        return f"{leaf['number']:,} x {counted(leaf.get('events', 0), 'event')}"
    if "rows" in leaf:
        return f"{leaf['rows']:,} row{'s' * (leaf['rows'] != 1)}"
    return " x ".join(f"{n:,}" if isinstance(n, int) else "?" for n in leaf.get("shape", ()))


def _rate(leaf: Mapping[str, Any]) -> str:
    if isinstance(leaf.get("rate_hz"), (int, float)):
        return f"{leaf['rate_hz']:.6g} Hz"
    if isinstance(leaf.get("median_rate_hz"), (int, float)):
        return f"~{leaf['median_rate_hz']:.4g} Hz"
    rates = leaf.get("rates_hz")
    if not isinstance(rates, Mapping):
        return ""
    least, most = f"{rates['least']:.3g}", f"{rates['most']:.3g}"
    return f"{least} Hz" if least == most else f"{least} to {most} Hz"


def _times(leaf: Mapping[str, Any]) -> tuple[float | None, float | None]:
    first, last = leaf.get("first_s"), leaf.get("last_s")
    if first is not None and last is None and leaf.get("seconds") is not None:
        last = first + leaf["seconds"]
    return first, last


def _notes(leaf: Mapping[str, Any]) -> str:
    said = [counted(leaf["gaps"], "gap")] if leaf.get("gaps") else []
    said += [str(leaf["values"])] if leaf.get("values") not in (None, "continuous") else []
    said += [f"{leaf['without a stop time']:,} without a stop time"] if leaf.get("without a stop time") else []
    said += [f"cannot be used: {leaf['cannot be used']}"] if leaf.get("cannot be used") else []
    return ", ".join(said)
