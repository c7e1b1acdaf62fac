"""Reads NWB 2.x through pynwb: what is asked for with reader=pynwb, files built unlike known schemas, Zarr stores."""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from neurofm_shards.errors import MissingPluginError, SourceError
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
from neurofm_shards_nwb.hdf5_reader import EVENT_LISTS, hidden_columns, name_resolver


class _Shared(threading.local):
    """One type map per thread: filling it is not safe from several."""

    def __init__(self) -> None:
        self.known: tuple[str, ...] = ()
        self.types: Any = None


_SHARED = _Shared()


def open_io(file: Any) -> Any:
    """Return a ``pynwb.NWBHDF5IO`` on an open file, with the schemas that the file brings.

    pynwb loads a cached schema only when no schema of that name is loaded (in whatever version); where all are, loading
    changes nothing, and the type map that other files have used does as well.

    Parameters
    ----------
    file : h5py.File
        Opened for reading.
    """
    import pynwb  # noqa: PLC0415  (only when a file is opened)
    from hdmf.build import BuildManager  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks about cached schemas: they are about software, not about the file
        known = tuple(pynwb.available_namespaces())
        if not set(pynwb.NWBHDF5IO.get_namespaces(file=file)) <= set(known):
            return pynwb.NWBHDF5IO(file=file, mode="r", load_namespaces=True)
        if _SHARED.known != known:  # an extension was loaded since
            _SHARED.known, _SHARED.types = known, pynwb.get_type_map()
        return pynwb.NWBHDF5IO(file=file, mode="r", manager=BuildManager(_SHARED.types))


#: Types of pynwb's own class tree that say nothing about the data.
_FRAMEWORK = ("NWBDataInterface", "NWBContainer", "NWBMixin", "Container", "AbstractContainer", "NWBTable", "object")
#: Warnings that are about software or schemas, or that this plugin checks and reports itself.
_NOT_ABOUT_DATA = (
    "altered/broken",
    "cached namespace",
    "deprecated",
    "garbage collected",
    "does not match",
    "appears to be transposed",
    "is experimental",
    "not compliant with NWB 2.5",
    "and timestamps is not supported",
)


def read_with_pynwb(path: str, io: Any, release: Callable[[], None]) -> FileContent:
    """Let pynwb construct the file, and describe what it holds.

    Parameters
    ----------
    path : str
        The file, for messages.
    io : pynwb.NWBHDF5IO or hdmf_zarr.NWBZarrIO
        Opened for reading.
    release : callable
        Closes ``io`` and what lies below it.

    Raises
    ------
    Exception
        Whatever pynwb or hdmf raise when they cannot construct the file.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nwbfile = io.read()
        view = _View(path, io, nwbfile)
        series = [view.series(item) for item in view.find("TimeSeries")]
        tables = [view.table(item) for item in view.find("DynamicTable")]
        root = io.read_builder()
        return FileContent(
            path=path,
            version=text(root.attributes.get("nwb_version")),
            facts=_facts(nwbfile, root),
            series=series,
            tables=tables,
            events=[view.events(item) for item in view.find(*EVENT_LISTS)],
            other=view.others(),
            problems=[*_problems(caught), *view.problems],
            close=release,
        )


class _View:
    """Turns containers into descriptions; tables that several series refer to are described once."""

    def __init__(self, path: str, io: Any, nwbfile: Any) -> None:
        self._file = path
        self._items: dict[str, Any] = {}
        self._paths: dict[int, str] = {}
        self._builders: dict[int, Any] = {}
        self._built: dict[int, Any] = {}
        self._tables: dict[int, Table] = {}
        self.problems: list[Problem] = []
        for item in nwbfile.objects.values():
            builder = io.manager.get_builder(item)
            item_path = _path_of(builder)
            self._items[item_path] = item
            self._paths[id(item)] = item_path
            self._builders[id(item)] = builder
            self._built[id(builder)] = item

    def find(self, *kinds: str) -> list[Any]:
        return [item for _, item in sorted(self._items.items()) if set(kinds) & set(_types(item))]

    def others(self) -> dict[str, str]:
        known = ("TimeSeries", "DynamicTable", "NWBFile", "Data", "VectorData", *EVENT_LISTS)
        return {
            path: type(item).__name__
            for path, item in sorted(self._items.items())
            if path and not any(kind in _types(item) for kind in known)
        }

    def series(self, item: Any) -> Series:
        path = self._paths[id(item)]
        conversion = getattr(item, "channel_conversion", None)
        return Series(
            path=path,
            types=_types(item),
            containers=_containers(item),
            description=text(item.description),
            data=self._array(item.data, f"{path}/data"),
            timestamps=self._array(item.timestamps, f"{path}/timestamps"),
            time_unit=text(self._said(item, "unit", "", "starting_time" if item.timestamps is None else "timestamps")),
            rate=None if item.rate is None else float(item.rate),
            t0=None if item.starting_time is None else float(item.starting_time),
            unit=text(self._said(item, "unit", item.unit)),
            conversion=float(item.conversion),
            offset=float(item.offset or 0.0),
            channel_conversion=None if conversion is None else np.asarray(conversion, dtype=np.float64),
            continuity=text(getattr(item, "continuity", None)),
            region=self._region(getattr(item, "electrodes", None) or getattr(item, "rois", None), path),
            confidence=self._array(getattr(item, "confidence", None), f"{path}/confidence"),
            sweep=None if getattr(item, "sweep_number", None) is None else int(item.sweep_number),
            electrode=str(item.electrode.name) if "PatchClampSeries" in _types(item) else "",
            external=getattr(item, "external_file", None) is not None,
        )

    def events(self, item: Any) -> EventList:
        """Describe a list of events of ndx-events 0.1 and 0.2."""
        path = self._paths[id(item)]
        codes = getattr(item, "data", None) if hasattr(item, "data") else getattr(item, "label_keys", None)
        return EventList(
            path=path,
            types=_types(item),
            description=text(item.description),
            timestamps=self._array(item.timestamps, f"{path}/timestamps"),
            time_unit=text(self._said(item, "unit", "", "timestamps")),
            codes=self._array(codes, f"{path}/data"),
            labels=tuple(text(label) for label in getattr(item, "labels", None) or ()),
        )

    def _said(self, item: Any, name: str, otherwise: Any, of: str = "data") -> Any:
        """Return an attribute of a series' data as the file has it: pynwb replaces some by what the schema says."""
        builder = self._builders[id(item)]
        data = builder.datasets.get(of) or getattr(builder.links.get(of), "builder", None)
        return otherwise if data is None else data.attributes.get(name, otherwise)

    def table(self, item: Any) -> Table:
        if id(item) not in self._tables:
            path = self._paths[id(item)]
            self._tables[id(item)] = Table(
                path=path,
                types=_types(item),
                columns={
                    name: self._column(name, _column_of(item, name), path) for name in self._plain_columns(item, path)
                }
                | self._hidden_columns(item, path),
                ids=self._array(item.id.data, f"{path}/id"),
                description=text(item.description),
                plane=self._plane(getattr(item, "imaging_plane", None)),
                explains=_path_of(self._builders[id(item)].attributes.get("target")),
            )
        return self._tables[id(item)]

    def _plane(self, item: Any) -> dict[str, Any]:
        """Return what the file says of an imaging plane, as :mod:`~neurofm_shards_nwb.hdf5_reader` does."""
        if item is None:
            return {}
        stored = self._builders[id(item)].datasets
        said = {"name": str(item.name)} | {name: python_value(_value(part.data)) for name, part in stored.items()}
        for channel in item.optical_channel or ():
            said.setdefault("emission_lambda", python_value(channel.emission_lambda))
        return said if item.device is None else {**said, "device": str(item.device.name)}

    def _plain_columns(self, item: Any, path: str) -> list[str]:
        pickled = [name for name in item.colnames if _is_pickled(_column_of(item, name))]
        if pickled:
            what = f"columns {', '.join(pickled)} are stored as pickles"
            self.problems.append(Problem(path, what, "left out: pickles of others are never loaded", "info"))
        return [name for name in item.colnames if name not in pickled and _is_plain(_column_of(item, name))]

    def _hidden_columns(self, item: Any, path: str) -> dict[str, Column]:
        """Return the columns that a table holds but does not list, which pynwb leaves out."""
        stored = self._builders[id(item)].datasets
        known = {part.name for part in item.columns} | {"id"}
        lists = {_path_of(dataset.attributes.get("elements")) for dataset in stored.values()}
        names = [
            name
            for name, dataset in stored.items()
            if name not in known
            and f"{path}/{name}" not in lists
            and not (name.endswith("_index") and name.removesuffix("_index") in stored)
            and np.shape(dataset.data)
            and getattr(dataset.data, "dtype", np.dtype(float)).kind != "V"
            and not _is_pickled(dataset)
        ]
        if names:
            self.problems.append(hidden_columns(path, names))
        return {
            name: Column(
                name=name,
                data=self._need(stored[name].data, f"{path}/{name}"),
                indexes=tuple(self._need(stored[index].data, f"{path}/{index}") for index in _indexes(name, stored)),
                rows_of=self._rows_of(stored[name]),
                resolve=name_resolver(stored[name].data),
                unit=text(stored[name].attributes.get("unit")),
                **self._codes(stored[name].attributes),
            )
            for name in names
        }

    def _rows_of(self, stored: Any) -> Table | None:
        """Return the table whose rows a dataset names."""
        target = self._built.get(id(stored.attributes.get("table")))
        return None if target is None else self.table(target)

    def _column(self, name: str, item: Any, path: str) -> Column:
        indexes: list[StoredArray] = []
        while "VectorIndex" in _types(item):
            indexes.insert(0, self._need(item.data, f"{path}/{item.name}"))
            item = item.target
        target = item.table if "DynamicTableRegion" in _types(item) else None
        stored = getattr(item.data, "dataset", item.data)
        resolve = name_resolver(stored)
        return Column(
            name=name,
            data=self._need(item.data if resolve is None else stored, f"{path}/{item.name}"),
            indexes=tuple(indexes),
            rows_of=None if target is None else self.table(target),
            resolve=resolve,
            unit=text(self._builders[id(item)].attributes.get("unit")),
            **self._codes(self._builders[id(item)].attributes),
        )

    def _codes(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the values of a column stand for, by its attributes."""
        listed = said.get("elements")
        elements = None if listed is None else self._need(listed.data, _path_of(listed))
        return {"elements": elements, "explained_by": _path_of(said.get("meanings"))}

    def _region(self, item: Any, path: str) -> Region | None:
        if item is None or "DynamicTableRegion" not in _types(item):
            return None
        return Region(table=self.table(item.table), rows=self._need(item.data, f"{path}/{item.name}"))

    def _array(self, data: Any, path: str) -> StoredArray | None:
        return None if data is None else self._need(data, path)

    def _need(self, data: Any, path: str) -> StoredArray:
        return StoredArray(data, f"{self._file}: {path}")


def _path_of(builder: Any) -> str:
    """Return the path of what an attribute refers to; empty where it refers to nothing."""
    return str(getattr(builder, "path", "")).removeprefix("root").strip("/")


def _types(item: Any) -> tuple[str, ...]:
    return tuple(kind.__name__ for kind in type(item).__mro__ if kind.__name__ not in _FRAMEWORK)


def _containers(item: Any) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    parent = item.parent
    while parent is not None and parent.parent is not None:
        found.append((str(parent.name), type(parent).__name__))
        parent = parent.parent
    return tuple(found)


def _indexes(name: str, stored: Mapping[str, Any]) -> Iterator[str]:
    """Return the names of the indexes of a ragged column, innermost first."""
    while (name := f"{name}_index") in stored:
        yield name


def _value(stored: Any) -> Any:
    return stored[()] if hasattr(stored, "shape") else stored


def _column_of(table: Any, name: str) -> Any:
    """Return a column; tables that hold other tables, too, as ndx-events has them, give these for ``table[name]``."""
    from hdmf.common import DynamicTable  # noqa: PLC0415  (only when a file is opened)

    return DynamicTable.get(table, name)


def _is_plain(column: Any) -> bool:
    """Leave out references into series: their target is found by its own path."""
    return "TimeSeriesReferenceVectorData" not in _types(getattr(column, "target", column))


def _is_pickled(column: Any) -> bool:
    """Return whether values are pickles, as object references in Zarr stores are."""
    data = getattr(column, "target", column).data
    filters = getattr(getattr(data, "dataset", data), "filters", None)
    return any(getattr(part, "codec_id", "") == "pickle" for part in filters or ())


def _facts(nwbfile: Any, root: Any) -> dict[str, Any]:
    holders = {"general/subject": nwbfile.subject}
    stored = {name: _value(getattr(holders.get(place, nwbfile), name, None)) for name, place in PLACES.items()}
    # as the file says it: pynwb gives a time without a zone that of the machine it runs on
    return facts_of({**stored, "session_start_time": root.datasets["session_start_time"].data})


def _problems(caught: Sequence[warnings.WarningMessage]) -> list[Problem]:
    messages = dict.fromkeys(str(warning.message) for warning in caught)
    return [
        Problem(where="file", what=f"pynwb says: {message}", consequence="read as it is", severity="info")
        for message in messages
        if not any(part in message for part in _NOT_ABOUT_DATA)
    ]


def open_zarr(path: str) -> FileContent:
    """Open a Zarr store.

    Raises
    ------
    MissingPluginError
        hdmf-zarr is not installed.
    SourceError
        The store cannot be opened or constructed.
    """
    try:
        module = importlib.import_module("hdmf_zarr.nwb")
    except ImportError as error:
        raise MissingPluginError(
            f"{path} is an NWB store in Zarr, and hdmf-zarr is not installed ({error}): "
            "pip install 'neurofm-shards-nwb[zarr]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            io = module.NWBZarrIO(path, mode="r", load_namespaces=True)
            return read_with_pynwb(path, io, io.close)
        except Exception as error:
            raise SourceError(f"{path} cannot be read as an NWB store in Zarr ({error}): get it again") from error
