"""Reads NWB 2.x from HDF5 by itself: one walk over the links of a file, then series, tables and events.

A file's objects are opened once, by path, and only the attributes that are needed are read: pynwb's tree of objects
costs a hundred times as much. What the file says counts; nothing is taken from a schema but which type is a kind of
which.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from neurofm_shards.types import Problem
from neurofm_shards_nwb.content import (
    Column,
    EventList,
    FileContent,
    Region,
    Series,
    StoredArray,
    Table,
    python_value,
    text,
)
from neurofm_shards_nwb.facts import PLACES, facts_of
from neurofm_shards_nwb.hdf5_tree import Node, attribute, scalar
from neurofm_shards_nwb.outside import without_folders

#: The group that a link lies in, its name there, and the link.
ExternalLink: TypeAlias = tuple[Node, str, Any]

CORE_NAMESPACES = ("core", "hdmf-common", "hdmf-experimental")
#: Types of the core schemas and what each is a kind of; https://nwb-schema.readthedocs.io, "Type hierarchy".
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
    "IZeroClampSeries": "CurrentClampSeries",
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
    "EventsTable": "DynamicTable",
    "AnnotatedEventsTable": "DynamicTable",
    "PoseEstimationSeries": "SpatialSeries",
    "MeaningsTable": "DynamicTable",
    "AlignedDynamicTable": "DynamicTable",
    "IntracellularRecordingsTable": "AlignedDynamicTable",
    "IntracellularElectrodesTable": "DynamicTable",
    "IntracellularStimuliTable": "DynamicTable",
    "IntracellularResponsesTable": "DynamicTable",
    "SimultaneousRecordingsTable": "DynamicTable",
    "SequentialRecordingsTable": "DynamicTable",
    "RepetitionsTable": "DynamicTable",
    "ExperimentalConditionsTable": "DynamicTable",
    "SweepTable": "DynamicTable",
    "FrequencyBandsTable": "DynamicTable",
}
#: Types of the core schemas that hold nothing of their own to convert.
_CONTAINERS = frozenset(
    (
        "NWBFile", "Subject", "ProcessingModule", "Device", "DeviceModel", "ElectrodeGroup", "ImagingPlane",
        "OpticalChannel", "IntracellularElectrode", "OptogeneticStimulusSite", "LabMetaData", "LFP", "FilteredEphys",
        "EventWaveform", "EventDetection", "ClusterWaveforms", "Clustering", "FeatureExtraction", "Position",
        "CompassDirection", "EyeTracking", "PupilTracking", "BehavioralTimeSeries", "BehavioralEvents",
        "BehavioralEpochs", "Fluorescence", "DfOverF", "ImageSegmentation", "MotionCorrection", "CorrectedImageStack",
        "Images", "ImagingRetinotopy", "TimeSeries", "DynamicTable",
    )
)  # fmt: skip
#: Lists of events in ndx-events 0.1 and 0.2, which are neither series nor tables.
EVENT_LISTS = ("Events", "LabeledEvents", "TTLs")


class TypeTree:
    """The neurodata types of one file: the core's, and those of the schemas cached in it.

    Parameters
    ----------
    file : h5py.File
        Its cached schemas are parsed when a type is first asked for that is not of the core.
    check_schemas : callable
        Called before they are read.

    Attributes
    ----------
    extensions : dict of str to str
        Name and version of every cached schema that is not of the core.
    """

    def __init__(self, file: Any, check_schemas: Callable[[], None]) -> None:
        self._cached = file.get("specifications", {})
        self.check_schemas = check_schemas
        versions = {name: list(self._cached[name]) for name in self._cached if name not in CORE_NAMESPACES}
        self.extensions = {name: found[-1] for name, found in versions.items() if found}

    def ancestry(self, name: str) -> tuple[str, ...]:
        """Return the type and its ancestors, the most derived first."""
        found: list[str] = []
        while name and name not in found:
            found.append(name)
            if name in _CONTAINERS:
                break
            name = CORE_PARENTS.get(name) or self._parents.get(name, "")
        return tuple(found)

    @cached_property
    def _parents(self) -> dict[str, str]:
        self.check_schemas()
        schemas = (
            json.loads(text(source[()]))
            for versions in dict(self._cached).values()
            for sources in dict(versions).values()
            for source in dict(sources).values()
        )
        return {name: parent for schema in schemas for name, parent in _definitions(schema)}


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


@dataclass(frozen=True)
class Walk:
    """What one walk over a file's links finds.

    Attributes
    ----------
    nodes : mapping of str to Node
        Groups, by path in sorted order. Soft links are not followed: their targets come anyway.
    types : mapping of str to str
        Neurodata type of each that has one.
    links : tuple of ExternalLink
        Links into other files.
    """

    nodes: Mapping[str, Node]
    types: Mapping[str, str]
    links: tuple[ExternalLink, ...]


def walk(groups: Sequence[Node]) -> Walk:
    """Sort the groups of a file by what they are; the cached schemas are none of the file's content."""
    import h5py  # noqa: PLC0415  (only when a file is opened)

    own = [node for node in groups if "specifications" not in node.path.split("/")]
    kinds = {node.path: text(attribute(node, "neurodata_type")) for node in own if node.path}
    types = {path: kind for path, kind in kinds.items() if kind}
    links = tuple(
        (node, name, node.external(name))
        for node in own
        for name, kind in node.links.items()
        if kind == h5py.h5l.TYPE_EXTERNAL and name != "specifications"
    )
    return Walk(dict(sorted((node.path, node) for node in own)), types, links)


def number(value: Any) -> float:
    """Return the one number that is stored as a scalar or as an array of one."""
    return float(np.asarray(value).reshape(-1)[0])


def read_hdf5(path: str, file: Any, types: TypeTree, found: Walk) -> FileContent:
    """Describe what an open HDF5 file holds: series, tables, lists of events, facts.

    Parameters
    ----------
    path : str
        The file, for messages.
    file : h5py.File
        Closed by the content's ``close``.
    types : TypeTree
        The file's neurodata types.
    found : Walk
        Its groups.
    """
    view = _View(path, file, types, found)
    tables = [view.table(node) for node in view.of("DynamicTable")]
    return FileContent(
        path=path,
        version=text(attribute(file, "nwb_version")),
        facts=_facts(found.nodes),
        series=[view.series(node) for node in view.of("TimeSeries")],
        tables=[*tables, *view.compound_tables()],
        events=[view.events(node) for node in view.of(*EVENT_LISTS)],
        other=view.others(),
        problems=view.problems,
        close=file.close,
    )


class _View:
    """Turns groups into descriptions; tables that several series refer to are described once."""

    def __init__(self, path: str, file: Any, types: TypeTree, found: Walk) -> None:
        self._path = path
        self._file = file
        self._found = found
        self._ancestry = {place: types.ancestry(kind) for place, kind in found.types.items()}
        self._tables: dict[str, Table] = {}
        self._arrays: dict[str, StoredArray] = {}
        self.problems: list[Problem] = []

    def of(self, *kinds: str) -> list[Node]:
        return [node for place, node in self._found.nodes.items() if set(kinds) & set(self._ancestry.get(place, ()))]

    def others(self) -> dict[str, str]:
        known = {"TimeSeries", "DynamicTable", *EVENT_LISTS, *_CONTAINERS}
        return {place: kinds[0] for place, kinds in sorted(self._ancestry.items()) if not known & set(kinds)}

    def series(self, node: Node) -> Series:
        start, data, conversion = node.get("starting_time"), node.get("data"), node.get("channel_conversion")
        return Series(
            path=node.path,
            types=self._ancestry[node.path],
            containers=self._containers(node.path),
            description=text(attribute(node, "description")),
            data=self._array(node, "data"),
            **self._stamps(node),
            rate=None if start is None else number(attribute(start, "rate", "nan")),
            t0=None if start is None else number(scalar(start)),
            **({} if data is None else _measured(data)),
            channel_conversion=None if conversion is None else np.asarray(conversion[()], dtype=np.float64).ravel(),
            region=self._region(node),
            confidence=self._array(node, "confidence"),
            **_clamped(node, self._ancestry[node.path]),
            external="external_file" in node,
        )

    def _stamps(self, node: Node) -> dict[str, Any]:
        stated = node.get("starting_time" if node.get("timestamps") is None else "timestamps")
        unit = "" if stated is None else text(attribute(stated, "unit"))
        return {"timestamps": self._array(node, "timestamps"), "time_unit": unit}

    def events(self, node: Node) -> EventList:
        stored = node.get("labels")
        name = "data" if "data" in node else "label_keys"
        codes = node.get(name)
        labels = stored[()] if stored is not None else () if codes is None else attribute(codes, "labels", ())
        return EventList(
            path=node.path,
            types=self._ancestry[node.path],
            description=text(attribute(node, "description")),
            **self._stamps(node),
            codes=self._array(node, name),
            labels=tuple(text(label) for label in labels),
        )

    def table(self, node: Node) -> Table:
        if node.path not in self._tables:
            listed = [text(name) for name in np.ravel(attribute(node, "colnames", ()))]
            names = [name for name in dict.fromkeys((*listed, *node.names)) if self._is_column(node, name)]
            lists = {self._named(node.get(name), "elements") for name in names}
            names = [name for name in names if node.place(name) not in lists]
            hidden = [name for name in names if name not in listed]
            if hidden:
                self.problems.append(hidden_columns(node.path, hidden))
            self._tables[node.path] = Table(
                path=node.path,
                types=self._ancestry.get(node.path, ("DynamicTable",)),
                columns={name: self._column(node, name) for name in names},
                ids=self._array(node, "id"),
                description=text(attribute(node, "description")),
                plane=_plane(node.get("imaging_plane")),
                explains=self._named(node, "target"),
            )
        return self._tables[node.path]

    def compound_tables(self) -> list[Table]:
        """Return the tables of compound values that NWB 2.0 betas keep electrodes in."""
        place = "general/extracellular_ephys/electrodes"
        dataset = self._file.get(place)
        return (
            []
            if getattr(dataset, "dtype", None) is None or not dataset.dtype.names
            else [self._compound(place, dataset)]
        )

    def _compound(self, place: str, dataset: Any) -> Table:
        if place not in self._tables:
            rows = StoredArray(dataset, f"{self._path}: {place}").all()
            columns = {
                name: Column(name=name, data=StoredArray(rows[name], f"{self._path}: {place}/{name}"))
                for name in rows.dtype.names or ()
                if rows.dtype[name].kind != "O"
            }
            ids = columns.pop("id").data if "id" in columns else None
            self._tables[place] = Table(path=place, types=("DynamicTable",), columns=columns, ids=ids)
        return self._tables[place]

    def _is_column(self, node: Node, name: str) -> bool:
        import h5py  # noqa: PLC0415  (only when a file is opened)

        if name == "id" or (name.endswith("_index") and name.removesuffix("_index") in node):
            return False
        if not isinstance(node.get(name), h5py.Dataset):
            return False
        stored = self._need(node, name)
        # compound values refer to series, which are found by their own path
        return bool(stored.shape) and stored.dtype.kind != "V"

    def _column(self, node: Node, name: str) -> Column:
        stored = self._need(node, name)
        indexes, index = [], f"{name}_index"
        while index in node:
            indexes.append(self._need(node, index))
            index += "_index"
        return Column(
            name=name,
            data=stored,
            indexes=tuple(indexes),
            rows_of=self._referred(stored.data),
            resolve=name_resolver(stored.data) if stored.dtype.kind == "O" else None,
            unit=text(attribute(stored.data, "unit")),
            elements=self._elements(stored.data),
            explained_by=self._named(stored.data, "meanings"),
        )

    def _elements(self, dataset: Any) -> StoredArray | None:
        """Return what the numbers of EnumData stand for."""
        place = self._named(dataset, "elements")
        return StoredArray(dataset.file[place], f"{self._path}: {place}") if place else None

    def _named(self, item: Any, name: str) -> str:
        """Return the path that an attribute refers to; empty where it refers to nothing."""
        import h5py  # noqa: PLC0415  (only when a file is opened)

        reference = attribute(item, name)
        if not isinstance(reference, h5py.Reference) or not reference:
            return ""
        return text(h5py.h5r.get_name(reference, self._file.id)).strip("/")

    def _referred(self, dataset: Any) -> Table | None:
        """Return the table whose rows a dataset names."""
        target = attribute(dataset, "table")
        if not target:
            return None
        group = dataset.file[target]
        place = str(group.name).strip("/")
        return self.table(self._found.nodes.get(place) or Node(group.id, place))

    def _region(self, node: Node) -> Region | None:
        for name in ("electrodes", "rois"):
            dataset = node.get(name)
            if dataset is None:
                continue
            table = self._referred(dataset)
            return self._selected(node, name) if table is None else Region(table=table, rows=self._need(node, name))
        return None

    def _selected(self, node: Node, name: str) -> Region | None:
        """Return the rows that an HDF5 region reference selects, as NWB 2.0 betas have them."""
        import h5py  # noqa: PLC0415  (only when a file is opened)

        dataset = node.get(name)
        if h5py.check_ref_dtype(dataset.dtype) is not h5py.RegionReference or dataset.shape != ():
            return None
        reference = dataset[()]
        target = self._file[reference]
        space = h5py.h5r.get_region(reference, self._file.id)
        if not target.dtype.names or not space.get_select_npoints():
            return None
        (first,), (last,) = space.get_select_bounds()
        if last - first + 1 != space.get_select_npoints():
            return None
        rows = np.arange(first, last + 1)
        where = f"{self._path}: {node.path}/{name}"
        rows = rows if last < len(target) else rows - 1  # MatNWB counted from one
        return Region(table=self._compound(str(target.name).strip("/"), target), rows=StoredArray(rows, where))

    def _containers(self, place: str) -> tuple[tuple[str, str], ...]:
        parts = place.split("/")
        above = ["/".join(parts[:depth]) for depth in range(len(parts) - 1, 0, -1)]
        return tuple((path.rpartition("/")[2], self._found.types[path]) for path in above if path in self._found.types)

    def _array(self, node: Node, name: str) -> StoredArray | None:
        return None if node.get(name) is None else self._need(node, name)

    def _need(self, node: Node, name: str) -> StoredArray:
        place = f"{node.path}/{name}"
        if place not in self._arrays:  # each asks the library for shape and type once
            self._arrays[place] = StoredArray(node.get(name), f"{self._path}: {place}")
        return self._arrays[place]


def _clamped(node: Node, types: tuple[str, ...]) -> dict[str, Any]:
    """Return what a patch-clamp series says of its sweep and electrode; nothing of other series."""
    if "PatchClampSeries" not in types:
        return {}
    number, electrode = attribute(node, "sweep_number"), node.get("electrode")
    return {
        "sweep": None if number is None else int(np.asarray(number).reshape(-1)[0]),
        "electrode": "" if electrode is None else _own_name(electrode),
    }


def _plane(group: Any) -> dict[str, Any]:
    """Return what a file says of an imaging plane: its single values, with those of its optical channel."""
    if not hasattr(group, "keys"):
        return {}
    said: dict[str, Any] = {"name": _own_name(group)}
    for name in group:
        item = group.get(name)
        if hasattr(item, "dtype"):
            said[name] = python_value(item[()])
        elif text(attribute(item, "neurodata_type")) == "OpticalChannel" and "emission_lambda" in item:
            said.setdefault("emission_lambda", python_value(item["emission_lambda"][()]))
        elif name == "device":
            said[name] = _own_name(item)
    return said


def _own_name(group: Any) -> str:
    """Return the name of a group where it lies, whatever link it was opened by."""
    import h5py  # noqa: PLC0415  (only when a file is opened)

    return text(h5py.h5r.get_name(group.ref, group.file.id)).rpartition("/")[2]


def hidden_columns(place: str, names: Sequence[str]) -> Problem:
    """Return the note on columns that a table holds and does not list."""
    what = f"columns {', '.join(names)} are in the table, but not in the list of its columns (colnames)"
    return Problem(place, what, "read like the others", "info")


def _measured(data: Any) -> dict[str, Any]:
    """Return what a dataset's own attributes say of its values."""
    return {
        "unit": text(attribute(data, "unit")),
        "conversion": number(attribute(data, "conversion", 1.0)),
        "offset": number(attribute(data, "offset", 0.0)),
        "continuity": text(attribute(data, "continuity")),
    }


def _facts(nodes: Mapping[str, Node]) -> dict[str, Any]:
    """Return the facts about the session that a file holds, those that are not empty."""
    stored = {name: nodes[place].get(name) for name, place in PLACES.items() if place in nodes}
    return facts_of({name: scalar(item) for name, item in stored.items() if hasattr(item, "shape")})


def name_resolver(dataset: Any) -> Callable[[object], str] | None:
    """Return what turns the object references of a dataset into names, without opening what they point to.

    None where an array is no HDF5 dataset or holds no object references.
    """
    import h5py  # noqa: PLC0415  (only when a file is opened)

    if not isinstance(dataset, h5py.Dataset) or h5py.check_ref_dtype(dataset.dtype) is not h5py.Reference:
        return None
    file = dataset.file.id

    def name_of(reference: object) -> str:
        path = h5py.h5r.get_name(reference, file) if reference else None
        return "" if path is None else str(path.decode("utf-8", "replace").rpartition("/")[2])

    return name_of


def missing_links(links: tuple[ExternalLink, ...]) -> dict[str, str]:
    """Return, for every external link that leads nowhere, its path and what to do about it."""
    return {
        node.place(name): (
            f"{node.place(name)} is a link to {link.path} in {without_folders(link.filename)}, which cannot be opened: "
            "put that file where the link says (beside this one, as a rule), or leave the modality out"
        )
        for node, name, link in links
        if node.get(name) is None
    }


def mark_broken(content: FileContent, missing: Mapping[str, str]) -> FileContent:
    """Mark series whose values or time stamps are missing as broken."""
    series = [
        replace(series, broken=missing.get(f"{series.path}/data") or missing.get(f"{series.path}/timestamps") or "")
        for series in content.series
    ]
    return replace(content, series=series) if missing else content


def missing_object(content: FileContent, missing: Mapping[str, str]) -> str:
    """Return the message about a missing link that is no part of a series, so that what is lost cannot be known."""
    parts = {f"{series.path}/{name}" for series in content.series for name in ("data", "timestamps")}
    return next((message for path, message in missing.items() if path not in parts), "")


def linked_files(path: str, links: tuple[ExternalLink, ...]) -> list[str]:
    """Return the other files that a file's external links lead to and that are there, sorted."""
    folder = Path(path).parent
    names = {str(folder / link.filename) for _, _, link in links}
    return sorted(name for name in names if Path(name).is_file())
