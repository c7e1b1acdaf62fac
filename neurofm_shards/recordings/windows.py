"""Cutting windows inside valid time; every window that is left out is counted with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neurofm_shards._typing import Ints
from neurofm_shards.errors import SourceError
from neurofm_shards.recordings.options import WindowOptions
from neurofm_shards.recordings.spans import covered, intersect, partition
from neurofm_shards.recordings.splits import PURGED, Territories
from neurofm_shards.recordings.ticks import to_seconds
from neurofm_shards.recordings.timeline import Timeline

INCOMPLETE = "incomplete at the end of a stretch"
OUTSIDE = "reaches beyond the recording"

#: Windows of one recording: more than ten months of windows of a second.
_MOST_WINDOWS = 30_000_000
_NONE: Ints = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Cut:
    """Windows that were cut.

    Attributes
    ----------
    starts : numpy.ndarray of int64, shape (n,)
        Ticks.
    stops : numpy.ndarray of int64, shape (n,)
        Ticks behind which a window holds nothing: its end, or the end of the stretch that a padded one was cut from.
    splits : tuple of str
        Split of each; ``""`` where nothing is split.
    origin : numpy.ndarray of int64, shape (n,)
        Position of the trial each was cut from; -1 for windows that were not cut from trials.
    drops : mapping of str to int
        Windows left out, by reason.
    """

    starts: Ints
    stops: Ints
    splits: tuple[str, ...]
    origin: Ints
    drops: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.starts)

    def keep(self, rows: Ints, reason: str) -> Cut:
        """Return the windows at these positions; the others count as dropped for this reason."""
        drops = Counter(self.drops)
        if len(rows) < len(self):
            drops[reason] += len(self) - len(rows)
        splits = tuple(self.splits[i] for i in rows)
        return Cut(self.starts[rows], self.stops[rows], splits, self.origin[rows], dict(drops))

    def assigned(self, splits: Sequence[str]) -> Cut:
        """Return the same windows with these splits."""
        return replace(self, splits=tuple(splits))


def cut_fixed(
    options: WindowOptions, timeline: Timeline, removals: Mapping[str, Ints], territories: Territories
) -> Cut:
    """Cut windows of a fixed length one after the other inside every stretch that nothing is removed from.

    Windows begin on the bin grid, which begins at the timeline's start. A stretch that was removed counts for as many
    dropped windows as it would have given; bins left over at a stretch's end count for one.

    Raises
    ------
    SourceError
        There would be more windows than fit into memory, as where a time is wrong by years.
    """
    _check_number(timeline, options)
    drops: Counter[str] = Counter()
    found: list[tuple[Ints, Ints, str]] = []
    for start, stop, reason in partition((timeline.start, timeline.stop), {**territories.removals, **removals}):
        if reason:
            drops[reason] += sum(_number(start, stop, timeline, options))
            continue
        piece = np.array([[start, stop]], dtype=np.int64)
        for split, spans in territories.spans.items():
            for low, high in intersect(piece, spans):
                starts, stops, left = _tile(int(low), int(high), timeline, options)
                found.append((starts, stops, split))
                drops[INCOMPLETE] += left
    starts = np.concatenate([_NONE, *(part for part, _, _ in found)])
    stops = np.concatenate([_NONE, *(part for _, part, _ in found)])
    splits = [split for part, _, split in found for _ in range(len(part))]
    order = np.argsort(starts, kind="stable")
    counted = {reason: count for reason, count in drops.items() if count}
    return Cut(starts[order], stops[order], tuple(splits[i] for i in order), np.full(len(starts), -1), counted)


def _check_number(timeline: Timeline, options: WindowOptions) -> None:
    number, _ = _number(timeline.start, timeline.stop, timeline, options)
    if number > _MOST_WINDOWS:
        raise SourceError(
            f"the recording lasts from {to_seconds(timeline.start):.6g} to {to_seconds(timeline.stop):.6g} s, as "
            f"{timeline.said_by} says, which would be {number:,} windows (at most {_MOST_WINDOWS:,}): correct its "
            "times in the file, or say a longer stride"
        )


def cut_trials(
    options: WindowOptions,
    timeline: Timeline,
    align: Ints,
    removals: Mapping[str, Ints],
    territories: Territories,
) -> Cut:
    """Cut one window around each aligned time; one that touches removed time is dropped for that reason."""
    starts = align + options.align_start_ticks
    length = options.window_bins * options.bin_ticks
    whole = np.array([[timeline.start, timeline.stop]], dtype=np.int64)
    cut = Cut(starts, starts + length, ("",) * len(starts), np.arange(len(starts)), {})
    least = 1 if options.on_last_window == "pad" else length
    cut = cut.keep(np.flatnonzero(covered(whole, cut.starts, cut.stops) >= least), OUTSIDE)
    for reason, spans in {**territories.removals, **removals}.items():
        cut = cut.keep(np.flatnonzero(covered(spans, cut.starts, cut.stops) == 0), reason)
    if len(territories.spans) == 1:
        return cut.assigned([*territories.spans] * len(cut))
    splits = np.full(len(cut), "", dtype=object)
    for split, spans in territories.spans.items():
        splits[covered(spans, cut.starts, cut.stops) == length] = split
    return cut.assigned([str(split) for split in splits]).keep(np.flatnonzero(splits != ""), PURGED)


def everywhere(split: str, timeline: Timeline) -> Territories:
    """Return one split that holds a whole recording."""
    return Territories({split: np.array([[timeline.start, timeline.stop]], dtype=np.int64)}, {})


def _bins(start: int, stop: int, timeline: Timeline, options: WindowOptions) -> tuple[int, int, int]:
    """Return the first whole bin of a stretch, the first behind it, and the first behind any part of it."""
    width = options.bin_ticks
    low, high = start - timeline.start, stop - timeline.start
    first = -(-low // width)
    return first, max(first, high // width), max(first, -(-high // width))


def _number(start: int, stop: int, timeline: Timeline, options: WindowOptions) -> tuple[int, int]:
    """Return how many windows a stretch holds, and whether (0 or 1) bins are left over."""
    first, last, end = _bins(start, stop, timeline, options)
    bins = last - first
    whole = max(0, (bins - options.window_bins) // options.stride_bins + 1)
    used = (whole - 1) * options.stride_bins + options.window_bins if whole else 0
    return whole, int(end - first > used)


def _tile(start: int, stop: int, timeline: Timeline, options: WindowOptions) -> tuple[Ints, Ints, int]:
    """Return starts and stops of the windows of a stretch, and how many windows (0 or 1) were left over."""
    first, last, end = _bins(start, stop, timeline, options)
    whole, left = _number(start, stop, timeline, options)
    numbers = first + np.arange(whole, dtype=np.int64) * options.stride_bins
    stops = numbers + options.window_bins
    following = first + whole * options.stride_bins
    if left and options.on_last_window == "pad" and following < last:  # else none of its bins would be valid
        numbers, left = np.append(numbers, following), 0
        stops = np.append(stops, end if stop == timeline.stop else last)
    elif left and options.on_last_window == "overlap" and last - first >= options.window_bins:
        left = 0
        if numbers[-1] != last - options.window_bins:
            numbers, stops = np.append(numbers, last - options.window_bins), np.append(stops, last)
    return timeline.start + numbers * options.bin_ticks, timeline.start + stops * options.bin_ticks, left
