"""One set of columns for all inputs, or an error that says which input differs and what to do."""

from __future__ import annotations

from collections.abc import Sequence

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
    if (a.dtype, a.unit, a.table) != (b.dtype, b.unit, b.table):
        raise ConfigError(
            f"column {a.name!r} is {_describe(a)} in {first_name} but {_describe(b)} in {name}; convert them apart, or "
            "make them alike with options or a cast transform"
        )
    if a.shape == b.shape:
        return a
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        raise ConfigError(
            f"column {a.name!r} has shape {a.shape} in {first_name} but {b.shape} in {name}: the number of "
            "dimensions must be the same"
        )
    shape = tuple(x if x == y else None for x, y in zip(a.shape, b.shape, strict=True))
    return ColumnSpec(a.name, a.dtype, shape, a.unit, a.table)


def _describe(spec: ColumnSpec) -> str:
    return f"{spec.dtype or 'JSON'}{f' in {spec.unit}' if spec.unit else ''}"
