"""One set of columns for all inputs, or an error that says which input differs and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from neurofm_shards.errors import ConfigError
from neurofm_shards.types import ColumnSpec


def merge_columns(inputs: Sequence[tuple[str, Sequence[ColumnSpec]]]) -> tuple[ColumnSpec, ...]:
    """Join the columns of all inputs; lengths that differ become ragged.

    Parameters
    ----------
    inputs : sequence of (name, columns)
        Name for messages, and the columns the input gives.

    Raises
    ------
    ConfigError
        A column is missing from an input, or its type, unit or number of dimensions differs.
    """
    first_name, first = inputs[0]
    merged = {spec.name: spec for spec in first}
    for name, columns in inputs[1:]:
        _check_names(first_name, set(merged), name, {spec.name for spec in columns})
        for spec in columns:
            merged[spec.name] = _merge(first_name, merged[spec.name], name, spec)
    return tuple(merged.values())


def _check_names(first_name: str, first: set[str], name: str, names: set[str]) -> None:
    if first == names:
        return
    lacking, missing = (name, first - names) if first - names else (first_name, names - first)
    having = first_name if lacking == name else name
    raise ConfigError(
        f"{lacking} has no column {min(missing)!r}, which {having} has (in common: {sorted(first & names)}); "
        "name the modalities to take with --modalities, and with --missing skip or mask what happens to inputs without"
    )


def _merge(first_name: str, a: ColumnSpec, name: str, b: ColumnSpec) -> ColumnSpec:
    # an input without a single channel or unit has no value in another unit of measure
    empty = 0 in (a.shape or ()), 0 in (b.shape or ())
    unit = b.unit if empty[0] else a.unit
    if (a.dtype, a.table) != (b.dtype, b.table) or not (a.unit == b.unit or any(empty)):
        raise ConfigError(
            f"column {a.name!r} is {_describe(a)} in {first_name} but {_describe(b)} in {name}; convert them apart, or "
            "make them alike with options or a cast transform"
        )
    if a.shape == b.shape:
        return replace(a, unit=unit)
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        raise ConfigError(
            f"column {a.name!r} has shape {a.shape} in {first_name} but {b.shape} in {name}: the number of "
            "dimensions must be the same"
        )
    shape = tuple(x if x == y else None for x, y in zip(a.shape, b.shape, strict=True))
    return replace(a, shape=shape, unit=unit)


def _describe(spec: ColumnSpec) -> str:
    return f"{spec.dtype or 'JSON'}{f' in {spec.unit}' if spec.unit else ''}"
