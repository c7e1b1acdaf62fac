"""Archives that pynapple saved: values over ``t``, times of events, valid inside ``start`` to ``end``.

The layout is that of ``Tsd.save`` and its kin in pynapple 0.6 and later: ``t`` in seconds, values ``d``, names of
columns, the time support as ``start`` and ``end``, and the class as ``type``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from neurofm_shards._typing import AnyArray, Floats, Ints
from neurofm_shards.errors import SourceError
from neurofm_shards.plugins.toolkit import file_fingerprint
from neurofm_shards.recordings import InMemoryRecording
from neurofm_shards.streams import AnyStream, EventStream, IntervalStream, IrregularStream
from neurofm_shards_npz.archive import Archive
from neurofm_shards_npz.config import NpzConfig

_VALUES = ("Tsd", "TsdFrame", "TsdTensor")
_EVENTS = ("Ts", "TsGroup")


def pynapple_type(archive: Archive) -> str:
    """Return the pynapple class that an archive holds; empty for archives of others."""
    if not {"t", "start", "end", "type"} <= archive.members.keys():
        return ""
    kind = archive.members["type"]
    if kind.dtype.kind != "U" or kind.shape not in {(), (1,)}:
        return ""
    name = str(archive.array("type").reshape(-1)[0])
    return name if name in (*_VALUES, *_EVENTS) else ""


def pynapple_recording(archive: Archive, kind: str, config: NpzConfig) -> InMemoryRecording:
    """Describe what pynapple saved as streams, read when they are needed.

    Raises
    ------
    SourceError
        Its arrays do not fit each other.
    """
    path = Path(archive.path)
    support = IntervalStream(
        path="time_support",
        modality="epochs",
        kind_name="IntervalSet",
        start=np.asarray(archive.array("start"), dtype=np.float64).ravel(),
        stop=np.asarray(archive.array("end"), dtype=np.float64).ravel(),
    )
    stream = _events(archive, kind) if kind in _EVENTS else _values(archive, kind, config)
    return InMemoryRecording(
        [stream, support],
        session_id=path.stem if config.session_id is None else config.session_id,
        subject_id=config.subject_id,
        source_file=path.name,
        fingerprint=file_fingerprint([archive.path]),
        facts={"format": f"pynapple {kind}"},
        problems=config.without_effect(["d"] if kind in _VALUES else []),
        on_close=archive.close,
    )


def _times(archive: Archive) -> Callable[[], Floats]:
    return lambda: np.asarray(archive.array("t"), dtype=np.float64)


def _values(archive: Archive, kind: str, config: NpzConfig) -> AnyStream:
    if "d" not in archive.members:
        raise SourceError(f"{archive.path}: a {kind} of pynapple without its values 'd': save it again")
    data, clock = archive.members["d"], archive.members["t"]
    if data.shape[:1] != clock.shape or not data.numeric:
        raise SourceError(f"{archive.path}: values {data} do not fit the {clock.shape[0]} times of this {kind}")
    names = tuple(str(name) for name in archive.array("columns").reshape(-1)) if "columns" in archive.members else ()

    def read(start: int, stop: int) -> AnyArray:
        array = archive.array("d")
        return np.ascontiguousarray(array[start:stop], array.dtype.newbyteorder("<"))

    return IrregularStream(
        path="d",
        modality=config.modality.get("d", "behavior"),
        kind_name=kind,
        shape=data.shape,
        dtype=data.dtype.newbyteorder("<").str,
        read=read,
        timestamps=_times(archive),
        unit=config.units.get("d", ""),
        circular=config.circular.get("d"),
        channels=names if len(data.shape) > 1 and len(names) == data.shape[1] else (),
        continuity="step" if data.dtype.kind in "biu" else "continuous",
    )


def _events(archive: Archive, kind: str) -> AnyStream:
    owners, owner = _owners(archive, kind)
    return EventStream(
        path="t",
        modality="spikes" if kind == "TsGroup" else "events",
        kind_name=kind,
        read=lambda: (_times(archive)(), owner()),
        owners=owners,
    )


def _owners(archive: Archive, kind: str) -> tuple[tuple[str, ...], Callable[[], Ints]]:
    """Return the ids of the members of a group and the position of each event's among them."""
    count = archive.members["t"].shape[0]
    if kind == "Ts":
        return ("t",), lambda: np.zeros(count, dtype=np.int64)
    if "index" not in archive.members or archive.members["index"].shape != (count,):
        raise SourceError(f"{archive.path}: a TsGroup of pynapple without the 'index' of each time: save it again")
    keys: Any = archive.array("keys") if "keys" in archive.members else np.unique(archive.array("index"))
    ids, places = np.unique(np.asarray(keys), return_index=True)
    positions = np.searchsorted(ids, np.asarray(archive.array("index")))
    return tuple(str(key) for key in np.asarray(keys).tolist()), lambda: places[positions].astype(np.int64)
