"""Times that look like sample numbers, milliseconds or microseconds: refused until an option says what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NoReturn

import numpy as np

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import SourceError
from neurofm_shards.recordings.series import typical_step
from neurofm_shards.streams import AnyStream, EventStream, IntervalStream, IrregularStream, RegularStream
from neurofm_shards.types import Problem

_SECONDS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6}
_FEWEST = 10
#: A unit's mean rate in a wrong unit of time: 200 Hz in milliseconds.
_FASTEST_HZ = 0.2
#: Whole numbers that last as long as everything else, to within this factor, are seconds after all.
_ALIKE = 3.0


def in_seconds(
    streams: Sequence[AnyStream], meant: str | float, spikes: str = "error"
) -> tuple[list[AnyStream], list[Problem]]:
    """Return streams of which those with suspicious time stamps are refused as soon as they are read, or converted.

    Whole numbers are suspicious where the rest of the recording does not last about as long: few signals are sampled at
    whole seconds, and sample numbers, milliseconds and microseconds are whole. A series alone whose stamps are one
    apart is taken at its word, and reported. Other time stamps, a second or more apart, are suspicious where the series
    lasts about a thousand or a million times as long as the rest. Events at whole numbers (licks, rewards) are
    suspicious where they last longer than all else, spikes where they last about a thousand or a million times as long
    and no unit fires more than once in five seconds.

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
    return made, [*problems, *doubts]


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
        if id(stream) in slow and _in_other_unit(stamps, rest):
            why = f"its time stamps last {_length(stamps) / rest:,.0f} times as long as all else"
            made.append(_meant(stream, meant, why))
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
    return len(known) >= _FEWEST and typical_step(known) >= 1


def _in_other_unit(known: Floats, rest: float) -> bool:
    ratio = _length(known) / rest if rest > 0 else 0.0
    return any(factor / _ALIKE <= ratio <= factor * _ALIKE for factor in _SECONDS.values() if factor > 1)


def _meant(stream: AnyStream, meant: str | float, why: str) -> AnyStream:
    factor = _SECONDS.get(meant, 1.0) if isinstance(meant, str) else meant
    refuse = partial(_refuse, stream.path, why)
    if isinstance(stream, EventStream):
        return replace(stream, read=refuse if meant == "error" else partial(_divided, stream, factor), in_order=None)
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
