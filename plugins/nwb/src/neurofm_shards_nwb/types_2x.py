"""Which neurodata type is a kind of which: from the schemas cached in the file, else a table of core types."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
    """The types of one file."""

    def __init__(self, file: Any) -> None:
        self._parents = dict(CORE_PARENTS)
        self.extensions: dict[str, str] = {}
        for namespace, version, schema in _cached_schemas(file):
            if namespace not in CORE_NAMESPACES:
                self.extensions[namespace] = version
            self._parents.update(_definitions(schema))

    def ancestry(self, name: str) -> tuple[str, ...]:
        """Return the type and its ancestors, the most derived first."""
        found: list[str] = []
        while name and name not in found:
            found.append(name)
            name = self._parents.get(name, "")
        return tuple(found)


def _cached_schemas(file: Any) -> Iterator[tuple[str, str, Any]]:
    for namespace, versions in dict(file.get("specifications", {})).items():
        for version, sources in dict(versions).items():
            for source in dict(sources).values():
                yield namespace, version, json.loads(text(source[()]))


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
