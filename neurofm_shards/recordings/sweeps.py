"""Patch-clamp sweeps as trials: the series of all sweeps end to end on one clock, so that each is a window.

Sweeps overlap in time, or all begin at zero, in many files. So their clock counts recorded samples: sweep after sweep,
without what lies between them. Sweeps with time stamps are taken where these are even.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Floats, Ints
from neurofm_shards.errors import ConfigError, SourceError
from neurofm_shards.recordings.options import WindowOptions
from neurofm_shards.recordings.series import even_rate
from neurofm_shards.recordings.trains import by_path, listing, only
from neurofm_shards.streams import AnyStream, IntervalStream, IrregularStream, RegularStream, SeriesStream
from neurofm_shards.types import Problem
from neurofm_shards.values import starts_of

#: Columns of a table of sweeps that say which rows of which series each is made of.
_PARTS = ("responses", "response_rows", "stimuli", "stimulus_rows")
#: Rates are one where all samples of a sweep lie within half a sample by either; what is rounded moves them less.
_ONE_RATE = 0.5
_MOST_MOVED = 0.1
_DIGITS = 15


@dataclass(frozen=True)
class Part:
    """A stretch of a series: ``count`` samples from ``first`` on."""

    stream: RegularStream
    first: int
    count: int


#: What was recorded (or applied) at once in each of some sweeps.
Parts: TypeAlias = "Sequence[Sequence[Part]]"


@dataclass(frozen=True)
class _Sweep:
    row: int
    responses: tuple[Part, ...]
    stimuli: tuple[Part, ...]

    @property
    def count(self) -> int:
        return max(part.count for part in self.responses)

    @property
    def kind(self) -> tuple[str, float]:
        kinds = sorted({part.stream.kind_name for part in self.responses})
        return "+".join(kinds), self.responses[0].stream.rate


def sweep_streams(
    streams: Sequence[AnyStream], options: WindowOptions, source_file: str
) -> tuple[list[AnyStream], list[Problem]]:
    """Return the sweeps of one kind as a trial table, their responses as LFP, and their stimuli.

    Parameters
    ----------
    streams : sequence of stream
        All of a recording; its table of sweeps is the one of modality ``sweeps``.
    options : WindowOptions
        ``trial_table`` chooses the kind of sweeps where there are several.
    source_file : str
        For messages.

    Raises
    ------
    SourceError
        There are no sweeps, or several kinds of them.
    """
    table = next((s for s in streams if isinstance(s, IntervalStream) and s.modality == "sweeps"), None)
    if table is None:
        raise SourceError(
            f"{source_file} has no sweeps: sampling=sweep needs patch-clamp series, or a table of sweeps; present: "
            f"{listing(streams)}"
        )
    series = {stream.path: stream for stream in streams if isinstance(stream, (RegularStream, IrregularStream))}
    sweeps, problems = _usable(table, series)
    groups: dict[tuple[str, float], list[_Sweep]] = {}
    for sweep in sweeps:
        groups.setdefault(sweep.kind, []).append(sweep)
    made = _made(table, groups)
    paths = [stream for stream in made if isinstance(stream, IntervalStream)]
    chosen = options.trial_table
    trials = only(paths, "trial_table", "kinds of sweeps") if chosen is None else by_path(paths, chosen, "trial_table")
    problems += _longer(trials, options)
    return [stream for stream in made if (stream.path + "/").startswith(trials.path + "/")], problems


def _usable(
    table: IntervalStream, series: Mapping[str, RegularStream | IrregularStream]
) -> tuple[list[_Sweep], list[Problem]]:
    found: list[_Sweep] = []
    left: Counter[str] = Counter()
    bare: Counter[str] = Counter()
    rates = _rates(table, series)
    for row in range(len(table)):
        responses, stimuli = (
            [_part(*place, series, rates) for place in _places(table, row, *names)] for names in _SIDES
        )
        known = [tuple(part for part in side if isinstance(part, Part)) for side in (responses, stimuli)]
        why = [part for part in responses if isinstance(part, str)] or ["nothing was recorded"] * (not responses)
        if not why and len({part.stream.rate for side in known for part in side}) > 1:
            why = ["its series differ in rate"]
        if why:
            left[why[0]] += 1
            continue
        bare.update(part for part in stimuli if isinstance(part, str))
        found.append(_Sweep(row, *known))
    if not found:
        raise SourceError(
            f"{table.path}: none of {len(table)} sweeps has responses of one constant rate ({_counts(left)})"
        )
    problems = []
    if left:
        what = f"{left.total()} of {len(table)} sweeps have no response of one constant rate ({_counts(left)})"
        problems.append(Problem(table.path, what, "left out"))
    if bare:
        what = f"{bare.total()} stimuli of {len(table)} sweeps have no constant rate ({_counts(bare)})"
        problems.append(Problem(table.path, what, "left out: those sweeps go without"))
    return found, problems


_SIDES = (_PARTS[:2], _PARTS[2:])


def _counts(reasons: Counter[str]) -> str:
    return "; ".join(f"{count}: {reason}" for reason, count in reasons.items())


def _places(table: IntervalStream, row: int, paths: str, rows: str) -> Iterator[tuple[str, int, int]]:
    for path, (first, count) in zip(table.columns[paths][row], table.columns[rows][row], strict=True):
        yield path, first, count


def _part(
    path: str,
    first: int,
    count: int,
    series: Mapping[str, RegularStream | IrregularStream],
    rates: Mapping[tuple[str, int, int], float | str],
) -> Part | str:
    """Return the stretch that a row names, or why it is none."""
    stream = series.get(path)
    if stream is None:
        return "its series is not there"
    if np.prod(stream.shape[1:]) != 1:
        return f"its series has the shape {stream.shape}"
    left = stream.shape[0] - first
    whole = left if count < 0 else min(count, left)
    if whole <= 0:
        return "nothing was recorded"
    if isinstance(stream, RegularStream):
        return Part(stream, first, whole)
    rate = rates[path, first, count]
    return rate if isinstance(rate, str) else Part(_at_rate(stream, rate), first, whole)


def _at_rate(stream: IrregularStream, rate: float) -> RegularStream:
    common = {field.name: getattr(stream, field.name) for field in fields(SeriesStream)}
    return RegularStream(**common, rate=rate, t0=0.0)  # sweeps lie end to end, wherever they were


def _rates(
    table: IntervalStream, series: Mapping[str, RegularStream | IrregularStream]
) -> dict[tuple[str, int, int], float | str]:
    """Return the rate of each stretch with time stamps, or why it has none; what rounding makes different is one rate.

    Long stretches say it best: the others have theirs, or that of a series with a rate, where that fits.
    """
    places = {place for row in range(len(table)) for names in _SIDES for place in _places(table, row, *names)}
    known = {stream.rate for path, _, _ in places if isinstance(stream := series.get(path), RegularStream)}
    stamped = {place: stream for place in places if isinstance(stream := series.get(place[0]), IrregularStream)}
    found: dict[tuple[str, int, int], float | str] = {}
    stretches: list[tuple[int, tuple[str, int, int], float]] = []
    for place, stream in sorted(stamped.items(), key=lambda item: item[0]):
        try:
            times = _stretch(stream, *place[1:])
        except SourceError as error:
            found[place] = str(error)
            continue
        rate = even_rate(times)
        if rate is None:
            found[place] = "its time stamps are not even"
        else:
            stretches.append((len(times), place, rate))
    for count, place, rate in sorted(stretches, reverse=True):
        near = [(abs(other - rate), other) for other in known if abs(other - rate) * count < _ONE_RATE * rate]
        found[place] = min(near)[1] if near else _rounded(rate, count)
        known.add(float(found[place]))
    return found


def _stretch(stream: IrregularStream, first: int, count: int) -> Floats:
    times = np.asarray(stream.timestamps(), dtype=np.float64)
    if len(times) != stream.shape[0]:
        raise SourceError(f"{len(times)} time stamps for {stream.shape[0]} samples")
    return times[first:] if count < 0 else times[first : first + count]


def _rounded(rate: float, count: int) -> float:
    """Return the shortest number that puts so many samples to the same places."""
    rounded = (float(f"{rate:.{digits}g}") for digits in range(1, _DIGITS + 1))
    return next((near for near in rounded if abs(near - rate) * count < _MOST_MOVED * rate), rate)


def _made(table: IntervalStream, groups: Mapping[tuple[str, float], Sequence[_Sweep]]) -> list[AnyStream]:
    """Return streams and a table for each kind of sweeps, called by its rate, too, where that is needed."""
    kinds = [kind for kind, _ in groups]
    made: list[AnyStream] = []
    for (kind, rate), sweeps in groups.items():
        path = f"{table.path}/{kind}" + (f" {rate:g} Hz" if kinds.count(kind) > 1 else "")
        starts = starts_of([sweep.count for sweep in sweeps])
        made.append(_trials(table, path, sweeps, starts / rate))
        made.append(_laid(f"{path}/response", "lfp", [sweep.responses for sweep in sweeps], starts, rate))
        if any(sweep.stimuli for sweep in sweeps):
            made.append(_laid(f"{path}/stimulus", "other", [sweep.stimuli for sweep in sweeps], starts, rate))
    return made


def _trials(
    table: IntervalStream, path: str, sweeps: Sequence[_Sweep], edges: npt.NDArray[np.float64]
) -> IntervalStream:
    rows = [sweep.row for sweep in sweeps]
    columns: dict[str, Any] = {
        name: [values[row] for row in rows] for name, values in table.columns.items() if name not in _PARTS
    }
    columns |= {"sweep_row": rows, "sweep_start_s": table.start[rows].tolist()}
    return IntervalStream(
        path=path, modality="trials", kind_name="sweeps", start=edges[:-1], stop=edges[1:], columns=columns
    )


def _laid(path: str, modality: str, parts: Parts, starts: Ints, rate: float) -> RegularStream:
    """Return the series of all sweeps end to end, one channel for each that was recorded at once."""
    units = {part.stream.unit for one in parts for part in one}
    if len(units) > 1:
        raise SourceError(
            f"{path}: its series are in {' and '.join(sorted(units))}: convert them apart with trial_filter"
        )
    width = max(len(one) for one in parts)
    name = path.rpartition("/")[2]
    return RegularStream(
        path=path,
        modality=modality,
        kind_name=next(part.stream.kind_name for one in parts for part in one),
        shape=(int(starts[-1]), width),
        dtype="<f4",
        read=_reader(parts, starts, width),
        unit=units.pop(),
        channels=(name,) if width == 1 else tuple(f"{name} {i}" for i in range(width)),
        rate=rate,
        t0=0.0,
    )


def _reader(parts: Parts, starts: Ints, width: int) -> Callable[[int, int], npt.NDArray[Any]]:
    def read(start: int, stop: int) -> npt.NDArray[np.float32]:
        out = np.full((max(stop - start, 0), width), np.nan, dtype=np.float32)
        first = int(np.searchsorted(starts, start, side="right")) - 1
        last = int(np.searchsorted(starts, stop, side="left"))
        for at, one in zip(starts[first:last].tolist(), parts[first:last], strict=True):
            for channel, part in enumerate(one):
                low, high = max(start - at, 0), min(stop - at, part.count)
                if low < high:
                    out[at + low - start : at + high - start, channel] = _values(part, low, high)
        return out

    return read


def _values(part: Part, low: int, high: int) -> npt.NDArray[np.float64]:
    """Return a stretch of a sweep in physical units."""
    stream = part.stream
    stored = np.asarray(stream.read(part.first + low, part.first + high)).astype(np.float64).ravel()
    values: npt.NDArray[np.float64] = stored * np.asarray(stream.scale) + np.asarray(stream.offset)
    return values


def _longer(trials: IntervalStream, options: WindowOptions) -> list[Problem]:
    lengths = trials.stop - trials.start
    long = int((lengths > options.align_stop_s + 1e-9).sum())
    if not long:
        return []
    what = f"{long} of {len(trials)} sweeps go on, up to {lengths.max():g} s"
    what += f" after the {options.align_stop_s:g} s of a window"
    return [Problem(trials.path, what, "the rest is not taken; align_range_ms says how much of each is")]


def check_sweep_options(options: WindowOptions) -> None:
    """Refuse options that would mix neighbouring sweeps, or that mean nothing for them."""
    low = 0.0 if options.align_range_ms is None else options.align_range_ms[0]
    mixing = {
        f"align_range_ms={options.align_range_ms}, which begins before the sweep": low < 0,
        "margin_ms": options.margin_ms > 0,
        "align_field": options.align_field != "start_time",
        "rate of lfp (resample with a transform)": any(choice.rate is not None for choice in options.chosen("lfp")),
        "units=raw": any(choice.units == "raw" for choice in options.chosen("lfp")),
    }
    if wrong := [what for what, is_wrong in mixing.items() if is_wrong]:
        raise ConfigError(f"sampling=sweep takes each sweep by itself, in physical units: leave out {wrong[0]}")
