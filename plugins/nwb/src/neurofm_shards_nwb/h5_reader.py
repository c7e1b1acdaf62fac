"""Reads the plain parts of an NWB 2.x file with h5py alone, for files that pynwb cannot construct."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from neurofm_shards_nwb.arrays import StoredArray, plain, text
from neurofm_shards_nwb.content import Column, FileContent, Region, Series, Table
from neurofm_shards_nwb.links import name_resolver
from neurofm_shards_nwb.types_2x import CORE_NAMESPACES, TypeTree

_FACTS = {name: name for name in ("identifier", "session_description", "session_start_time")} | {
    name: f"general/{name}" for name in ("session_id", "institution", "lab")
}
_SUBJECT_FACTS = ("subject_id", "species", "sex", "age", "genotype", "strain")


def read_with_h5py(path: str, file: Any, types: TypeTree) -> FileContent:
    """Describe what is plain in an open HDF5 file: series, tables, facts.

    Parameters
    ----------
    path : str
        The file, for messages.
    file : h5py.File
        Closed by the content's ``close``.
    types : TypeTree
        The file's neurodata types.
    """
    view = _View(path, file, types)
    return FileContent(
        path=path,
        version=text(file.attrs.get("nwb_version")),
        facts=_facts(file),
        series=[view.series(group) for group in view.find("TimeSeries")],
        tables=[view.table(group) for group in view.find("DynamicTable")],
        other=view.others(),
        close=file.close,
    )


class _View:
    def __init__(self, path: str, file: Any, types: TypeTree) -> None:
        self._path = path
        self._file = file
        self._tree = types
        self._groups = {inner_path(group): group for group in typed_groups(file)}
        self._tables: dict[str, Table] = {}

    def find(self, kind: str) -> list[Any]:
        return [group for _, group in sorted(self._groups.items()) if kind in self._types(group)]

    def others(self) -> dict[str, str]:
        return {
            path: self._types(group)[0]
            for path, group in sorted(self._groups.items())
            if not {"TimeSeries", "DynamicTable"} & set(self._types(group))
        }

    def series(self, group: Any) -> Series:
        path = inner_path(group)
        start, data = group.get("starting_time"), group.get("data")
        attributes = {} if data is None else data.attrs
        conversion = group.get("channel_conversion")
        return Series(
            path=path,
            types=self._types(group),
            containers=self._containers(group),
            description=text(group.attrs.get("description")),
            data=self._array(group, "data"),
            timestamps=self._array(group, "timestamps"),
            rate=None if start is None else float(start.attrs.get("rate", "nan")),
            t0=None if start is None else float(start[()]),
            unit=text(attributes.get("unit")),
            conversion=float(attributes.get("conversion", 1.0)),
            offset=float(attributes.get("offset", 0.0)),
            channel_conversion=None if conversion is None else np.asarray(conversion[()], dtype=np.float64),
            continuity=text(attributes.get("continuity")),
            region=self._region(group),
            external="external_file" in group,
        )

    def table(self, group: Any) -> Table:
        path = inner_path(group)
        if path not in self._tables:
            names = [text(name) for name in group.attrs.get("colnames", ())]
            names += [name for name in group if name not in names and self._is_column(group, name)]
            self._tables[path] = Table(
                path=path,
                types=self._types(group),
                columns={name: self._column(group, name) for name in names if self._is_column(group, name)},
                ids=self._array(group, "id"),
                description=text(group.attrs.get("description")),
                plain=text(group.attrs.get("namespace")) in CORE_NAMESPACES,
            )
        return self._tables[path]

    def _is_column(self, group: Any, name: str) -> bool:
        dataset = group.get(name)
        if name == "id" or getattr(dataset, "shape", None) in (None, ()):
            return False
        kind = text(dataset.attrs.get("neurodata_type"))
        return kind not in ("VectorIndex", "ElementIdentifiers", "TimeSeriesReferenceVectorData")

    def _column(self, group: Any, name: str) -> Column:
        dataset = group[name]
        indexes, index = [], f"{name}_index"
        while index in group:
            indexes.append(self._need(group[index]))
            index += "_index"
        target = dataset.attrs.get("table")
        return Column(
            name=name,
            data=self._need(dataset),
            description=text(dataset.attrs.get("description")),
            indexes=tuple(indexes),
            rows_of=self.table(self._file[target]) if target else None,
            resolve=name_resolver(dataset),
        )

    def _region(self, group: Any) -> Region | None:
        for name in ("electrodes", "rois"):
            dataset = group.get(name)
            if dataset is not None and "table" in dataset.attrs:
                return Region(table=self.table(self._file[dataset.attrs["table"]]), rows=self._need(dataset))
        return None

    def _types(self, group: Any) -> tuple[str, ...]:
        return self._tree.ancestry(text(group.attrs.get("neurodata_type")))

    def _containers(self, group: Any) -> tuple[tuple[str, str], ...]:
        found, parent = [], group.parent
        while parent.name != "/":
            kind = text(parent.attrs.get("neurodata_type"))
            if kind:
                found.append((parent.name.rpartition("/")[2], kind))
            parent = parent.parent
        return tuple(found)

    def _array(self, group: Any, name: str) -> StoredArray | None:
        dataset = group.get(name)
        return None if dataset is None else self._need(dataset)

    def _need(self, dataset: Any) -> StoredArray:
        return StoredArray(dataset, f"{self._path}: {inner_path(dataset)}")


def inner_path(item: Any) -> str:
    """Return an HDF5 object's path without the leading slash."""
    return str(item.name).strip("/")


def typed_groups(group: Any) -> Iterator[Any]:
    """Give every group that has a neurodata type, once: soft links are not followed, their targets come anyway."""
    import h5py  # noqa: PLC0415  (only when a file is opened)

    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.SoftLink) or name == "specifications":
            continue
        item = group.get(name)
        if isinstance(item, h5py.Group):
            if "neurodata_type" in item.attrs:
                yield item
            yield from typed_groups(item)


def _facts(file: Any) -> dict[str, Any]:
    paths = _FACTS | {name: f"general/subject/{name}" for name in _SUBJECT_FACTS}
    facts = {name: text(file[path][()]) for name, path in paths.items() if path in file}
    return {name: plain(value) for name, value in facts.items() if value}
