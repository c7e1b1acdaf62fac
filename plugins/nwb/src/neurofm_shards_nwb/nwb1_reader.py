"""A small reader of NWB 1.x: the units, sorted or clustered, and the epochs. pynwb refuses such files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import SourceError
from neurofm_shards.streams import AnyStream, EventStream, IntervalStream
from neurofm_shards.types import Problem
from neurofm_shards_nwb.content import StoredArray, text
from neurofm_shards_nwb.facts import PLACES, facts_of
from neurofm_shards_nwb.hdf5_reader import number


def version_1(file: Any) -> str:
    """Return the version of an NWB 1.x file; empty for anything else (2.x keeps it in an attribute)."""
    if "nwb_version" in file.attrs or "nwb_version" not in file:
        return ""
    return text(file["nwb_version"][()]).removeprefix("NWB-")


def facts_1(file: Any) -> dict[str, Any]:
    """Return the facts about the session that NWB 1.x files hold, those that are not empty."""
    paths = {name: f"{place}/{name}" for name, place in PLACES.items()}
    return facts_of({name: file[path][()] for name, path in paths.items() if hasattr(file.get(path), "shape")})


def streams_1(path: str, file: Any) -> tuple[list[AnyStream], list[Problem]]:
    """Describe the units (those of clusters where there are no others) and epochs of an NWB 1.x file.

    Returns
    -------
    (list of stream, list of Problem)
        A note says what else the file holds and that it is not read.
    """
    processing = file.get("processing")
    streams: list[AnyStream] = [_units(path, group) for group in _groups(processing, "UnitTimes")]
    if not streams:  # those of clusters are the same spikes
        clustered = _groups(processing, "Clustering")
        streams = [_clusters(path, group) for group in clustered if "times" in group and "num" in group]
    epochs = file.get("epochs")
    if epochs is not None and len(epochs):
        streams.append(_epochs(epochs))
    problems = [
        Problem(name, f"{len(file[name])} items of NWB 1.x", "not read: only UnitTimes and epochs are", "info")
        for name in ("acquisition/timeseries", "stimulus/presentation")
        if name in file and len(file[name])
    ]
    return streams, problems


def _groups(group: Any, kind: str) -> Iterator[Any]:
    for name in () if group is None else group:
        item = group.get(name)
        if hasattr(item, "keys"):
            if text(item.attrs.get("neurodata_type")) == kind or name == kind:
                yield item
            else:
                yield from _groups(item, kind)


def _units(path: str, group: Any) -> EventStream:
    names = [name for name in group if hasattr(group.get(name), "keys") and "times" in group[name]]
    names.sort(key=_natural)
    place = str(group.name).strip("/")
    times = [StoredArray(group[name]["times"], f"{path}: {place}/{name}/times") for name in names]
    table = [
        {"id": name, "description": text(group[name]["unit_description"][()])}
        if "unit_description" in group[name]
        else {"id": name}
        for name in names
    ]
    return EventStream(
        path=place,
        modality="spikes",
        kind_name="UnitTimes",
        description=text(group.attrs.get("source")),
        read=_reader(times),
        owners=tuple(names),
        table=table,
    )


def _clusters(path: str, group: Any) -> EventStream:
    """Describe the spikes of clusters, which lie in one list with the number of each one's cluster."""
    place = str(group.name).strip("/")
    times, stored = (StoredArray(group[name], f"{path}: {place}/{name}") for name in ("times", "num"))
    clusters, owner = np.unique(stored.all().ravel(), return_inverse=True)

    def read() -> tuple[Floats, Ints]:
        found = times.all().astype(np.float64).ravel()
        if len(found) != len(owner):
            raise SourceError(f"{times.where} has {len(found)} times for the {len(owner)} cluster numbers beside it")
        return found, owner.astype(np.int64).ravel()

    return EventStream(
        path=place,
        modality="spikes",
        kind_name="Clustering",
        description=text(group["description"][()]) if "description" in group else "",
        read=read,
        owners=tuple(str(cluster) for cluster in clusters.tolist()),
        table=[{"id": str(cluster)} for cluster in clusters.tolist()],
    )


def _reader(times: list[StoredArray]) -> Callable[[], tuple[Floats, Ints]]:
    def read() -> tuple[Floats, Ints]:
        parts = [part.all().astype(np.float64).ravel() for part in times]
        owner = np.repeat(np.arange(len(parts), dtype=np.int64), [len(part) for part in parts])
        return np.concatenate(parts) if parts else np.zeros(0), owner

    return read


def _epochs(group: Any) -> IntervalStream:
    names = sorted((name for name in group if "start_time" in group[name]), key=_natural)
    starts = np.array([number(group[name]["start_time"][()]) for name in names])
    order = np.argsort(starts, kind="stable").tolist()
    names = [names[row] for row in order]
    stops = [number(group[name]["stop_time"][()]) if "stop_time" in group[name] else np.nan for name in names]
    return IntervalStream(
        path="epochs",
        modality="epochs",
        kind_name="Epoch",
        start=starts[order],
        stop=np.array(stops),
        columns={
            "id": names,
            "tags": [
                list(dict.fromkeys([name, *_tags(group[name])])) for name in names
            ],  # an epoch is found by its name
            "description": [_said(group[name]) for name in names],
        },
    )


def _said(epoch: Any) -> str:
    return text(epoch["description"][()]) if "description" in epoch else ""


def _tags(epoch: Any) -> list[str]:
    return [text(tag) for tag in np.atleast_1d(epoch["tags"][()])] if "tags" in epoch else []


def _natural(name: str) -> tuple[Any, ...]:
    """Sort ``cell_10`` behind ``cell_2``."""
    return tuple((int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", Path(name).name))
