"""The numbers behind the picture of a sample or a stream, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._wording import counted
from neurofm_shards_report.page import Table, table
from neurofm_shards_report.pictures import feature_names, panels_of
from neurofm_shards_report.views import SampleView

Floats = npt.NDArray[np.float64]
#: Most rows of a column; larger ones are one row.
MAX_ROWS = 48
#: Which column of row numbers, and which side table, tell the names of a column's rows.
_NAMES = (("{}_channels", "channels"), ("{}_features", "features"), ("{}_rois", "rois"))
_HEADS = "column|of|unit|least|mean|greatest|valid"


def sample_table(view: SampleView) -> Table:
    """Return the least, mean and greatest value of everything that is drawn of a sample."""
    rows = [row for panel in panels_of(view) for row in _column_rows(view, panel.column)]
    return table(_HEADS, rows, title="As a table", folded=True, numbers=(3, 4, 5, 6))


def value_rows(
    column: str, names: Sequence[str], unit: str, values: Floats, valid: Any = None
) -> Iterator[tuple[Any, ...]]:
    """Yield a row for each of some series, shape (time, series); one for all of them where they are many."""
    known = np.isfinite(values) if valid is None else np.isfinite(values) & valid
    if values.shape[1] > MAX_ROWS:
        values, known, names = values.reshape(-1, 1), known.reshape(-1, 1), [f"all {values.shape[1]:,}"]
    for number, name in enumerate(names):
        own = values[known[:, number], number]
        share = f"{known[:, number].mean():.0%}" if len(values) else ""
        numbers = (float(own.min()), float(own.mean()), float(own.max())) if len(own) else (None, None, None)
        yield (column, name, unit, *numbers, share)


def _column_rows(view: SampleView, column: str) -> Iterator[tuple[Any, ...]]:
    values = np.asarray(view.values[column])
    if values.dtype.kind not in "biufc":
        return
    if column == "spike_times" and "spike_units" in view.values:
        yield from _train_rows(view, values)
        return
    if not values.size:
        return
    numbers = np.abs(values) if values.dtype.kind == "c" else values
    series = np.asarray(numbers, np.float64).reshape(len(numbers) if numbers.ndim else 1, -1)
    hidden = view.invalid(column) if values.ndim else None
    valid = None
    if hidden is not None and len(hidden) == len(series) and hidden.size in (len(series), series.size):
        valid = ~hidden.reshape(len(series), -1)
    said = _said(view, column, series.shape[1])
    units = [str(row.get("unit") or "") for row in said if column != "spikes"]
    for number, row in enumerate(value_rows(column, _names(said), "", series, valid)):
        unit = view.units.get(column) or (units[number] if number < len(units) else "")
        yield (*row[:2], unit, *row[3:])


def _train_rows(view: SampleView, times: npt.NDArray[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the times of the first and the last spike of each unit, after its number of spikes."""
    owner = np.asarray(view.values["spike_units"])
    numbers = np.asarray(view.values.get("unit_ids", np.unique(owner))).ravel()
    for number in numbers[:MAX_ROWS].tolist():
        own = times[owner == number].astype(np.float64)
        span = (float(own.min()), float(own.mean()), float(own.max())) if len(own) else (None, None, None)
        yield ("spike_times", f"unit {number}: {counted(len(own), 'spike')}", "s", *span, "")


def _said(view: SampleView, column: str, count: int) -> list[Mapping[str, Any]]:
    if column == "spikes":
        rows = view.rows("unit_ids", "units")
    else:
        rows = next((found for ids, name in _NAMES if (found := view.rows(ids.format(column), name))), [])
    return rows if len(rows) == count else [{}] * count


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if any(row.get("path") for row in rows):
        return feature_names(rows)
    return [_name(row, number) for number, row in enumerate(rows)]


def _name(row: Mapping[str, Any], number: int) -> str:
    for key in ("channel", "unit", "id"):
        if row.get(key) not in (None, ""):
            return f"{row[key]} {row.get('location') or ''}".strip()
    return str(number)
