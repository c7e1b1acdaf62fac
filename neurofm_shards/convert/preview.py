"""What a conversion would make, as JSON values: ``convert --dry-run``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from neurofm_shards.convert.input_plan import InputPlan
from neurofm_shards.convert.planning import ConversionPlan
from neurofm_shards.convert.work import transformed_columns
from neurofm_shards.format.manifest import valid_shares
from neurofm_shards.types import ColumnSpec
from neurofm_shards.values import to_json

_TAR_BLOCK = 512
#: Metadata of a sample: its header and about one block of JSON.
_METADATA_BYTES = 2 * _TAR_BLOCK
#: Payload header of an array.
_ARRAY_HEADER = 128


def preview(plan: ConversionPlan) -> dict[str, Any]:
    """Describe a plan.

    Returns
    -------
    dict
        ``inputs`` (samples, drops by reason, problems or error), ``columns``, ``total_samples``, ``total_shards``,
        ``splits`` (samples of each), ``valid_shares`` (of windows, by modality), ``estimated_bytes`` (of tar, before
        compression), ``split_warnings`` (sentences) and the resolved ``config``.
    """
    columns: Sequence[ColumnSpec] = plan.columns
    if plan.config.transforms:
        columns = transformed_columns(plan)
    return {
        "inputs": [_input(item) for item in plan.inputs],
        "columns": [
            {"name": spec.name, "dtype": spec.dtype, "shape": spec.shape, "unit": spec.unit} for spec in columns
        ],
        "total_samples": plan.total_samples,
        "total_shards": plan.total_shards,
        "splits": plan.splits,
        "split_warnings": plan.split_warnings,
        "valid_shares": valid_shares(
            (item.plan.metadata, item.plan.num_samples) for item in plan.inputs if item.plan is not None
        ),
        "estimated_bytes": sum(_bytes(item, columns, transformed=bool(plan.config.transforms)) for item in plan.inputs),
        "tables": {name: len(rows) for name, rows in plan.tables.items()},
        "config": plan.config.content(),
    }


def _input(item: InputPlan) -> dict[str, Any]:
    names = {"files": list(item.spec.input.given), "format": item.spec.input.format}
    if item.plan is None:
        return {**names, "error": item.error}
    return {
        **names,
        "session_id": item.session_id,
        "num_samples": item.plan.num_samples,
        "drops": dict(item.plan.drops),
        "problems": [to_json(problem.as_dict()) for problem in item.plan.problems],
        "facts": to_json(dict(item.plan.metadata)),
    }


def _bytes(item: InputPlan, columns: Sequence[ColumnSpec], *, transformed: bool) -> int:
    if item.plan is None:
        return 0
    size = _METADATA_BYTES + sum(_column_bytes(spec) for spec in (columns if transformed else item.plan.columns))
    return size * item.plan.num_samples


def _column_bytes(spec: ColumnSpec) -> int:
    if spec.dtype is None:
        return 2 * _TAR_BLOCK
    known = [n for n in spec.shape or () if n is not None]
    payload = _ARRAY_HEADER + np.dtype(spec.dtype).itemsize * int(np.prod(known, dtype=np.int64))
    return _TAR_BLOCK + -(-payload // _TAR_BLOCK) * _TAR_BLOCK
