"""Sweeps of patch-clamp files: which series belong together, by whichever table the file keeps, or none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import SourceError
from neurofm_shards.streams import IntervalStream
from neurofm_shards_nwb.content import Series, StoredArray, SweepPart, SweepRow, python_value, text
from neurofm_shards_nwb.hdf5_tree import Node

_PLACE = "general/intracellular_ephys"


def stored_sweeps(file: Any, nodes: Mapping[str, Node]) -> list[SweepRow]:
    """Return the sweeps that an HDF5 file's tables list; none where it has no such table.

    Those are the rows of SimultaneousRecordingsTable, else of IntracellularRecordingsTable, else the sweep numbers of
    SweepTable (NWB before 2.4).
    """
    recordings = nodes.get(f"{_PLACE}/intracellular_recordings")
    if recordings is not None:
        return _of_recordings(file, nodes, recordings)
    table = nodes.get(f"{_PLACE}/sweep_table")
    return [] if table is None else _of_sweep_table(file, table)


def _of_recordings(file: Any, nodes: Mapping[str, Node], recordings: Node) -> list[SweepRow]:
    responses = _references(file, nodes.get(f"{recordings.path}/responses"), "response")
    stimuli = _references(file, nodes.get(f"{recordings.path}/stimuli"), "stimulus")
    together = nodes.get(f"{_PLACE}/simultaneous_recordings")
    owner = recordings if together is None else together
    numbers = _all(owner, "id").tolist()
    rows = [[row] for row in range(len(numbers))] if together is None else _regions(together, "recordings")
    said = _single_columns(owner, len(rows))
    kinds = [] if together is None else _stimulus_types(nodes, len(rows))
    return [
        SweepRow(
            number=int(numbers[i]),
            responses=tuple(part for row in listed if (part := responses.get(row)) is not None),
            stimuli=tuple(part for row in listed if (part := stimuli.get(row)) is not None),
            said={name: values[i] for name, values in said.items()} | ({"stimulus_type": kinds[i]} if kinds else {}),
        )
        for i, listed in enumerate(rows)
    ]


def _references(file: Any, node: Node | None, name: str) -> dict[int, SweepPart]:
    """Return the stretches of series that a column of references names, by row; a count below one stands for none."""
    dataset = None if node is None else node.get(name)
    rows = () if node is None or dataset is None else enumerate(_all(node, name))
    return {
        row: SweepPart(_place(file, value["timeseries"]), int(value["idx_start"]), int(value["count"]))
        for row, value in rows
        if value["count"] > 0
    }


def _place(file: Any, reference: Any) -> str:
    import h5py  # noqa: PLC0415  (only when a file is opened)

    return text(h5py.h5r.get_name(reference, file.id)).strip("/")


def _regions(node: Node, name: str) -> list[list[int]]:
    values, ends = _all(node, name).tolist(), _all(node, f"{name}_index").astype(np.int64).tolist()
    return [values[first:last] for first, last in zip([0, *ends[:-1]], ends, strict=True)]


def _all(node: Node, name: str) -> npt.NDArray[Any]:
    return StoredArray(node.get(name), node.place(name)).all()


def _single_columns(node: Node, rows: int) -> dict[str, list[Any]]:
    """Return the columns of a table that hold one number or text for each row."""
    found = {name: node.get(name) for name in node.names if name != "id" and not name.endswith("_index")}
    plain = {
        name: dataset
        for name, dataset in found.items()
        if getattr(dataset, "shape", None) == (rows,) and f"{name}_index" not in node and dataset.dtype.kind in "biufO"
    }
    columns = {name: [python_value(value) for value in _all(node, name)] for name in plain}
    return {name: values for name, values in columns.items() if all(not isinstance(value, list) for value in values)}


def _stimulus_types(nodes: Mapping[str, Node], rows: int) -> list[str]:
    """Return what SequentialRecordingsTable says of the stimulus of each sweep."""
    node = nodes.get(f"{_PLACE}/sequential_recordings")
    if node is None or node.get("stimulus_type") is None:
        return []
    kinds = [""] * rows
    for listed, kind in zip(_regions(node, "simultaneous_recordings"), _all(node, "stimulus_type"), strict=True):
        for row in listed:
            kinds[row] = text(kind)
    return kinds


def _of_sweep_table(file: Any, table: Node) -> list[SweepRow]:
    numbers = _all(table, "sweep_number").astype(np.int64).tolist()
    ends = _all(table, "series_index").astype(np.int64).tolist()
    series = [_place(file, reference) for reference in _all(table, "series")]
    found: dict[int, dict[str, None]] = {}
    for number, first, last in zip(numbers, [0, *ends[:-1]], ends, strict=True):
        found.setdefault(number, {}).update(dict.fromkeys(series[first:last]))
    return [_sorted_out(number, places) for number, places in found.items()]


def _sorted_out(number: int, places: Iterable[str]) -> SweepRow:
    parts = [SweepPart(place) for place in places]
    stimuli = tuple(part for part in parts if part.path.startswith("stimulus/"))
    return SweepRow(number=number, responses=tuple(part for part in parts if part not in stimuli), stimuli=stimuli)


def sweeps_of_series(series: Sequence[Series]) -> list[SweepRow]:
    """Return the sweeps of a file without a table: series with one sweep number, else every series by itself."""
    clamped = [item for item in series if "PatchClampSeries" in item.types]
    found: dict[str, list[str]] = {}
    for item in sorted(clamped, key=lambda item: (item.sweep if item.sweep is not None else -1, _natural(item.path))):
        found.setdefault(item.path if item.sweep is None else str(item.sweep), []).append(item.path)
    rows = [_sorted_out(int(key) if key.isdigit() else i, places) for i, (key, places) in enumerate(found.items())]
    return [row for row in rows if row.responses]


def _natural(name: str) -> tuple[Any, ...]:
    return tuple((int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name))


def describe_sweeps(rows: Sequence[SweepRow], series: Sequence[Series]) -> IntervalStream | None:
    """Describe sweeps as a table that names their series; None where there are none."""
    by_path = {item.path: item for item in series}
    rows = [
        row for row in rows if row.responses and all(part.path in by_path for part in (*row.responses, *row.stimuli))
    ]
    if not rows:
        return None
    spans = np.array([_span(row, by_path) for row in rows]).reshape(-1, 2)
    said = dict.fromkeys(name for row in rows for name in row.said)
    return IntervalStream(
        path="sweeps",
        modality="sweeps",
        kind_name="sweeps",
        start=spans[:, 0],
        stop=spans[:, 1],
        columns={
            "sweep_number": [row.number for row in rows],
            "electrode": [", ".join(by_path[part.path].electrode for part in row.responses) for row in rows],
            "responses": [[part.path for part in row.responses] for row in rows],
            "response_rows": [[[part.first, part.count] for part in row.responses] for row in rows],
            "stimuli": [[part.path for part in row.stimuli] for row in rows],
            "stimulus_rows": [[[part.first, part.count] for part in row.stimuli] for row in rows],
            **{name: [row.said.get(name) for row in rows] for name in said},
        },
    )


def _span(row: SweepRow, series: Mapping[str, Series]) -> tuple[float, float]:
    """Return when a sweep's first response begins and ends, in seconds; not-a-number where the file does not say."""
    part = row.responses[0]
    item = series[part.path]
    if item.data is None:
        return float("nan"), float("nan")
    count = len(item.data) - part.first if part.count < 0 else part.count
    if item.timestamps is not None:
        return _stamped_span(item, part.first, count)
    if item.rate is None or not item.rate > 0:
        return float("nan"), float("nan")
    start = (item.t0 or 0.0) * item.time_factor + part.first / item.rate
    return start, start + count / item.rate


def _stamped_span(item: Series, first: int, count: int) -> tuple[float, float]:
    stamps = item.timestamps
    if stamps is None or item.trouble_with_stamps() or count < 1 or first + count > len(stamps):
        return float("nan"), float("nan")
    try:
        start, last = (float(stamps.read(at, at + 1)[0]) * item.time_factor for at in (first, first + count - 1))
    except SourceError:  # said, and refused, where the series is described
        return float("nan"), float("nan")
    return start, last + (last - start) / max(1, count - 1)
