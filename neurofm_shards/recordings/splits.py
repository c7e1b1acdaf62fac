"""Who belongs to train, validation and test: decided before windows are cut, so that no time bin is shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from neurofm_shards._typing import Ints
from neurofm_shards.errors import SourceError
from neurofm_shards.recordings.modality import plain
from neurofm_shards.recordings.options import SplitOptions, WindowOptions
from neurofm_shards.recordings.spans import EMPTY, covered, normalise, subtract
from neurofm_shards.recordings.streams import Recording
from neurofm_shards.recordings.timeline import Timeline
from neurofm_shards.recordings.trials import Trials

PURGED = "too near to another split"
UNSPLIT = "in no split"


@dataclass(frozen=True)
class Territories:
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


def share(options: SplitOptions, identity: str) -> str:
    """Return the split of a session, subject or trial by its hash: adding others never moves it.

    The hash is XXH3 (64 bit) of ``seed NUL identity`` as UTF-8, taken as a fraction of its range.
    """
    position = xxhash.xxh3_64_intdigest(f"{options.seed}\0{identity}".encode()) / 2**64
    reached = 0.0
    for name, fraction in options.fractions.items():
        reached += fraction
        if position < reached:
            return name
    return next(name for name in reversed(options.fractions) if options.fractions[name] > 0)


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


def by_time(options: WindowOptions, split: SplitOptions, timeline: Timeline, valid: Ints) -> Territories:
    """Divide the valid time of a recording into consecutive stretches, on bin edges, with a gap after each cut."""
    if len(valid) == 0:
        return Territories({}, {})
    lengths = valid[:, 1] - valid[:, 0]
    before = np.cumsum(lengths) - lengths
    names = [name for name, fraction in split.fractions.items() if fraction > 0]
    reached = np.cumsum([split.fractions[name] for name in names])[:-1]
    targets = np.rint(reached * lengths.sum()).astype(np.int64)
    at = np.searchsorted(before, targets, side="right") - 1
    cuts = valid[at, 0] + targets - before[at]
    cuts = timeline.start + -(-(cuts - timeline.start) // options.bin_ticks) * options.bin_ticks
    edges = np.concatenate([[timeline.start], cuts, [timeline.stop]])
    stretches = [(int(a), int(b), name) for a, b, name in zip(edges[:-1], edges[1:], names, strict=True)]
    return _territories(stretches, purge_ticks(options, split))


def by_trial(
    options: WindowOptions, split: SplitOptions, timeline: Timeline, session_id: str, trials: Trials
) -> Territories:
    """Give each trial, with the time until the next one starts, to a split; a gap follows each change."""
    names = trial_splits(split, session_id, trials)
    starts, first = np.unique(np.clip(trials.start, timeline.start, timeline.stop), return_index=True)
    if len(starts) == 0:
        return Territories({}, {UNSPLIT: np.array([[timeline.start, timeline.stop]], dtype=np.int64)})
    edges = np.concatenate([starts, [timeline.stop]])
    edges[0] = timeline.start
    stretches = [(int(a), int(b), names[i]) for a, b, i in zip(edges[:-1], edges[1:], first, strict=True) if b > a]
    return _territories(stretches, purge_ticks(options, split))


def trial_splits(split: SplitOptions, session_id: str, trials: Trials) -> list[str]:
    """Return the split of each trial: as its table says, else by hash; ``""`` where the table names none of ours."""
    said = trials.columns.get(split.column) if split.column is not None else None
    if said is None:
        return [share(split, f"{session_id}\0{row}") for row in trials.rows]
    return [name if (name := str(plain(value))) in split.fractions else "" for value in said]


def purge_ticks(options: WindowOptions, split: SplitOptions) -> int:
    """Return the gap between splits, in whole bins."""
    return int(np.ceil(split.purge * options.window_bins)) * options.bin_ticks


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


def _territories(stretches: Sequence[tuple[int, int, str]], purge: int) -> Territories:
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
    return Territories(
        {name: subtract(normalise(found), gaps) for name, found in spans.items()},
        {UNSPLIT: unsplit, PURGED: gaps},
    )
