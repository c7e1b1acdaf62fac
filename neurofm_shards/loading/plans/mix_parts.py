"""The parts of a mixture: their names, one joint table of units, and the checks that their samples go together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from neurofm_shards.blocks import MISSING, SHARED_TABLE, RowBase, add_rows, shifted
from neurofm_shards.errors import ConfigError
from neurofm_shards.reading.samples import SampleCollection
from neurofm_shards.types import ColumnData, Metadata, Ragged

OnDifferent = Literal["error", "allow"]
#: What each sample's metadata names its data set under.
DATASET_FIELD = "dataset"


@dataclass(frozen=True)
class MixPart:
    """One data set of a mixture.

    Attributes
    ----------
    name : str
        What samples call it in their metadata, under ``dataset``.
    bases : mapping of str to RowBase
        Where the rows of each of its side tables stand in the joint one.
    """

    name: str
    bases: Mapping[str, RowBase]

    def joint(self, collection: SampleCollection, columns: Mapping[str, ColumnData]) -> dict[str, ColumnData]:
        """Return columns whose row numbers are those of the joint tables."""
        tables = {name: collection.columns[name].table for name in columns if name in collection.columns}
        return {name: _shifted(data, self.bases.get(tables.get(name) or "", 0)) for name, data in columns.items()}

    def named(self, metadata: Sequence[Metadata]) -> list[dict[str, Any]]:
        """Return metadata that name the data set."""
        return [{**said, DATASET_FIELD: self.name} for said in metadata]

    def place(self, table: str, rows: Sequence[Mapping[str, Any]], joint: dict[int, dict[str, Any]]) -> None:
        """Put the rows of a table where they stand in the joint one; in place."""
        base = self.bases.get(table, 0)
        for i, row in enumerate(rows):
            joint[base + i if isinstance(base, int) else base[i]] = dict(row)


def _shifted(data: ColumnData, base: RowBase) -> Any:
    if base == 0:
        return data
    if isinstance(data, list):
        return [item if item is MISSING else shifted(np.asarray(item), base) for item in data]
    values = data.values if isinstance(data, Ragged) else data
    if not values.flags.writeable:  # what a transform made
        return shifted(data, base)
    values[...] = shifted(values, base)  # the memory stays, which may be page-locked
    return data


def mix_parts(collections: Sequence[SampleCollection], on_different: OnDifferent) -> tuple[MixPart, ...]:
    """Name data sets, and number the rows of their side tables jointly (raises ConfigError)."""
    if on_different not in ("error", "allow"):
        raise ConfigError(f"on_different={on_different!r}; choose 'error' or 'allow'")
    names = _names(collections)
    if on_different == "error":
        _check_alike(names, collections)
    return tuple(MixPart(name, bases) for name, bases in zip(names, _joint_bases(collections), strict=True))


def _names(collections: Sequence[SampleCollection]) -> list[str]:
    """Return the names of folders; their paths where two folders have one name."""
    folders = [os.path.realpath(collection.catalog.folder) for collection in collections]
    names = {folder: os.path.basename(folder) for folder in folders}  # noqa: PTH119  (names, not places)
    taken = list(names.values())
    return [folder if taken.count(names[folder]) > 1 else names[folder] for folder in folders]


def _joint_bases(collections: Sequence[SampleCollection]) -> list[dict[str, RowBase]]:
    """Return where the rows of each data set's tables stand; a table that came before, of one folder, counts once."""
    found: list[dict[str, RowBase]] = []
    shared: dict[str, list[Mapping[str, Any]]] = {}
    lengths: dict[str, int] = {}
    for i, collection in enumerate(collections):
        bases: dict[str, RowBase] = {}
        for name, length in collection.tables.items():
            same = next((k for k in range(i) if _has_same_table(collections[k], collection, name)), None)
            if same is not None:
                bases[name] = found[same][name]
                continue
            base: RowBase = lengths.get(name, 0)
            if name.startswith(SHARED_TABLE):
                base = add_rows(name, shared.setdefault(name, []), collection.table(name))
            lengths[name] = lengths.get(name, 0) + length
            bases[name] = base
        found.append(bases)
    return found


def _has_same_table(one: SampleCollection, other: SampleCollection, name: str) -> bool:
    if one.tables.get(name) != other.tables.get(name) or not _are_one_folder(one, other):
        return False
    return one is other or one.table(name) == other.table(name)


def _are_one_folder(one: SampleCollection, other: SampleCollection) -> bool:
    return os.path.realpath(one.catalog.folder) == os.path.realpath(other.catalog.folder)


def _check_alike(names: Sequence[str], collections: Sequence[SampleCollection]) -> None:
    """Refuse data sets whose samples mean different things by the same columns."""
    said: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, collection in zip(names, collections, strict=True):
        for what, values in _measures(collection).items():
            said.setdefault(what, {})[name] = values
    differing = {what: by_name for what, by_name in said.items() if len(set(by_name.values())) > 1}
    if differing:
        told = "; ".join(
            f"{what}: " + ", ".join(f"{' and '.join(values)} in {name}" for name, values in by_name.items())
            for what, by_name in differing.items()
        )
        raise ConfigError(
            f"the data sets to mix differ in {told}. Convert them alike, or say mix(..., on_different='allow')"
        )


def _measures(collection: SampleCollection) -> dict[str, tuple[str, ...]]:
    """Return bins, rates and physical units of a data set, each in all of its values."""
    timing = {what: tuple(f"{value:g}" for value in values) for what, values in collection.timing().items()}
    units = {f"unit of {name}": (spec.unit,) for name, spec in collection.columns.items() if spec.unit}
    return {**timing, **units}
