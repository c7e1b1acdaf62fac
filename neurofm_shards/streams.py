"""What a continuous recording is made of: lazily read streams of four kinds.

A format plugin describes streams; it never bins, resamples or cuts. :mod:`neurofm_shards.recordings` does.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards._wording import counted, html_table
from neurofm_shards.errors import SourceError, did_you_mean
from neurofm_shards.types import Problem

if TYPE_CHECKING:
    from typing_extensions import Self

#: What a stream may be taken for; see :class:`Stream`.
MODALITIES = (
    "spikes", "lfp", "raw", "behavior", "ophys", "events", "trials", "epochs", "invalid", "intervals",
    "sweeps", "stimulus", "other",
)  # fmt: skip

Continuity = Literal["continuous", "step", "instantaneous"]


@dataclass(frozen=True)
class EventCounts:
    """How many events of each owner lie in a recording.

    Attributes
    ----------
    recorded : numpy.ndarray of int64, shape (k, 2)
        The spans, in ticks, in which something was recorded.
    first, last : int
        The events in it, by their place in time order.
    counts, seen : numpy.ndarray of int64, shape (owners,)
        Events of each owner, and how many of them while it was observed.
    """

    recorded: Ints
    first: int
    last: int
    counts: Ints
    seen: Ints


@dataclass(frozen=True)
class SortedEvents:
    """Events in time order, and what was odd before they were sorted.

    Attributes
    ----------
    ticks : numpy.ndarray of int64, shape (n,)
        Every time that is one, ascending, ties in the order found; ticks of 1 ns.
    owner : numpy.ndarray of int, shape (n,)
        Whose each is.
    total, not_a_number, unsorted : int
        Events found; times that are no number; times before the one listed ahead of them for the same owner.
    suspicions : tuple of str
        Why the times may be no seconds of the session.
    known : EventCounts or None
        Counts that need not be made again.
    """

    ticks: Ints
    owner: npt.NDArray[Any]
    total: int
    not_a_number: int
    unsorted: int
    suspicions: tuple[str, ...] = ()
    known: EventCounts | None = None


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What every stream has.

    Attributes
    ----------
    path : str
        Where it is in the input; unique in the recording, and what users select it by.
    modality : str
        ``"spikes"``, ``"lfp"``, ``"raw"`` (wide-band), ``"behavior"``, ``"ophys"``, ``"events"``, ``"trials"``,
        ``"epochs"``, ``"invalid"``, ``"intervals"``, ``"sweeps"`` (a table of them, see
        :class:`IntervalStream`), ``"stimulus"`` and ``"other"`` (taken only when its path is named).
    kind_name : str
        The input format's own name for it (a neurodata type, say), for messages and ``inspect``.
    description : str
        Free text from the file.
    tables : mapping of str to sequence of dict
        Further tables that belong to its units or channels (``electrodes``, ``planes``): JSON dicts, each with an
        ``id``.
    """

    path: str
    modality: str
    kind_name: str = ""
    description: str = ""
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EventStream(Stream):
    """Events in time, each belonging to one of ``owners`` (a unit, a code, a label).

    Attributes
    ----------
    read : callable
        Returns ``(times, owner)``: float64 seconds and int64 indices into ``owners``, both of shape (n,), as found in
        the file (unsorted and NaN times included: the core sorts, drops and counts).
    owners : tuple of str
        Ids of the units or codes, unique, in file order (the file's own ids, never row numbers).
    table : sequence of dict
        One JSON dict of properties per owner (``quality``, ``region``, electrodes, ...), in the order of ``owners``.
    observed : callable or None
        Returns, per owner, an array (k, 2) of observed intervals in seconds, or None where nothing is said.
    in_order : callable or None
        Returns the events as they were sorted before; then ``read`` is for those who want seconds.
    """

    read: Callable[[], tuple[Floats, Ints]]
    owners: tuple[str, ...]
    table: Sequence[Mapping[str, Any]] = ()
    observed: Callable[[], Sequence[Floats | None]] | None = None
    in_order: Callable[[], SortedEvents] | None = None


@dataclass(frozen=True, kw_only=True)
class SeriesStream(Stream):
    """Values over time: what :class:`RegularStream` and :class:`IrregularStream` have in common.

    Attributes
    ----------
    shape : tuple of int
        ``(time, ...)``.
    dtype : str
        numpy dtype of the stored values.
    read : callable
        ``read(start, stop)`` returns stored values of these time indices, shape ``(stop - start, ...)``, any dtype.
    unit : str
        Physical unit after scaling.
    scale, offset : float or numpy.ndarray
        Physical value = stored * scale + offset, scalar or one per channel.
    calibrated : bool
        False when the file gives integer data without a scale.
    channels : tuple of str
        Ids or names along the second axis; empty when there is none.
    table : sequence of dict
        One JSON dict of properties per channel.
    continuity : str
        ``"continuous"`` (interpolate), ``"step"`` (hold), ``"instantaneous"`` (a value at an instant).
    circular : (float, float) or None
        The range a circular variable wraps in, e.g. ``(0.0, 2 * pi)``.
    confidence : str
        The channel that says how sure the values of the others are, from 0 to 1; empty where none does.
    preferred : bool
        Whether this one is meant, of several of its modality, where none is named.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[int, int], npt.NDArray[Any]]
    unit: str = ""
    scale: float | Floats = 1.0
    offset: float | Floats = 0.0
    calibrated: bool = True
    channels: tuple[str, ...] = ()
    table: Sequence[Mapping[str, Any]] = ()
    continuity: Continuity = "continuous"
    circular: tuple[float, float] | None = None
    confidence: str = ""
    preferred: bool = False


@dataclass(frozen=True, kw_only=True)
class RegularStream(SeriesStream):
    """Values at a constant rate: sample ``i`` is at ``t0 + i / rate`` seconds."""

    rate: float
    t0: float


@dataclass(frozen=True, kw_only=True)
class IrregularStream(SeriesStream):
    """Values with a time stamp each; ``timestamps()`` returns float64 seconds, shape (time,), as found."""

    timestamps: Callable[[], Floats]


@dataclass(frozen=True, kw_only=True)
class IntervalStream(Stream):
    """Intervals, which may overlap, with columns (trials, epochs, stimulus presentations).

    A table of ``sweeps`` has columns ``responses`` and ``stimuli``, lists of paths of series, and ``response_rows`` and
    ``stimulus_rows``: a ``[first, count]`` for each, of which a negative count means all that follow.

    Attributes
    ----------
    start, stop : numpy.ndarray of float64, shape (n,)
        Seconds; NaN where the file has none.
    columns : mapping of str to sequence
        Further columns, each of length n: numbers, strings, bools, or lists of them.
    relative_columns : tuple of str
        Names of time columns that are relative to the interval's start rather than to the session.
    """

    start: Floats
    stop: Floats
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    relative_columns: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.start)


AnyStream: TypeAlias = EventStream | RegularStream | IrregularStream | IntervalStream


def check_modalities(streams: Sequence[AnyStream]) -> None:
    """Refuse a stream that its plugin takes for something that is not known, rather than leave it out."""
    for stream in streams:
        if stream.modality not in MODALITIES:
            meant = did_you_mean(stream.modality, MODALITIES)
            said = f"its plugin calls it {stream.modality!r}{meant}, which is none of {', '.join(MODALITIES)}"
            raise SourceError(f"{stream.path}: {said}")


def read_once(stream: AnyStream) -> AnyStream:
    """Let a stream's times be read once although extent, windows and values all need them."""
    if isinstance(stream, EventStream):
        return replace(stream, read=functools.cache(stream.read))
    if isinstance(stream, IrregularStream):
        return replace(stream, timestamps=functools.cache(stream.timestamps))
    return stream


def _size(stream: AnyStream) -> str:
    """Return how much a stream holds, without reading its values."""
    if isinstance(stream, EventStream):
        return f"{len(stream.owners):,} ids"
    return counted(len(stream.start), "row") if isinstance(stream, IntervalStream) else str(tuple(stream.shape))


class Recording(ABC):
    """One session: ids, facts, and lazily read streams. A context manager; used in one thread of one process."""

    #: Ids as the input has them, with the plugin's fall-backs (identifier, file name) already applied.
    session_id: str
    subject_id: str
    #: Whether the input names the subject, rather than a fall-back standing in for it.
    subject_is_known: bool = True
    #: File name (never the folder) for metadata.
    source_file: str
    #: See ``SourcePlan.fingerprint``.
    fingerprint: str
    #: JSON facts about the session for the manifest (species, start time, format version, ...).
    facts: Mapping[str, Any]
    #: What the plugin noticed.
    problems: Sequence[Problem]
    #: What ``recordings.timeline.timeline`` found before, by the name of the extent: no times need to be read for it.
    timelines: Mapping[str, Any] = MappingProxyType({})

    @property
    @abstractmethod
    def streams(self) -> Sequence[AnyStream]:
        """All streams of the recording."""

    def _repr_html_(self) -> str:
        """Return the streams as a table, for notebooks."""
        rows = [(s.path, s.modality, _size(s), getattr(s, "unit", "")) for s in self.streams]
        return html_table(f"{self.session_id}: {self.source_file}", rows, ("stream", "modality", "size", "unit"))

    @abstractmethod
    def close(self) -> None:
        """Release files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
