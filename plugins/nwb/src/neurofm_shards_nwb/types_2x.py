"""Which neurodata type is a kind of which: from the schemas cached in the file, else a table of core types."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from neurofm_shards_nwb.arrays import text

CORE_NAMESPACES = ("core", "hdmf-common", "hdmf-experimental")
#: For files without cached schemas; https://nwb-schema.readthedocs.io, "Type hierarchy".
CORE_PARENTS: Mapping[str, str] = {
    "ElectricalSeries": "TimeSeries",
    "SpikeEventSeries": "ElectricalSeries",
    "SpatialSeries": "TimeSeries",
    "RoiResponseSeries": "TimeSeries",
    "AnnotationSeries": "TimeSeries",
    "IntervalSeries": "TimeSeries",
    "AbstractFeatureSeries": "TimeSeries",
    "DecompositionSeries": "TimeSeries",
    "OptogeneticSeries": "TimeSeries",
    "PatchClampSeries": "TimeSeries",
    "CurrentClampSeries": "PatchClampSeries",
    "CurrentClampStimulusSeries": "PatchClampSeries",
    "VoltageClampSeries": "PatchClampSeries",
    "VoltageClampStimulusSeries": "PatchClampSeries",
    "ImageSeries": "TimeSeries",
    "TwoPhotonSeries": "ImageSeries",
    "OnePhotonSeries": "ImageSeries",
    "OpticalSeries": "ImageSeries",
    "ImageMaskSeries": "ImageSeries",
    "IndexSeries": "TimeSeries",
    "Units": "DynamicTable",
    "TimeIntervals": "DynamicTable",
    "PlaneSegmentation": "DynamicTable",
    "ElectrodesTable": "DynamicTable",
}


class TypeTree:
    """The types of one file.

    Parameters
    ----------
    file : h5py.File
        Its cached schemas are parsed when an ancestry is first asked for.

    Attributes
    ----------
    extensions : dict of str to str
        Name and version of every schema that is not of the core.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        cached = {name: list(versions) for name, versions in dict(file.get("specifications", {})).items()}
        self.extensions = {
            name: versions[-1] for name, versions in cached.items() if versions and name not in CORE_NAMESPACES
        }

    def ancestry(self, name: str) -> tuple[str, ...]:
        """Return the type and its ancestors, the most derived first."""
        found: list[str] = []
        while name and name not in found:
            found.append(name)
            name = self._parents.get(name, "")
        return tuple(found)

    @cached_property
    def _parents(self) -> dict[str, str]:
        parents = dict(CORE_PARENTS)
        for schema in _cached_schemas(self._file):
            parents.update(_definitions(schema))
        return parents


def _cached_schemas(file: Any) -> Iterator[Any]:
    for versions in dict(file.get("specifications", {})).values():
        for sources in dict(versions).values():
            for source in dict(sources).values():
                yield json.loads(text(source[()]))


def _definitions(schema: object) -> Iterator[tuple[str, str]]:
    if isinstance(schema, list):
        for part in schema:
            yield from _definitions(part)
    elif isinstance(schema, dict):
        name = schema.get("neurodata_type_def") or schema.get("data_type_def")
        parent = schema.get("neurodata_type_inc") or schema.get("data_type_inc")
        if isinstance(name, str) and isinstance(parent, str):
            yield name, parent
        for part in schema.values():
            yield from _definitions(part)
