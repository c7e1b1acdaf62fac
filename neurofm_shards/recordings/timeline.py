"""When a recording begins and ends, and where it paused: its epochs, else all that was recorded, robustly.

Time between epochs, or between streams that leave off, in which no unit fired and no series has a sample is not silence
but was not recorded, where it is far longer than chance leaves empty at the session's joint rate.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NoReturn, TypeAlias, get_args

import numpy as np

from neurofm_shards._typing import Bools, Floats, Ints
from neurofm_shards._wording import counted
from neurofm_shards.errors import NothingToConvertError, SourceError
from neurofm_shards.recordings.series import steps_where, typical_step
from neurofm_shards.recordings.ticks import (
    EMPTY,
    TICKS_PER_SECOND,
    contains,
    covered,
    intersect,
    normalise,
    subtract,
    to_seconds,
    to_ticks,
)
from neurofm_shards.streams import AnyStream, EventStream, IntervalStream, IrregularStream, Recording, RegularStream
from neurofm_shards.types import Problem
from neurofm_shards.values import sorted_unique

#: Who decides which times are believed: streams of later groups widen the extent of the first one that is there.
_RANKS = (("spikes", "lfp", "raw", "ophys"), ("behavior",), ("events",), ("other",))
#: What stands in for the extent where nothing was recorded that has a time.
_STATED = ("trials", "intervals", "stimulus")
#: A stream that lasts so many times as long as those of a higher rank has its times in another unit.
_TOO_LONG = 500.0
#: A time is garbage when it is this many times the central 98 % of its stream (at least a minute) away from them.
_FAR = 5.0
_NEAR_SECONDS = 60.0
_DAY_SECONDS = 86_400.0
_STREAM_GAP = int(_DAY_SECONDS) * TICKS_PER_SECOND
#: Streams of fewer times are sparse: the first and last are no part of their middle, and a day is near.
_SPARSE = 200


#: Expected number of stretches as long as a pause that chance would leave empty, as its natural logarithm.
_BY_CHANCE = -14.0
#: A pause is this many times as long as the longest silence of a recording, outliers left out.
_BEYOND_USUAL = 3.0
#: Steps between time stamps end a series' stretch where they are longer than this many intervals, and than a second.
_SERIES_BREAK = 10.0
_SHORTEST_BREAK = 1.0
_LONGEST_DROPOUT = 10.0
#: Most of a stretch between epochs has to be silent; what lies at its ends may belong to the epochs.
_MOST = 0.9
#: Samples of a series this far apart in seconds, or less, fill the time between them.
_FAST = 0.05
_OCCUPANCY_BINS = 1 << 22

#: What decides the extent: ``auto``, one kind of streams, everything, or seconds from and to.
NamedExtent: TypeAlias = Literal["auto", "units", "series", "trials", "all"]
Extent: TypeAlias = NamedExtent | tuple[float, float]
NAMED_EXTENTS: tuple[NamedExtent, ...] = get_args(NamedExtent)


@dataclass(frozen=True)
class Timeline:
    """Where a recording lies in time.

    Attributes
    ----------
    start, stop : int
        Ticks; half-open. Bins count from ``start``.
    said_by : str
        Path of what decided it.
    problems : tuple of Problem
        Times that were not believed, and pauses.
    pauses : numpy.ndarray of int64, shape (n, 2)
        Spans inside in which nothing was recorded.
    stated : bool
        Whether the file or the user says the extent, rather than the times of streams.
    """

    start: int
    stop: int
    said_by: str
    problems: tuple[Problem, ...] = ()
    pauses: Ints = field(default_factory=EMPTY.copy)
    stated: bool = False

    @property
    def whole(self) -> Ints:
        """The extent as a span."""
        return np.array([[self.start, self.stop]], dtype=np.int64)

    @property
    def recorded(self) -> Ints:
        """The spans in which something was recorded."""
        return subtract(self.whole, self.pauses)

    @property
    def extent_s(self) -> list[float]:
        """First and last second."""
        return [float(to_seconds(self.start)), float(to_seconds(self.stop))]

    @property
    def recorded_s(self) -> dict[str, float]:
        """Seconds in which something was recorded, by the name of the fact; nothing where that is the whole extent."""
        spans = self.recorded
        return {"recorded_s": float(to_seconds(int((spans[:, 1] - spans[:, 0]).sum())))} if len(self.pauses) else {}


@dataclass(frozen=True)
class TimeGrid:
    """Bins and windows of one recording, which all its modalities share.

    Attributes
    ----------
    session_id : str
        For the ids of units, channels and features.
    timeline : Timeline
        Where the recording lies; bins count from its start.
    bins : int
        Bins in a window.
    bin_ticks : int
        Width of a bin in ticks.
    stride_bins : int
        Bins from one fixed window to the next.
    """

    session_id: str
    timeline: Timeline
    bins: int
    bin_ticks: int
    stride_bins: int = 1

    @property
    def window_ticks(self) -> int:
        """Length of a window in ticks."""
        return self.bins * self.bin_ticks

    def edges(self, starts: Ints) -> Ints:
        """Return the first tick of each bin of windows, shape (windows * bins,)."""
        flat: Ints = (starts[:, None] + np.arange(self.bins) * self.bin_ticks).ravel()
        return flat

    def mask(self, spans: Ints, starts: Ints) -> Bools:
        """Return for each bin of each window whether it lies in a set of spans as a whole; shape (windows, bins)."""
        edges = self.edges(starts)
        whole: Bools = covered(spans, edges, edges + self.bin_ticks) == self.bin_ticks
        return whole.reshape(len(starts), self.bins)


def timeline(streams: Sequence[AnyStream], source_file: str, extent: Extent = "auto") -> Timeline:
    """Find the extent of a recording, whatever modalities are asked for.

    Parameters
    ----------
    streams : sequence of stream
        All streams of the recording.
    source_file : str
        For messages.
    extent : {"auto", "units", "series", "trials", "all"} or (float, float)
        ``auto``: the epochs, else all that was recorded (units, series, events), widened by trials that adjoin it, with
        pauses found. The others take the whole stretch of those streams, or between two times in seconds.

    Raises
    ------
    NothingToConvertError
        Nothing in the recording has a time.
    SourceError
        What would have one cannot be read; the message is that of the first such stream.
    """
    if not isinstance(extent, str):
        return Timeline(int(to_ticks(extent[0])), int(to_ticks(extent[1])), "the option extent", stated=True)
    problems: list[Problem] = []
    failures: list[SourceError] = []
    if extent != "auto":
        found = _joint([stream for stream in streams if _counts(stream, extent)], problems, failures)
        found = found and replace(found, stated=True)
        return found or _no_time(streams, source_file, failures, f"extent={extent} finds nothing that ")
    for stream in streams:
        if isinstance(stream, IntervalStream) and stream.modality == "epochs":
            closed = _closed(stream, streams)
            said = _epochs(closed, streams, problems)
            if said is not None:
                return _between_epochs(said, closed, streams, open_=np.isnan(stream.stop))
    found = _recorded(streams, problems, failures)
    if found is not None:
        return _between_streams(found, streams)
    found = _joint([stream for stream in streams if stream.modality in _STATED], problems, failures)
    return found or _no_time(streams, source_file, failures, "")


def known_timeline(recording: Recording, extent: Extent) -> Timeline | None:
    """Return the timeline of a recording where it was found before; None where it is still to be found."""
    known: Timeline | None = recording.timelines.get(extent) if isinstance(extent, str) else None
    return known


def _no_time(streams: Sequence[AnyStream], source_file: str, failures: list[SourceError], what: str) -> NoReturn:
    if failures:
        raise failures[0]
    if what:
        raise SourceError(
            f"{source_file}: {what}has a time; present: {', '.join(s.path for s in streams) or 'nothing'}"
        )
    raise NothingToConvertError(
        f"{source_file}: nothing in it has a time: looked for spikes, LFP, imaging, behaviour, other series, events "
        f"and trials among {counted(len(streams), 'stream')}"
    )


def _counts(stream: AnyStream, extent: str) -> bool:
    kinds: Mapping[str, bool] = {
        "units": stream.modality == "spikes",
        "series": isinstance(stream, (RegularStream, IrregularStream)) and stream.modality != "stimulus",
        "trials": stream.modality == "trials",
        "all": stream.modality != "invalid",
    }
    return kinds[extent]


def _recorded(streams: Sequence[AnyStream], problems: list[Problem], failures: list[SourceError]) -> Timeline | None:
    """Return the joint extent of units, series and events; those of a lower rank may not stretch it beyond belief."""
    found: Timeline | None = None
    counted = [stream for stream in streams if not isinstance(stream, IntervalStream)]
    for group in _RANKS:
        ranked = [stream for stream in counted if stream.modality in group]
        found = _joint(ranked, problems, failures, found)
    return found


def within(when: Timeline, start: Floats, stop: Floats) -> Ints:
    """Return intervals in seconds as spans in ticks, cut to the recording; those without a start or stop are left out.

    Ends may be infinite, or beyond what ticks can hold.
    """
    low, high = when.start / TICKS_PER_SECOND - 1, when.stop / TICKS_PER_SECOND + 1
    seconds = np.stack([start, stop], axis=1).astype(np.float64)
    ticks = to_ticks(np.clip(seconds[~np.isnan(seconds).any(axis=1)], low, high))
    return ticks.clip(when.start, when.stop)


def ended(epochs: IntervalStream, end: float) -> IntervalStream:
    """Return epochs of which those without a stop last until the next one starts, else until the end in seconds."""
    stop = epochs.stop.astype(np.float64)
    starts = np.append(np.sort(epochs.start[np.isfinite(epochs.start)]), end)
    after = starts[np.minimum(np.searchsorted(starts[:-1], epochs.start, side="right"), len(starts) - 1)]
    return replace(epochs, stop=np.where(np.isnan(stop), after, stop))


def _closed(epochs: IntervalStream, streams: Sequence[AnyStream]) -> IntervalStream:
    if not (np.isnan(epochs.stop) & np.isfinite(epochs.start)).any():
        return epochs
    found = _recorded(streams, [], [])
    return ended(epochs, math.nan if found is None else found.stop / TICKS_PER_SECOND)


def _epochs(stream: IntervalStream, streams: Sequence[AnyStream], problems: list[Problem]) -> Timeline | None:
    """Return the extent of a table of epochs, without those that lie more than a day from all other streams."""
    # The other streams are looked at only where the epochs last longer than a day in all.
    known = np.isfinite(stream.start) & np.isfinite(stream.stop) & (stream.start < stream.stop)
    start, stop = stream.start[known], stream.stop[known]
    if len(start) and stop.max() - start.min() > _DAY_SECONDS:
        near = _near(start, stop, streams)
        if not near.all():
            odd = int(np.argmin(near))
            what = f"{counted(int((~near).sum()), 'epoch')} far from all else ({start[odd]:.6g} to {stop[odd]:.6g} s)"
            problems.append(_distrust(stream.path, what))
        start, stop = start[near], stop[near]
    if len(start) == 0:
        return None
    return Timeline(int(to_ticks(start.min())), int(to_ticks(stop.max())), stream.path, tuple(problems), stated=True)


def _near(start: Floats, stop: Floats, streams: Sequence[AnyStream]) -> Bools:
    """Return which epochs lie within a day of the streams of the first rank; all of them where there are none."""
    for group in (*_RANKS, _STATED):
        found = _joint([stream for stream in streams if stream.modality in group], [], [])
        if found is not None:
            low, high = found.start / TICKS_PER_SECOND - _DAY_SECONDS, found.stop / TICKS_PER_SECOND + _DAY_SECONDS
            near: Bools = (start >= low) & (stop <= high)
            return near
    return np.ones(len(start), dtype=bool)


def _joint(
    streams: Sequence[AnyStream],
    problems: list[Problem],
    failures: list[SourceError],
    known: Timeline | None = None,
) -> Timeline | None:
    """Return the joint extent of streams and of what is known already, without those that cannot belong to it."""
    extents = []
    for stream in streams:
        try:
            found = _extent(stream, problems)
        except SourceError as error:
            problems.append(Problem(stream.path, str(error), "it does not count for the extent", "error"))
            failures.append(error)
            continue
        if found is not None:
            extents.append((found, stream.path))
    if not extents:
        return known and replace(known, problems=tuple(problems))
    (start, stop), said_by = max(extents, key=lambda item: item[0][1] - item[0][0])
    paths = [said_by]
    if known is not None:
        start, stop, said_by, paths = known.start, known.stop, known.said_by, [known.said_by]
    longest = (stop - start) * _TOO_LONG + _STREAM_GAP if known is not None else math.inf
    for (first, last), path in extents:
        if path == said_by:
            continue
        where = f"lies at {to_seconds(first):.6g} to {to_seconds(last):.6g} s"
        if first > stop + _STREAM_GAP or last < start - _STREAM_GAP:
            problems.append(_distrust(path, f"{where}, more than a day from {said_by}"))
            continue
        if last - first > longest:
            problems.append(_distrust(path, f"{where}, hundreds of times as long as {said_by}: times in another unit?"))
            continue
        start, stop = min(start, first), max(stop, last)
        paths.append(path)
    return Timeline(start, stop, ", ".join(paths), tuple(problems))


def _distrust(path: str, what: str) -> Problem:
    return Problem(path, what, "it does not count for the extent of the recording")


def _extent(stream: AnyStream, problems: list[Problem]) -> tuple[int, int] | None:
    if isinstance(stream, RegularStream):
        last = stream.t0 + stream.shape[0] / stream.rate
        return (int(to_ticks(stream.t0)), int(to_ticks(last))) if stream.shape[0] else None
    spans: list[Floats] = []
    if isinstance(stream, IntervalStream):
        times, spans = np.zeros(0), [stream.start, stream.stop]
    elif isinstance(stream, IrregularStream):
        times = stream.timestamps()
    else:
        times, spans = stream.read()[0], [seen.ravel() for seen in _observations(stream)]
    found = robust_extent(np.concatenate([times, *spans]), stream.path, problems)
    if found is None:
        return None
    stop = int(to_ticks(found[1]))
    if any((ends == found[1]).any() for ends in spans):  # half-open, where a time is an instant
        return int(to_ticks(found[0])), stop
    return int(to_ticks(found[0])), stop + (_last_interval(times) if isinstance(stream, IrregularStream) else 1)


def _last_interval(times: Floats) -> int:
    """Return how long in ticks the last sample of a series lasts: as long as the others, where they are fast."""
    step = typical_step(times)
    return int(to_ticks(step)) if 0 < step <= _FAST else 1


def robust_extent(times: Floats, path: str, problems: list[Problem]) -> tuple[float, float] | None:
    """Return the first and last believable time of a stream in any order; None where there is none.

    Parameters
    ----------
    times : numpy.ndarray of float64
        Seconds; not-a-number and infinite values are left out.
    path : str
        For the problem that reports outliers.
    problems : list of Problem
        Appended to.
    """
    finite = times if np.isfinite(times).all() else times[np.isfinite(times)]
    if len(finite) == 0:
        return None
    first, last = float(finite.min()), float(finite.max())
    low, high = _middle(finite)
    reach = max(_FAR * (high - low), _NEAR_SECONDS if len(finite) >= _SPARSE else _DAY_SECONDS)
    if first >= low - reach and last <= high + reach:
        return first, last
    inside = finite[(finite >= low - reach) & (finite <= high + reach)]
    odd = len(finite) - len(inside)
    problems.append(
        _distrust(path, f"{odd} of {len(finite)} times lie far from all others ({first:.6g}, {last:.6g} s)")
    )
    return float(inside.min()), float(inside.max())


def _middle(times: Floats) -> tuple[float, float]:
    """Return where the central 98 % of many times lie; of few, all but the first and the last."""
    if len(times) >= _SPARSE:
        low, high = (float(q) for q in np.quantile(times[:: max(1, len(times) // 100_000)], [0.01, 0.99]))
        return low, high
    ordered = np.sort(times)
    inner = ordered[1:-1] if len(ordered) > 2 else ordered
    return float(inner[0]), float(inner[-1])


def _between_epochs(said: Timeline, epochs: IntervalStream, streams: Sequence[AnyStream], *, open_: Bools) -> Timeline:
    """Return the extent of epochs with the pauses between them; epochs may as well label parts of one recording.

    Those that are ``open_`` have no stop of their own, so that they may hold a pause.
    """
    gaps = subtract(said.whole, normalise(within(said, epochs.start, epochs.stop)))
    doubtful = normalise(within(said, epochs.start[open_], epochs.stop[open_]))
    if len(gaps) + len(doubtful) == 0:
        return said
    activity = Activity.of(said, streams, shortest_gap=_SHORTEST_BREAK)
    silent = activity.silences()
    between = [_longest_inside(silent, low, high) for low, high in gaps]
    found = normalise(np.concatenate([EMPTY, *between, intersect(silent, doubtful)]))
    return _paused(said, found, activity.usual_silence(found))


def _between_streams(found: Timeline, streams: Sequence[AnyStream]) -> Timeline:
    """Return the extent of all that was recorded, widened by trials, with the pauses that no trial claims."""
    activity = Activity.of(found, streams, shortest_gap=_shortest_gap(streams))
    usual = activity.usual_silence(EMPTY)
    when = _paused(found, subtract(activity.silences(usual), _claimed(found, streams)), usual)
    return _widened(when, streams, usual)


def _shortest_gap(streams: Sequence[AnyStream]) -> float:
    """Return how long a gap inside a series is a pause, in seconds, where all other streams leave off as well.

    Without units, that is what the options of LFP and imaging see to, and behaviour is masked in short gaps.
    """
    kinds = {stream.modality for stream in streams}
    if "spikes" in kinds:
        return _SHORTEST_BREAK
    return math.inf if kinds & {"lfp", "raw", "ophys"} else _LONGEST_DROPOUT


def _paused(when: Timeline, silent: Ints, usual: int) -> Timeline:
    """Return a timeline with those of some silent spans as pauses that are longer than usual."""
    found = silent[silent[:, 1] - silent[:, 0] > usual]
    if len(found) == 0:
        return when
    seconds = float(to_seconds(int((found[:, 1] - found[:, 0]).sum())))
    first = f"{to_seconds(int(found[0, 0])):.6g} to {to_seconds(int(found[0, 1])):.6g} s"
    what = f"nothing was recorded for {seconds:.6g} s in {counted(len(found), 'pause')} (the first: {first})"
    problem = Problem(when.said_by, what, "no windows there, and no part of rates; extent=all takes it for silence")
    return replace(when, problems=(*when.problems, problem), pauses=found)


def _longest_inside(silent: Ints, low: int, high: int) -> Ints:
    """Return the silent span that fills most of a stretch, or none."""
    inside = intersect(silent, np.array([[low, high]], dtype=np.int64))
    lengths = inside[:, 1] - inside[:, 0]
    if len(lengths) == 0 or lengths.max() < _MOST * (high - low):
        return EMPTY
    at = int(lengths.argmax())
    return inside[at : at + 1]


def _claimed(when: Timeline, streams: Sequence[AnyStream]) -> Ints:
    """Return the time that trials and other intervals say was recorded."""
    tables = [s for s in streams if isinstance(s, IntervalStream) and s.modality in ("trials", "intervals")]
    return normalise(np.concatenate([EMPTY, *(within(when, table.start, table.stop) for table in tables)]))


def _widened(when: Timeline, streams: Sequence[AnyStream], reach: int) -> Timeline:
    """Widen an extent by the trials that adjoin it: as far as chance may have left the beginning and the end empty."""
    tables = [stream for stream in streams if isinstance(stream, IntervalStream) and stream.modality == "trials"]
    start, stop, paths = when.start, when.stop, [when.said_by]
    wide = Timeline(when.start - reach, when.stop + reach, "")
    for table in tables:
        known = np.isfinite(table.start) & np.isfinite(table.stop) & (table.start < table.stop)
        first, last = table.start[known] * TICKS_PER_SECOND, table.stop[known] * TICKS_PER_SECOND
        near = (first >= wide.start) & (last <= wide.stop)
        if near.any():
            low, high = int(first[near].min()), int(last[near].max())
            if low < start or high > stop:
                paths.append(table.path)
            start, stop = min(start, low), max(stop, high)
    return replace(when, start=start, stop=stop, said_by=", ".join(paths))


@dataclass(frozen=True)
class Activity:
    """What was recorded when: times of all events, and the stretches that series and observations cover.

    Attributes
    ----------
    when : Timeline
        Only what lies in it.
    occupied : numpy.ndarray of int64, shape (n,)
        Bins of ``width`` ticks that hold an event, ascending.
    events : int
        Number of events.
    covered : numpy.ndarray of int64, shape (m, 2)
        Spans covered by series, and in which units were observed by the file's own word.
    width : int
    """

    when: Timeline
    occupied: Ints
    events: int
    covered: Ints
    width: int

    @classmethod
    def of(cls, when: Timeline, streams: Sequence[AnyStream], *, shortest_gap: float) -> Activity:
        """Collect the activity of all streams; one that cannot be read shows none.

        A series covers no time between samples this many seconds (and far more than usual) apart.
        """
        width = max(1, -(-(when.stop - when.start) // _OCCUPANCY_BINS))
        bins, spans = [np.zeros(0, dtype=np.int64)], [EMPTY]
        for stream in streams:
            if isinstance(stream, IntervalStream):
                continue
            with contextlib.suppress(SourceError):  # reported by the extent, and an error where it is asked for
                if isinstance(stream, EventStream):
                    bins.append((_inside(stream.read()[0], when) - when.start) // width)
                    spans += [within(when, *np.asarray(seen).T) for seen in _observations(stream)]
                else:
                    spans.append(series_coverage(stream, when, shortest_gap))
        every = np.concatenate(bins)
        return cls(when, sorted_unique(every), len(every), normalise(np.concatenate(spans)), width)

    def silences(self, longest_usual: int = 0) -> Ints:
        """Return the spans in which nothing was recorded, to the width of a bin, but for those between usual events."""
        busy = self.occupied * self.width + self.when.start
        starts = np.concatenate([[self.when.start], busy + self.width])
        stops = np.concatenate([busy, [self.when.stop]])
        unusual = stops - starts > longest_usual
        return subtract(np.stack([starts[unusual], stops[unusual]], axis=1), self.covered)

    def usual_silence(self, doubtful: Ints) -> int:
        """Return how long in ticks nothing may happen by chance, at the joint rate of all events and as they cluster.

        With ``n`` events at rate ``r``, ``n exp(-r t)`` silences of ``t`` or more are expected by chance (Poisson).
        Bursts leave longer ones: three times the longest is usual still, without doubtful spans and outliers.
        """
        if self.events == 0:
            return 0
        seconds = (self.when.stop - self.when.start) / TICKS_PER_SECOND
        by_chance = (math.log(self.events) - _BY_CHANCE) / (self.events / seconds)
        middles = (self.occupied[1:] + self.occupied[:-1]) * self.width // 2 + self.when.start
        steps = np.diff(self.occupied)[~contains(doubtful, middles)]
        rank = len(steps) - 1 - max(self.events // 1000, min(3, self.events // 100))
        longest = int(np.partition(steps, rank)[rank]) * self.width if rank >= 0 else self.width
        return round(max(by_chance * TICKS_PER_SECOND, _BEYOND_USUAL * longest))


def series_coverage(stream: RegularStream | IrregularStream, when: Timeline, shortest_gap: float = math.inf) -> Ints:
    """Return the span from a series' first to its last sample, without long steps of this many seconds or more."""
    if isinstance(stream, RegularStream):
        bounds = np.array([[stream.t0, stream.t0 + stream.shape[0] / stream.rate]])
        return within(when, *bounds.T)
    times = np.asarray(stream.timestamps(), dtype=np.float64)
    times = times[np.isfinite(times)]
    if len(times) == 0:
        return EMPTY
    if len(times) > 1 and (times[1:] < times[:-1]).any():
        times = np.sort(times)
    interval = typical_step(times)
    longest = max(_SERIES_BREAK * interval, shortest_gap)
    breaks = steps_where(times, lambda steps: steps > longest)
    spans = within(when, times[np.concatenate([[0], breaks + 1])], times[np.concatenate([breaks, [len(times) - 1]])])
    spans[:, 1] = np.minimum(spans[:, 1] + _last_interval(times), when.stop)
    return spans


def _inside(times: Floats, when: Timeline) -> Ints:
    low, high = when.start / TICKS_PER_SECOND, when.stop / TICKS_PER_SECOND
    return np.clip(to_ticks(times[(times >= low) & (times <= high)]), when.start, when.stop)


def _observations(stream: EventStream) -> list[Floats]:
    """Return when owners were observed, where the file says it of all of them."""
    said = [] if stream.observed is None else list(stream.observed())
    known = [spans for spans in said if spans is not None and len(spans)]
    return known if len(known) == len(said) else []
