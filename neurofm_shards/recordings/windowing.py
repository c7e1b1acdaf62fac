"""Turn a recording into samples: ``windowed``, which every source of continuous data calls to cut its windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from neurofm_shards._typing import Floats, Ints
from neurofm_shards._wording import counted
from neurofm_shards.errors import SampleIndexError
from neurofm_shards.plugins.interfaces import Samples
from neurofm_shards.recordings.assembly import (
    EPOCHS,
    INVALID,
    Assembly,
    assemble,
    chosen_epochs,
    invalid_times,
)
from neurofm_shards.recordings.description import unknown_subject
from neurofm_shards.recordings.modality import WindowedModality, nothing
from neurofm_shards.recordings.options import WindowOptions
from neurofm_shards.recordings.spikes import BinnedEvents
from neurofm_shards.recordings.stamps import in_seconds
from neurofm_shards.recordings.sweeps import check_sweep_options, sweep_streams
from neurofm_shards.recordings.ticks import EMPTY, coarse, intersect, normalise, subtract, to_seconds
from neurofm_shards.recordings.timeline import TimeGrid, Timeline, known_timeline, timeline
from neurofm_shards.recordings.trials import Coded, Labels, MetadataValues, Trials, load_trials
from neurofm_shards.recordings.windows import (
    OUTSIDE,
    PURGED,
    UNSPLIT,
    Cut,
    by_time,
    by_trial,
    clear_of_others,
    cut_fixed,
    cut_trials,
    everywhere,
    purge_ticks,
    trial_splits,
    whole_split,
)
from neurofm_shards.streams import AnyStream, IntervalStream, Recording, check_modalities, read_once
from neurofm_shards.types import Block, ColumnData, ColumnSpec, Metadata, Problem, SourcePlan
from neurofm_shards.values import sorted_unique

VALID = "valid"
TOO_LITTLE = "below min_valid_fraction"
LIMIT = "beyond limit_windows"
NOT_RECORDED = "not recorded"
#: A modality that is valid in a smaller share of windows is warned of.
_HARDLY = 0.01
#: So many values are looked at to find out where a modality is valid, in so many windows at least.
_VALUES_LOOKED_AT = 1 << 22
_FEWEST_LOOKED_AT = 256
#: Stretches of left-out time that are listed for each reason: more than a picture shows.
_MOST_SPANS = 50


def windowed(
    recording: Recording, options: WindowOptions | None = None, others: Sequence[str] = ()
) -> RecordingSamples:
    """Cut a recording into samples.

    Parameters
    ----------
    recording : Recording
        Streams, as a format plugin describes them. It is closed with the samples.
    options : WindowOptions or None
        What to take and how; None for the defaults.
    others : sequence of str
        Modalities that recordings have which this one is converted with: those that it lacks are empty and masked.

    Returns
    -------
    RecordingSamples
        Columns ``spikes`` (time, units), ``lfp`` (time, channels), ``behavior`` (time, features), ``ophys`` (time,
        ROI) and what belongs to them; see ``docs/recordings.md``. The times of events are read here; everything else
        only when samples are read.

    Raises
    ------
    NothingToConvertError
        The recording is sound but holds nothing that was looked for.
    SourceError
        What is asked for is not there, is ambiguous, or cannot be trusted.
    ConfigError
        The options do not fit the recording.
    """
    options = options or WindowOptions()
    check_modalities(recording.streams)
    streams, when = _on_one_clock(recording, options)
    grid = TimeGrid(recording.session_id, when, options.window_bins, options.bin_ticks, options.stride_bins)
    assembly = assemble(streams, options, grid, recording.source_file, others)
    trials = load_trials([s for s in streams if isinstance(s, IntervalStream)], options, when)
    valid, removals = _validity(streams, assembly, options, when)
    cut = _cut(recording, options, grid, trials, valid, removals)
    cut = _enough(cut, assembly, options, grid, valid)
    if assembly.lacking and options.missing == "skip":
        cut = cut.keep(np.zeros(0, dtype=np.int64), f"session without {', '.join(assembly.lacking)}")
    if options.limit_windows is not None:
        cut = cut.keep(np.arange(min(len(cut), options.limit_windows)), LIMIT)
    if options.split is not None:
        cut = cut.in_order_of(options.split.names)
    return RecordingSamples(recording, options, grid, assembly, trials, cut, valid)


def _on_one_clock(recording: Recording, options: WindowOptions) -> tuple[list[AnyStream], Timeline]:
    """Return the streams that windows are cut from, in seconds, and when there is anything of them."""
    streams = [read_once(stream) for stream in recording.streams]
    doubts: list[Problem] = []
    if options.sampling == "sweep":
        check_sweep_options(options)
        taken, odd = in_seconds(streams, options.series_times, options.suspicious_spike_times)
        streams, doubts = sweep_streams(taken, options, recording.source_file)
        doubts = [*odd, *doubts]
    elif (known := known_timeline(recording, options.extent)) is not None:
        return streams, known
    else:
        streams, doubts = in_seconds(streams, options.series_times, options.suspicious_spike_times)
    when = timeline(streams, recording.source_file, options.extent)
    return streams, replace(when, problems=(*when.problems, *doubts))


class RecordingSamples(Samples):
    """The samples of one recording; made by :func:`windowed`."""

    def __init__(
        self,
        recording: Recording,
        options: WindowOptions,
        grid: TimeGrid,
        assembly: Assembly,
        trials: Trials | None,
        cut: Cut,
        valid: Ints,
    ) -> None:
        self._recording = recording
        self._options = options
        self._grid = grid
        self._parts = assembly.parts
        self._left_out = assembly.problems
        self._trials = trials
        self._cut = cut
        self._valid = valid
        self._shares = {part.name: _valid_share(part, cut, grid) for part in assembly.parts if len(cut)}
        self._labels = Labels(trials, options.labels("metadata"), options.labels("code"))
        self._masked = _masked(options)
        self._counts = {part.name: part for part in assembly.parts if isinstance(part, BinnedEvents)}

    def plan(self) -> SourcePlan:
        """Describe the samples; everything needed was found when the recording was opened."""
        columns = [*(spec for part in self._parts for spec in part.columns), *self._labels.columns]
        if self._masked:
            columns.append(ColumnSpec(VALID, "|b1", (self._grid.bins,)))
        trials = self._trials
        return SourcePlan(
            num_samples=len(self._cut),
            columns=tuple(columns),
            fingerprint=self._recording.fingerprint,
            metadata=self._facts(),
            drops={**(trials.drops if trials else {}), **self._cut.drops},
            problems=(
                *self._recording.problems,
                *self._grid.timeline.problems,
                *(problem for part in self._parts for problem in part.problems),
                *self._left_out,
                *_beyond(self._cut, self._grid.timeline),
                *(_partly_valid(name, share) for name, share in self._shares.items() if share < _HARDLY),
                *(trials.problems if trials else ()),
            ),
            tables={name: rows for part in self._parts for name, rows in part.tables.items()} | self._labels.tables,
            splits=tuple(self._split_sizes().items()),
        )

    def read(self, start: int, stop: int) -> Block:
        """Return samples ``start`` to ``stop``; neighbouring ranges share the blocks that were read."""
        if not 0 <= start <= stop <= len(self._cut):
            raise SampleIndexError(f"samples {start} to {stop} of {len(self._cut)}: out of range")
        starts, stops = self._cut.starts[start:stop], self._cut.stops[start:stop]
        if start == stop:
            return Block({spec.name: nothing(spec, 0) for spec in self.plan().columns}, [])
        columns: dict[str, ColumnData] = {}
        for part in self._parts:
            columns.update(part.read(starts, stops))
        columns |= self._labels.codes(starts, starts + self._grid.window_ticks, self._cut.origin[start:stop])
        if self._masked:
            columns[VALID] = _mask(self._valid, starts, stops, self._grid)
        return Block(columns, self.metadata(np.arange(start, stop)))

    @property
    def cut(self) -> Cut:
        """Where the windows lie."""
        return self._cut

    def in_split(self, name: str) -> RecordingSamples:
        """Return the same samples, all of them in this split; the recording is closed with either."""
        made = copy(self)
        made.__dict__.pop("_splits", None)
        made._cut = self._cut.assigned((name,) * len(self._cut))  # noqa: SLF001  (its own)
        return made

    def trials_in(self, row: int) -> list[dict[str, Any]]:
        """Return the trials that share time with a sample: row in the file's table, start and stop in seconds."""
        trials = self._trials
        if trials is None:
            return []
        first = self._cut.starts[row]
        inside = np.flatnonzero((trials.start <= first + self._grid.window_ticks) & (trials.stop >= first))
        spans = (trials.rows, to_seconds(trials.start), to_seconds(trials.stop))
        found = zip(*(each[inside].tolist() for each in spans), strict=True)
        return [{"trial": number, "start_s": start, "stop_s": stop} for number, start, stop in found]

    def counted(self, column: str) -> BinnedEvents | None:
        """Return the modality whose counts are in a column; None where it holds none."""
        return self._counts.get(column)

    @property
    def window_ticks(self) -> int:
        """Length of a window in ticks."""
        return self._grid.window_ticks

    def gather(self, starts: Ints, stops: Ints, columns: Collection[str], rows: Ints) -> dict[str, ColumnData]:
        """Return some columns of windows at any ticks, in any order; streams of other columns are not read.

        ``rows`` are the samples that the windows are, wherever they were moved to.
        Nothing is kept from one call to the next, so that several threads may call at once.
        """
        found: dict[str, ColumnData] = {}
        for part in self._parts:
            if any(spec.name in columns for spec in part.columns):
                found.update(part.read_scattered(starts, stops))
        found |= self._labels.codes(starts, starts + self._grid.window_ticks, self._cut.origin[rows])
        if self._masked and VALID in columns:
            found[VALID] = _mask(self._valid, starts, stops, self._grid)
        return {name: data for name, data in found.items() if name in columns}

    def close(self) -> None:
        """Close the recording."""
        self._recording.close()

    def metadata(self, rows: Ints, starts: Ints | None = None) -> list[Metadata]:
        """Return the metadata of samples; ``starts`` are the ticks of windows that were moved."""
        said = self.metadata_values(rows, starts)
        return [dict(zip(said, entry, strict=True)) for entry in zip(*(v.tolist() for v in said.values()), strict=True)]

    def metadata_values(self, rows: Ints, starts: Ints | None = None) -> dict[str, MetadataValues]:
        """Return the same by name, for all samples at once."""
        starts = self._cut.starts[rows] if starts is None else starts
        ends = starts + self._grid.window_ticks
        same = np.zeros(len(rows), dtype=np.int64)
        names, codes = self._splits
        return {
            "session_id": Coded([self._recording.session_id], same),
            "subject_id": Coded([self._recording.subject_id], same),
            "source_file": Coded([self._recording.source_file], same),
            "window_start_s": to_seconds(starts),
            "window_stop_s": to_seconds(ends),
            "origin_s": Coded([float(to_seconds(self._grid.timeline.start))], same),
            "split": Coded(names, codes[rows]),
            **self._labels.of(starts, ends, self._cut.origin[rows]),
        }

    @cached_property
    def _splits(self) -> tuple[list[str], Ints]:
        """The different splits, and the number of each sample's."""
        names = list(dict.fromkeys(self._cut.splits))
        if len(names) == 1:
            return names, np.zeros(len(self._cut), dtype=np.int64)
        number = {name: i for i, name in enumerate(names)}
        return names, np.array([number[name] for name in self._cut.splits], dtype=np.int64)

    def _split_sizes(self) -> dict[str, int]:
        """Return the number of windows of each split, in the order in which they follow one another."""
        return {name: count for name, count in Counter(self._cut.splits).items() if name}

    def _facts(self) -> dict[str, Any]:
        when, options = self._grid.timeline, self._options
        facts: dict[str, Any] = {
            "session_id": self._recording.session_id,
            "subject_id": self._recording.subject_id,
            "source_file": self._recording.source_file,
            "facts": dict(self._recording.facts),
            "origin_s": float(to_seconds(when.start)),
            "extent_s": when.extent_s,
            "extent_from": when.said_by,
            "bin_size_ms": options.bin_size_ms,
            "window_bins": options.window_bins,
            "splits": self._split_sizes(),
            "modalities": {part.name: dict(part.facts) for part in self._parts if part.facts},
            "valid_share": {name: round(share, 4) for name, share in self._shares.items()},
            **unknown_subject(self._recording),
            **when.recorded_s,
        }
        if left := self._cut.left_out(when.whole):
            spans = {reason: to_seconds(coarse(found, _MOST_SPANS)) for reason, found in left.items()}
            facts["left_out_s"] = {reason: found.round(6).tolist() for reason, found in spans.items()}
        if options.extent != "auto":
            facts["extent"] = options.extent
        if options.sampling != "fixed":
            facts |= {"align_field": options.align_field, "margin_bins": options.margin_bins}
        return facts


def _validity(
    streams: Sequence[AnyStream], assembly: Assembly, options: WindowOptions, when: Timeline
) -> tuple[Ints, Mapping[str, Ints]]:
    """Return the valid time, and the stretches in which no window may lie by reason."""
    removals = {reason: spans for part in assembly.parts for reason, spans in part.removals.items() if len(spans)}
    epochs = chosen_epochs(streams, options.epochs, when)
    if len(epochs):
        removals[EPOCHS] = epochs
    masked: list[Ints] = []
    bad = invalid_times(streams, when) if options.invalid != "ignore" else epochs[:0]
    if len(bad) and options.invalid == "drop":
        removals[INVALID] = bad
    elif len(bad):
        masked.append(bad)
    covers = [when.whole if part.covers is None or when.stated else part.covers for part in assembly.parts]
    if len(empty := subtract(when.whole, intersect(when.recorded, normalise(np.concatenate([*covers, EMPTY]))))):
        removals[NOT_RECORDED] = empty
    return subtract(when.whole, normalise(np.concatenate([*removals.values(), *masked, EMPTY]))), removals


def _cut(
    recording: Recording,
    options: WindowOptions,
    grid: TimeGrid,
    trials: Trials | None,
    valid: Ints,
    removals: Mapping[str, Ints],
) -> Cut:
    split, when = options.split, grid.timeline
    aligned = trials.align if trials is not None else None
    whole = whole_split(split, recording)
    if split is None or whole is not None:
        regions = everywhere(whole or "", when)
    elif split.by == "time":
        regions = by_time(split, grid, valid)
    elif trials is not None and aligned is None:
        regions = by_trial(split, grid, trials, valid)
    else:
        regions = everywhere("", when)
    if aligned is None or trials is None:
        return cut_fixed(grid, options.on_last_window, removals, regions)
    ends = trials.stop if options.sampling == "sweep" else None
    cut = cut_trials(options, grid, aligned, removals, regions, ends)
    if split is None or split.by != "trial":
        return cut
    names = trial_splits(split, recording.session_id, trials, np.bincount(cut.origin, minlength=len(aligned)))
    cut = cut.assigned([names[i] for i in cut.origin])
    cut = cut.keep(np.array([i for i, name in enumerate(cut.splits) if name], dtype=np.int64), UNSPLIT)
    if options.sampling == "sweep":  # which share nothing, however near they are
        return cut
    stay = clear_of_others(cut.starts, grid.window_ticks, cut.splits, list(split.fractions), purge_ticks(split, grid))
    return cut.keep(stay, PURGED)


def _enough(cut: Cut, assembly: Assembly, options: WindowOptions, grid: TimeGrid, valid: Ints) -> Cut:
    """Leave out windows in which too small a share of any modality is valid."""
    if options.min_valid_fraction <= 0 or len(cut) == 0:
        return cut
    frame_valid: Floats = grid.mask(valid, cut.starts).mean(axis=1)
    cut = cut.keep(np.flatnonzero(frame_valid >= options.min_valid_fraction), TOO_LITTLE)
    for part in assembly.parts:
        share = _valid_fraction(part, cut.starts, cut.stops, grid)
        cut = cut.keep(np.flatnonzero(share >= options.min_valid_fraction), f"{TOO_LITTLE}: {part.name}")
    return cut


def _valid_fraction(part: WindowedModality, starts: Ints, stops: Ints, grid: TimeGrid) -> Floats:
    """Return the share of each window in which a modality is valid: none of it is where the window was cut short."""
    share: Floats = np.minimum(part.valid_fraction(starts), (stops - starts) / grid.window_ticks)
    return share


def _valid_share(part: WindowedModality, cut: Cut, grid: TimeGrid) -> float:
    """Return in which share of windows a modality is valid throughout; of many values, in evenly chosen windows."""
    most = max(_FEWEST_LOOKED_AT, _VALUES_LOOKED_AT // max(1, part.values_per_window))
    rows = sorted_unique(np.linspace(0, len(cut) - 1, min(len(cut), most)).astype(np.int64))
    return float((_valid_fraction(part, cut.starts[rows], cut.stops[rows], grid) >= 1).mean())


def _beyond(cut: Cut, when: Timeline) -> list[Problem]:
    """Say that trials lie outside of what is taken for recorded, and which option decides that."""
    count = cut.drops.get(OUTSIDE, 0)
    if not count:
        return []
    start, stop = float(to_seconds(when.start)), float(to_seconds(when.stop))
    recorded = f"({start:.6g} to {stop:.6g} s, as {when.said_by} say)"
    what = f"{counted(count, 'window')} around trials would reach beyond the recording {recorded}"
    return [Problem("trials", what, "left out; extent=all, or seconds from and to, takes more for recorded")]


def _partly_valid(name: str, share: float) -> Problem:
    return Problem(
        name, f"valid in {share:.2%} of windows", "the rest is masked; min_valid_fraction drops such windows"
    )


def _masked(options: WindowOptions) -> bool:
    return options.masks == "always" or options.on_last_window == "pad" or options.invalid == "mask"


def _mask(valid: Ints, starts: Ints, stops: Ints, grid: TimeGrid) -> np.ndarray[Any, np.dtype[np.bool_]]:
    ends = starts[:, None] + (np.arange(grid.bins) + 1) * grid.bin_ticks
    return grid.mask(valid, starts) & (ends <= stops[:, None])
