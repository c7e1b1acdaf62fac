"""A recording made of streams that are already at hand: for tests, and for formats that are read in one go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats
from neurofm_shards.streams import (
    AnyStream,
    EventStream,
    IntervalStream,
    IrregularStream,
    Recording,
    RegularStream,
)
from neurofm_shards.types import Problem


class InMemoryRecording(Recording):
    """A recording of given streams.

    Parameters
    ----------
    streams : sequence of Stream
        What the recording holds; see :func:`events`, :func:`regular`, :func:`irregular` and :func:`intervals`.
    session_id, subject_id, source_file, fingerprint : str
        See :class:`~neurofm_shards.recordings.Recording`.
    facts : mapping
        JSON facts about the session.
    problems : sequence of Problem
        What was odd about the input.
    on_close : callable or None
        Called once by ``close``.

    Examples
    --------
    >>> from neurofm_shards.recordings import InMemoryRecording, WindowOptions, windowed
    >>> from neurofm_shards.recordings.memory import events
    >>> units = events("units", {"a": [0.005, 0.015], "b": [0.012]})
    >>> samples = windowed(InMemoryRecording([units]), WindowOptions(bin_size_ms=5, sequence_length=2, overlap=0))
    >>> samples.read(0, 1).columns["spikes"].tolist()
    [[[1, 0], [0, 1]]]
    """

    def __init__(
        self,
        streams: Sequence[AnyStream],
        *,
        session_id: str = "session",
        subject_id: str = "subject",
        source_file: str = "memory",
        fingerprint: str = "memory",
        facts: Mapping[str, Any] | None = None,
        problems: Sequence[Problem] = (),
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._streams = tuple(streams)
        self._on_close = on_close
        self.session_id = session_id
        self.subject_id = subject_id
        self.source_file = source_file
        self.fingerprint = fingerprint
        self.facts = dict(facts or {})
        self.problems = tuple(problems)

    @property
    def streams(self) -> Sequence[AnyStream]:
        """The streams as given."""
        return self._streams

    def close(self) -> None:
        """Call ``on_close`` the first time."""
        if self._on_close is not None:
            self._on_close()
            self._on_close = None


def events(path: str, times: Mapping[str, npt.ArrayLike], *, modality: str = "spikes", **more: Any) -> EventStream:
    """Describe events by the times (seconds) of each owner; ``more`` goes to :class:`EventStream`."""
    arrays = [np.asarray(values, dtype=np.float64).ravel() for values in times.values()]
    flat = np.concatenate([*arrays, np.zeros(0)])
    owner = np.repeat(np.arange(len(arrays)), [len(values) for values in arrays])
    return EventStream(path=path, modality=modality, read=lambda: (flat, owner), owners=tuple(times), **more)


def regular(
    path: str, values: npt.ArrayLike, rate: float, t0: float = 0.0, *, modality: str = "lfp", **more: Any
) -> RegularStream:
    """Describe values at a constant rate, shape (time, ...); ``more`` goes to :class:`RegularStream`."""
    return RegularStream(path=path, modality=modality, rate=rate, t0=t0, **_stored(values), **more)


def irregular(
    path: str, values: npt.ArrayLike, timestamps: npt.ArrayLike, *, modality: str = "behavior", **more: Any
) -> IrregularStream:
    """Describe values with a time stamp each; ``more`` goes to :class:`IrregularStream`."""
    times = np.asarray(timestamps, dtype=np.float64)
    return IrregularStream(path=path, modality=modality, timestamps=lambda: times, **_stored(values), **more)


def _stored(values: npt.ArrayLike) -> dict[str, Any]:
    data = np.asarray(values)
    return {"shape": data.shape, "dtype": data.dtype.str, "read": lambda start, stop: data[start:stop]}


def intervals(
    path: str,
    start: npt.ArrayLike,
    stop: npt.ArrayLike,
    columns: Mapping[str, Sequence[Any]] | None = None,
    *,
    modality: str = "trials",
    **more: Any,
) -> IntervalStream:
    """Describe intervals with columns; ``more`` goes to :class:`IntervalStream`."""
    first: Floats = np.asarray(start, dtype=np.float64)
    return IntervalStream(
        path=path,
        modality=modality,
        start=first,
        stop=np.asarray(stop, dtype=np.float64),
        columns=dict(columns or {}),
        **more,
    )
