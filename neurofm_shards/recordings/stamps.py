"""Time stamps that are not the times of their samples: in another unit, or one for a whole block of samples.

What looks like sample numbers, milliseconds or microseconds is refused until an option says what it is. Samples of
blocks that share a stamp are spread over the time until the next one, where blocks are of one size and follow a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import NoReturn

import numpy as np

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import SourceError
from neurofm_shards.recordings.series import typical_step
from neurofm_shards.streams import AnyStream, EventStream, IntervalStream, IrregularStream, RegularStream, SeriesStream
from neurofm_shards.types import Problem

_SECONDS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6}
_FEWEST = 10
_FEWEST_SLOW = 3
#: A unit's mean rate in a wrong unit of time: 200 Hz in milliseconds.
_FASTEST_HZ = 0.2
#: Stamps of blocks, nine of ten within half of the usual step, say what the rate is.
_FEWEST_BLOCKS = 3
_STEADY = 0.9
#: Whole numbers that last as long as everything else, to within this factor, are seconds after all.
_ALIKE = 3.0
#: So many times as long as all else lasts nothing that was recorded with it.
_FAR_LONGER = 1e3 / _ALIKE


def in_seconds(
    streams: Sequence[AnyStream], meant: str | float, spikes: str = "error"
) -> tuple[list[AnyStream], list[Problem]]:
    """Return streams of which those with suspicious time stamps are refused as soon as they are read, or converted.

    Whole numbers are suspicious where the rest of the recording does not last about as long: few signals are sampled at
    whole seconds, and sample numbers, milliseconds and microseconds are whole. A series alone whose stamps are one
    apart is taken at its word, and reported. Other time stamps, a second or more apart, and rates below 1 Hz are
    suspicious where the series lasts hundreds of times as long as the rest, and reported where there is no rest. Events
    at whole numbers (licks, rewards) are suspicious where they last longer than all else, spikes where they last about
    a thousand or a million times as long and no unit fires more than once in five seconds.

    The samples of blocks that share one stamp are spread; see :func:`spread_blocks`.

    Parameters
    ----------
    streams : sequence of stream
        All of a recording.
    meant : str or float
        See ``WindowOptions.series_times``.
    spikes : str
        See ``WindowOptions.suspicious_spike_times``.
    """
    sound, problems = _with_sound_spikes(streams, spikes)
    made, doubts = _with_sound_series(sound, meant)
    spread, told = with_blocks_spread(made)
    return spread, [*problems, *doubts, *told]


def _with_sound_spikes(streams: Sequence[AnyStream], allowed: str) -> tuple[list[AnyStream], list[Problem]]:
    """Return streams of which spikes in another unit of time are refused as soon as they are read, or reported."""
    are_spikes = [isinstance(stream, EventStream) and stream.modality == "spikes" for stream in streams]
    rest = max([0.0, *(_seconds(stream) for stream, is_one in zip(streams, are_spikes, strict=True) if not is_one)])
    made: list[AnyStream] = []
    problems: list[Problem] = []
    for stream in streams:
        if not isinstance(stream, EventStream) or stream.modality != "spikes" or not _rare_and_long(stream, rest):
            made.append(stream)
            continue
        why = f"its times last {_seconds(stream) / rest:,.0f} times as long as all else"
        if allowed == "allow":
            made.append(stream)
            problems.append(Problem(stream.path, why, "taken as seconds of the session, as allowed"))
        else:
            made.append(replace(stream, read=partial(_refuse_spikes, stream.path, why), in_order=None))
    return made, problems


def _rare_and_long(stream: EventStream, rest: float) -> bool:
    times = _times(partial(_first, stream))
    known = np.isfinite(times)
    if not _in_other_unit(times[known], rest):
        return False
    most = int(np.bincount(np.asarray(stream.read()[1])[known]).max())
    return most >= _FEWEST and most < _FASTEST_HZ * _length(times)


def _with_sound_series(streams: Sequence[AnyStream], meant: str | float) -> tuple[list[AnyStream], list[Problem]]:
    """Return streams of which series and events with suspicious time stamps are refused, or converted."""
    times = {id(stream): _known(stream) for stream in streams if _is_stamped(stream)}
    times |= {id(stream): _ends(stream) for stream in streams if isinstance(stream, RegularStream) and _is_rare(stream)}
    whole = {key for key, stamps in times.items() if _whole(stamps)}
    slow = {key for key, stamps in times.items() if key not in whole and _is_slow(stamps)}
    if not whole and not slow:
        return list(streams), []
    rest = max([0.0, *(_seconds(stream) for stream in streams if id(stream) not in whole | slow)])
    lasting = max([0.0, *(_seconds(stream) for stream in streams if id(stream) not in whole)])
    made: list[AnyStream] = []
    problems: list[Problem] = []
    for stream in streams:
        stamps = times.get(id(stream), np.zeros(0))
        if id(stream) in slow and rest > 0 and _length(stamps) >= _FAR_LONGER * rest:
            what = "its samples last" if isinstance(stream, RegularStream) else "its time stamps last"
            made.append(_meant(stream, meant, f"{what} {_length(stamps) / rest:,.0f} times as long as all else"))
        elif id(stream) in slow and rest == 0 and isinstance(stream, (RegularStream, IrregularStream)):
            if meant != "error":
                made.append(_meant(stream, meant, ""))
                continue
            made.append(stream)
            what = f"its samples are {typical_step(stamps):.4g} s apart, if its times are seconds"
            problems.append(Problem(stream.path, what, "taken for seconds; series_times says what else they are"))
        elif id(stream) not in whole or _fits(stamps, lasting, isinstance(stream, EventStream)):
            made.append(stream)
        elif meant == "error" and lasting == 0 and typical_step(stamps) == 1:
            made.append(stream)
            what = "its time stamps are whole numbers, one apart: seconds, or sample numbers?"
            problems.append(Problem(stream.path, what, "taken for seconds; series_times says what else they are"))
        else:
            made.append(_meant(stream, meant, "all its time stamps are whole numbers"))
    return made, problems


def _is_stamped(stream: AnyStream) -> bool:
    """Return whether a stream has time stamps that are judged here: series, and events other than spikes."""
    return isinstance(stream, IrregularStream) or (isinstance(stream, EventStream) and stream.modality != "spikes")


def _known(stream: AnyStream) -> Floats:
    """Return the time stamps that are numbers; none of a stream that cannot be read, which is refused when asked for.

    Those of events in time order.
    """
    if isinstance(stream, IrregularStream):
        times = _times(stream.timestamps)
        return times[np.isfinite(times)]
    times = _times(partial(_first, stream)) if isinstance(stream, EventStream) else np.zeros(0)
    return np.sort(times[np.isfinite(times)])


def _whole(known: Floats) -> bool:
    """Return whether time stamps are whole numbers."""
    head = known[:1000]
    return len(np.unique(head)) >= _FEWEST and bool((head == np.rint(head)).all() and (known == np.rint(known)).all())


def _seconds(stream: AnyStream) -> float:
    """Return how long a stream lasts."""
    if isinstance(stream, RegularStream):
        return stream.shape[0] / stream.rate
    if isinstance(stream, IntervalStream):
        return _length(np.concatenate([stream.start, stream.stop]))
    return _length(_times(partial(_first, stream) if isinstance(stream, EventStream) else stream.timestamps))


def _first(stream: EventStream) -> Floats:
    return stream.read()[0]


def _times(read: Callable[[], Floats]) -> Floats:
    try:
        return np.asarray(read(), dtype=np.float64)
    except SourceError:
        return np.zeros(0)


def _length(times: Floats) -> float:
    known = times[np.isfinite(times)]
    return float(np.ptp(known)) if len(known) else 0.0


def _fits(known: Floats, lasting: float, are_events: bool) -> bool:
    """Return whether whole seconds are as long as all else; events may end early, and may be all there is."""
    if are_events:
        return lasting == 0 or _length(known) <= lasting * _ALIKE
    return lasting > 0 and lasting / _ALIKE <= _length(known) <= lasting * _ALIKE


def _is_slow(known: Floats) -> bool:
    """Return whether time stamps would be a second or more apart."""
    return len(known) >= _FEWEST_SLOW and typical_step(known) >= 1


def _is_rare(stream: RegularStream) -> bool:
    return stream.rate < 1 and stream.shape[0] >= _FEWEST_SLOW


def _ends(stream: RegularStream) -> Floats:
    """Return some times of a series: the first ones, and the end."""
    return stream.t0 + np.array([0, 1, 2, stream.shape[0]]) / stream.rate


def _in_other_unit(known: Floats, rest: float) -> bool:
    ratio = _length(known) / rest if rest > 0 else 0.0
    return any(factor / _ALIKE <= ratio <= factor * _ALIKE for factor in _SECONDS.values() if factor > 1)


def _meant(stream: AnyStream, meant: str | float, why: str) -> AnyStream:
    factor = _SECONDS.get(meant, 1.0) if isinstance(meant, str) else meant
    refuse = partial(_refuse, stream.path, why)
    if isinstance(stream, EventStream):
        return replace(stream, read=refuse if meant == "error" else partial(_divided, stream, factor), in_order=None)
    if isinstance(stream, RegularStream):
        if meant == "error":  # its extent is not to be believed, either
            common = {field.name: getattr(stream, field.name) for field in fields(SeriesStream)}
            return IrregularStream(**common, timestamps=refuse)
        return replace(stream, rate=stream.rate * factor, t0=stream.t0 / factor)
    if isinstance(stream, IrregularStream):
        return replace(stream, timestamps=refuse if meant == "error" else lambda: stream.timestamps() / factor)
    return stream


def _divided(stream: EventStream, factor: float) -> tuple[Floats, Ints]:
    times, owner = stream.read()
    return times / factor, owner


def _refuse_spikes(path: str, why: str) -> NoReturn:
    raise SourceError(
        f"{path}: {why}: they look like milliseconds or microseconds, not seconds. Correct the file, or say "
        "suspicious_spike_times=allow to take them as seconds of the session"
    )


def _refuse(path: str, why: str) -> NoReturn:
    raise SourceError(
        f"{path}: {why}: they look like sample numbers, milliseconds or microseconds, not seconds. Say "
        "series_times=seconds, milliseconds or microseconds, or the rate in samples per second that "
        "they count"
    )


@dataclass(frozen=True)
class Blocks:
    """Samples that got one time stamp for each block of them.

    Attributes
    ----------
    size : int
        Samples of a block.
    period : float
        Seconds from one block to the next.
    times : numpy.ndarray of float64
        Seconds of all samples, spread.
    """

    size: int
    period: float
    times: Floats


def spread_blocks(times: Floats) -> Blocks | None:
    """Return times of samples that were acquired in blocks, which all have the stamp of their block.

    The samples of a block lie at even steps from its stamp to the next one, after a pause and at the end at the usual
    step: as Neuralynx, Open Ephys and others stamp blocks, by their first sample. None where samples have stamps of
    their own, blocks are not of one size (the last may be shorter), or their stamps do not follow a clock.

    >>> spread_blocks(np.repeat([5.0, 5.5, 6.0], 2)).times.tolist()
    [5.0, 5.25, 5.5, 5.75, 6.0, 6.25]
    """
    steps = np.diff(times)
    if len(steps) == 0 or not (steps >= 0).all() or 2 * np.count_nonzero(steps) > len(steps):
        return None
    first = np.concatenate([[0], np.flatnonzero(steps) + 1])
    sizes = np.diff(first, append=len(times))
    size, periods = int(sizes[0]), np.diff(times[first])
    if len(first) < _FEWEST_BLOCKS or (sizes[:-1] != size).any() or sizes[-1] > size:
        return None
    period = float(np.median(periods))
    if np.mean(np.abs(periods - period) <= period / 2) < _STEADY:
        return None
    lengths = np.append(np.where(periods <= 1.5 * period, periods, period), period)
    place = np.arange(len(times)) - np.repeat(first, sizes)
    return Blocks(size, period, times + place * np.repeat(lengths / size, sizes))


def with_blocks_spread(streams: Sequence[AnyStream]) -> tuple[list[AnyStream], list[Problem]]:
    """Return streams of which the samples of blocks are spread (see :func:`spread_blocks`), and what was done."""
    made: list[AnyStream] = []
    problems: list[Problem] = []
    for stream in streams:
        found = spread_blocks(_times(stream.timestamps)) if isinstance(stream, IrregularStream) else None
        # states and events come in twos, too: one ends as the next begins
        if (
            found is None
            or not isinstance(stream, IrregularStream)
            or (stream.continuity != "continuous" and (stream.continuity == "instantaneous" or found.size == 2))
        ):
            made.append(stream)
            continue
        made.append(replace(stream, timestamps=partial(_spread, found)))
        rate = found.size / found.period
        what = f"its samples share one time stamp in blocks of {found.size}, one every {found.period:.4g} s"
        late = found.period - 1 / rate
        spread = f"spread at {rate:.6g} Hz from each stamp on, as that of a block's first sample"
        problems.append(Problem(stream.path, what, f"{spread}; {late:.4g} s late if it is that of the last one"))
    return made, problems


def _spread(blocks: Blocks) -> Floats:
    return blocks.times
