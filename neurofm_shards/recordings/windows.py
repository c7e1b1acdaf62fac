"""Cut windows inside valid time, assign them to splits, and count every window that is left out with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from neurofm_shards._typing import Ints
from neurofm_shards.errors import SourceError
from neurofm_shards.recordings.group_splits import in_proportion, share
from neurofm_shards.recordings.options import LastWindow, SplitOptions, WindowOptions
from neurofm_shards.recordings.ticks import EMPTY, covered, intersect, normalise, partition, subtract, to_seconds
from neurofm_shards.recordings.timeline import TimeGrid, Timeline
from neurofm_shards.recordings.trials import Trials
from neurofm_shards.streams import Recording
from neurofm_shards.values import to_json

PURGED = "too near to another split"
UNSPLIT = "in no split"


@dataclass(frozen=True)
class SplitRegions:
    """Stretches of time by split, and those that belong to none.

    Attributes
    ----------
    spans : mapping of str to numpy.ndarray of int64, shape (n, 2)
        Stretches of each split in ticks; disjoint between splits.
    removals : mapping of str to numpy.ndarray of int64, shape (n, 2)
        Stretches in which no window may lie, by reason.
    """

    spans: Mapping[str, Ints]
    removals: Mapping[str, Ints]


def whole_split(options: SplitOptions | None, recording: Recording) -> str | None:
    """Return the split of a whole recording, ``""`` when nothing is split, None when it is divided inside.

    Raises
    ------
    SourceError
        The split is by subject and the recording has none.
    """
    if options is None:
        return ""
    if options.by == "session":
        return share(options, recording.session_id)
    if options.by == "subject":
        if not recording.subject_id:
            raise SourceError(
                f"{recording.source_file}: no subject id, so it cannot be split by subject: split by session"
            )
        return share(options, recording.subject_id)
    return None


def by_time(split: SplitOptions, grid: TimeGrid, valid: Ints) -> SplitRegions:
    """Divide the valid time of a recording into consecutive stretches, on bin edges, with a gap after each cut."""
    if len(valid) == 0:
        return SplitRegions({}, {})
    timeline = grid.timeline
    lengths = valid[:, 1] - valid[:, 0]
    before = np.cumsum(lengths) - lengths
    names = [name for name, fraction in split.fractions.items() if fraction > 0]
    reached = np.cumsum([split.fractions[name] for name in names])[:-1]
    targets = np.rint(reached * lengths.sum()).astype(np.int64)
    at = np.searchsorted(before, targets, side="right") - 1
    cuts = valid[at, 0] + targets - before[at]
    cuts = timeline.start + -(-(cuts - timeline.start) // grid.bin_ticks) * grid.bin_ticks
    edges = np.concatenate([[timeline.start], cuts, [timeline.stop]])
    stretches = [(int(a), int(b), name) for a, b, name in zip(edges[:-1], edges[1:], names, strict=True)]
    return _regions(stretches, purge_ticks(split, grid))


def by_trial(split: SplitOptions, grid: TimeGrid, trials: Trials, valid: Ints) -> SplitRegions:
    """Give each trial, with the time until the next one starts, to a split; a gap follows each change."""
    timeline = grid.timeline
    starts, first = np.unique(np.clip(trials.start, timeline.start, timeline.stop), return_index=True)
    if len(starts) == 0:
        return SplitRegions({}, {UNSPLIT: timeline.whole})
    edges = np.concatenate([starts, [timeline.stop]])
    edges[0] = timeline.start
    sizes = np.zeros(len(trials.start), dtype=np.int64)
    sizes[first] = covered(valid, edges[:-1], edges[1:])
    names = trial_splits(split, grid.session_id, trials, sizes)
    stretches = [(int(a), int(b), names[i]) for a, b, i in zip(edges[:-1], edges[1:], first, strict=True) if b > a]
    return _regions(stretches, purge_ticks(split, grid))


def trial_splits(split: SplitOptions, session_id: str, trials: Trials, sizes: Ints) -> list[str]:
    """Return the split of each trial: as its table says, else by sizes; ``""`` where the table names none of ours."""
    said = trials.columns.get(split.column) if split.column is not None else None
    if said is None:
        ids = [f"{session_id}\0{row}" for row in trials.rows]
        if split.balanced:
            return in_proportion(session_id, ids, sizes, split.fractions, split.seed)
        return [share(split, name) for name in ids]
    return [name if (name := str(to_json(value))) in split.fractions else "" for value in said]


def purge_ticks(split: SplitOptions, grid: TimeGrid) -> int:
    """Return the gap between splits, in whole bins."""
    return int(np.ceil(split.purge * grid.bins)) * grid.bin_ticks


def clear_of_others(starts: Ints, length: int, names: Sequence[str], order: Sequence[str], purge: int) -> Ints:
    """Return the windows that may stay: later splits in ``order`` keep theirs, others within ``purge`` go."""
    stay = np.zeros(len(starts), dtype=bool)
    labels = np.array(names, dtype=object)
    taken = EMPTY
    for name in reversed(order):
        mine = np.flatnonzero(labels == name)
        free = covered(taken, starts[mine] - purge, starts[mine] + length + purge) == 0
        stay[mine[free]] = True
        kept = starts[mine[free]]
        taken = normalise(np.concatenate([taken, np.stack([kept, kept + length], axis=1)]))
    return np.flatnonzero(stay)


def _regions(stretches: Sequence[tuple[int, int, str]], purge: int) -> SplitRegions:
    changes = [
        (start, start + purge)
        for (start, _, name), (_, _, before) in zip(stretches[1:], stretches[:-1], strict=True)
        if name != before
    ]
    gaps = normalise(changes)
    spans: dict[str, list[tuple[int, int]]] = {}
    for start, stop, name in stretches:
        spans.setdefault(name, []).append((start, stop))
    unsplit = normalise(spans.pop("", []))
    return SplitRegions(
        {name: subtract(normalise(found), gaps) for name, found in spans.items()},
        {UNSPLIT: unsplit, PURGED: gaps},
    )


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
    latest : numpy.ndarray of int64, shape (n,)
        The last tick at which each could start and still lie in the stretch that it was cut from.
    lost : mapping of str to numpy.ndarray of int64, shape (m, 2)
        Time of what was left out, by reason, in any order; other windows may lie in it.
    """

    starts: Ints
    stops: Ints
    splits: tuple[str, ...]
    origin: Ints
    drops: Mapping[str, int]
    latest: Ints
    lost: Mapping[str, Ints] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.starts)

    def keep(self, rows: Ints, reason: str) -> Cut:
        """Return the windows at these positions; the others count as dropped for this reason."""
        drops, lost = Counter(self.drops), self.lost
        if len(rows) < len(self):
            drops[reason] += len(self) - len(rows)
            left = np.delete(np.column_stack([self.starts, self.stops]), rows, axis=0)
            lost = {**lost, reason: np.concatenate([lost.get(reason, EMPTY), left])}
        splits = tuple(self.splits[i] for i in rows)
        return Cut(self.starts[rows], self.stops[rows], splits, self.origin[rows], dict(drops), self.latest[rows], lost)

    def left_out(self, whole: Ints) -> dict[str, Ints]:
        """Return the time of ``whole`` that is in no window, by the reason for which it was left out."""
        kept = normalise(np.column_stack([self.starts, self.stops]))
        found = {reason: intersect(whole, subtract(normalise(spans), kept)) for reason, spans in self.lost.items()}
        return {reason: spans for reason, spans in found.items() if len(spans)}

    def in_order_of(self, names: Sequence[str]) -> Cut:
        """Return the same windows split by split, in the order of these names, those of one split as they were."""
        place = {name: i for i, name in enumerate(names)}
        rows = np.argsort([place[name] for name in self.splits], kind="stable")
        return self.keep(rows, "")

    def assigned(self, splits: Sequence[str]) -> Cut:
        """Return the same windows with these splits."""
        return replace(self, splits=tuple(splits))


def cut_fixed(grid: TimeGrid, last: LastWindow, removals: Mapping[str, Ints], regions: SplitRegions) -> Cut:
    """Cut windows of a fixed length one after the other inside every stretch that nothing is removed from.

    Windows begin on the bin grid, which begins at the timeline's start. A stretch that was removed counts for as many
    dropped windows as it would have given; bins left over at a stretch's end count for one.

    Raises
    ------
    SourceError
        There would be more windows than fit into memory, as where a time is wrong by years.
    """
    _check_number(grid)
    timeline = grid.timeline
    drops: Counter[str] = Counter()
    lost: dict[str, list[tuple[int, int]]] = {}
    found: list[tuple[Ints, Ints, Ints, str]] = []
    for start, stop, reason in partition((timeline.start, timeline.stop), {**regions.removals, **removals}):
        if reason:
            drops[reason] += sum(_number(start, stop, grid))
            lost.setdefault(reason, []).append((start, stop))
            continue
        piece = np.array([[start, stop]], dtype=np.int64)
        for split, spans in regions.spans.items():
            for low, high in intersect(piece, spans):
                starts, stops, left = _tile(int(low), int(high), grid, last)
                found.append((starts, stops, np.maximum(starts, int(high) - grid.window_ticks), split))
                if left:
                    drops[INCOMPLETE] += left
                    lost.setdefault(INCOMPLETE, []).append((int(stops[-1]) if len(stops) else int(low), int(high)))
    starts, stops, latest = (np.concatenate([_NONE, *(part[k] for part in found)]) for k in range(3))
    splits = [split for part, *_, split in found for _ in range(len(part))]
    order = np.argsort(starts, kind="stable")
    counted = {reason: count for reason, count in drops.items() if count}
    named, none = tuple(splits[i] for i in order), np.full(len(starts), -1)
    times = {reason: np.array(spans, dtype=np.int64) for reason, spans in lost.items()}
    return Cut(starts[order], stops[order], named, none, counted, latest[order], times)


def _check_number(grid: TimeGrid) -> None:
    timeline = grid.timeline
    number, _ = _number(timeline.start, timeline.stop, grid)
    if number > _MOST_WINDOWS:
        raise SourceError(
            f"the recording lasts from {to_seconds(timeline.start):.6g} to {to_seconds(timeline.stop):.6g} s, as "
            f"{timeline.said_by} says, which would be {number:,} windows (at most {_MOST_WINDOWS:,}): correct its "
            "times in the file, or say a longer stride"
        )


def cut_trials(
    options: WindowOptions,
    grid: TimeGrid,
    align: Ints,
    removals: Mapping[str, Ints],
    regions: SplitRegions,
    ends: Ints | None = None,
) -> Cut:
    """Cut one window around each aligned time; one that touches removed time is dropped for that reason.

    Nothing from ``ends`` on is in a window, where they are given.
    """
    starts = align + options.align_start_ticks
    length = grid.window_ticks
    stops = starts + length if ends is None else np.minimum(starts + length, ends)
    cut = Cut(starts, stops, ("",) * len(starts), np.arange(len(starts)), {}, starts)
    least = 1 if options.on_last_window == "pad" or ends is not None else length
    cut = cut.keep(np.flatnonzero(covered(grid.timeline.whole, cut.starts, cut.stops) >= least), OUTSIDE)
    for reason, spans in {**regions.removals, **removals}.items():
        cut = cut.keep(np.flatnonzero(covered(spans, cut.starts, cut.stops) == 0), reason)
    if len(regions.spans) == 1:
        return cut.assigned([*regions.spans] * len(cut))
    splits = np.full(len(cut), "", dtype=object)
    for split, spans in regions.spans.items():
        splits[covered(spans, cut.starts, cut.stops) == cut.stops - cut.starts] = split
    return cut.assigned([str(split) for split in splits]).keep(np.flatnonzero(splits != ""), PURGED)


def everywhere(split: str, timeline: Timeline) -> SplitRegions:
    """Return one split that holds a whole recording."""
    return SplitRegions({split: timeline.whole}, {})


def _bins(start: int, stop: int, grid: TimeGrid) -> tuple[int, int, int]:
    """Return the first whole bin of a stretch, the first behind it, and the first behind any part of it."""
    width, origin = grid.bin_ticks, grid.timeline.start
    low, high = start - origin, stop - origin
    first = -(-low // width)
    return first, max(first, high // width), max(first, -(-high // width))


def _number(start: int, stop: int, grid: TimeGrid) -> tuple[int, int]:
    """Return how many windows a stretch holds, and whether (0 or 1) bins are left over."""
    first, last, end = _bins(start, stop, grid)
    bins = last - first
    whole = max(0, (bins - grid.bins) // grid.stride_bins + 1)
    used = (whole - 1) * grid.stride_bins + grid.bins if whole else 0
    return whole, int(end - first > used)


def _tile(start: int, stop: int, grid: TimeGrid, last_window: LastWindow) -> tuple[Ints, Ints, int]:
    """Return starts and stops of the windows of a stretch, and how many windows (0 or 1) were left over."""
    origin = grid.timeline.start
    first, last, end = _bins(start, stop, grid)
    whole, left = _number(start, stop, grid)
    numbers = first + np.arange(whole, dtype=np.int64) * grid.stride_bins
    stops = numbers + grid.bins
    following = first + whole * grid.stride_bins
    if left and last_window == "pad" and following < last:  # else none of its bins would be valid
        numbers, left = np.append(numbers, following), 0
        stops = np.append(stops, end if stop == grid.timeline.stop else last)
    elif left and last_window == "overlap" and last - first >= grid.bins:
        left = 0
        if numbers[-1] != last - grid.bins:
            numbers, stops = np.append(numbers, last - grid.bins), np.append(stops, last)
    return origin + numbers * grid.bin_ticks, origin + stops * grid.bin_ticks, left
