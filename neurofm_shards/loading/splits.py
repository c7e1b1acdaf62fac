"""Train, validation and test from a finished data set, by group, so that nothing leaks between them.

Sessions, subjects and trials are assigned by a hash of their id, the same one that conversion uses: more data never
moves what was assigned before. Windows that overlap in time across splits, or come nearer than the purge gap, are left
out of the earlier split, and counted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Rows
from neurofm_shards.errors import ConfigError
from neurofm_shards.expressions import unknown_name
from neurofm_shards.loading.subsets import Columns, Splits, TableColumns
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.recordings.options import DEFAULT_FRACTIONS
from neurofm_shards.recordings.windows import group_hash, split_of

By = Literal["session", "subject", "trial", "time"]

_TICKS = 1e9


def split(
    data: Any,
    by: By = "session",
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    *,
    purge: float = 1.0,
    column: str | None = "split",
    balanced: bool = False,
) -> Splits:
    """Divide samples into splits.

    Parameters
    ----------
    data : path-like, ShardCollection, MetadataTable or mapping of str to numpy.ndarray
        A folder of shards, or what has the metadata columns ``session_id``, ``subject_id``, ``trial``,
        ``window_start_s``, ``window_stop_s``
        (those that ``by`` needs).
    by : str
        What is kept together: ``"session"``, ``"subject"``, ``"trial"``, or ``"time"``: each session's time is cut into
        one stretch per split, in the order of ``fractions``.
    fractions : mapping of str to float
        Share of each split; they add up to 1.
    seed : int
        Mixed into the hash.
    purge : float
        By trial and time: gap between splits of one session, in window lengths.
    column : str or None
        Metadata column that is honoured where it names splits already; None to divide anew.
    balanced : bool
        Share out the groups as exactly as ``fractions`` allow. For few groups; more data may then move old ones.

    Raises
    ------
    ConfigError
        A column is missing, fractions do not add up to 1, or a split would be empty.
    """
    columns = _columns(data)
    _check_fractions(fractions)
    if column is not None and column in columns and any(columns[column].tolist()):
        return _as_written(columns[column], column)
    match by:
        case "session" | "subject":
            groups, names = _by_hash(_ids(columns, f"{by}_id"), fractions, seed, balanced=balanced)
            found = Splits(*_gathered(names, fractions, {}), _counted(groups, fractions))
        case "trial":
            found = _by_trial(columns, fractions, seed, purge, balanced=balanced)
        case "time":
            found = _by_time(columns, fractions, purge)
        case _:
            raise ConfigError(f"by={by!r}; choose session, subject, trial or time")
    _check_filled(found, by, fractions)
    return found


def _columns(data: Any) -> Columns:
    if isinstance(data, Mapping):
        return {name: np.asarray(values) for name, values in data.items()}
    if isinstance(data, (str, os.PathLike)):
        with ShardCollection.open(os.fspath(data)) as collection:
            return TableColumns(collection.metadata_table())
    return TableColumns(data.metadata_table() if hasattr(data, "metadata_table") else data)


def _check_fractions(fractions: Mapping[str, float]) -> None:
    if not fractions or min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ConfigError(f"fractions={dict(fractions)} must be non-negative and add up to 1")


def _check_filled(found: Splits, by: str, fractions: Mapping[str, float]) -> None:
    empty = [name for name, share in fractions.items() if share > 0 and not len(found.rows[name])]
    if empty:
        raise ConfigError(
            f"split by {by} leaves {' and '.join(empty)} empty ({_told('groups', found.groups)}; "
            f"{_told('samples dropped', found.dropped)}): use balanced=True, another seed, other fractions, or a "
            "split by something finer"
        )


def _told(what: str, counts: Mapping[str, int]) -> str:
    return f"{what}: {', '.join(f'{name} {count:,}' for name, count in counts.items()) or 'none'}"


def _column(columns: Columns, name: str) -> npt.NDArray[Any]:
    if name not in columns:
        raise ConfigError(f"cannot split: {unknown_name('metadata column', name, columns)}")
    return columns[name]


def _ids(columns: Columns, name: str) -> npt.NDArray[np.str_]:
    values = _column(columns, name).tolist()
    missing = sum(value is None or value == "" or value != value for value in values)  # noqa: PLR0124  (NaN)
    if missing:
        raise ConfigError(f"cannot split: {missing} samples have no {name}; split by something else")
    return np.array([str(value) for value in values], dtype=np.str_)


def _as_written(values: npt.NDArray[Any], column: str) -> Splits:
    """Take the splits that the metadata names."""
    named = np.array(["" if value is None else str(value) for value in values.tolist()])
    rows = {str(name): np.flatnonzero(named == name).astype(np.int64) for name in np.unique(named) if name}
    left = int((named == "").sum())
    note = f"taken from the metadata column {column!r}; column=None divides anew"
    return Splits(rows, {"in no split": left} if left else {}, {}, (note,))


def _by_hash(
    ids: npt.NDArray[np.str_], fractions: Mapping[str, float], seed: int, *, balanced: bool
) -> tuple[dict[str, str], npt.NDArray[Any]]:
    """Return each group's split, and each sample's."""
    distinct, group = np.unique(ids, return_inverse=True)
    if balanced:
        turn = sorted(distinct.tolist(), key=lambda each: group_hash(each, seed))
        names = list(fractions)
        edges = np.rint(np.cumsum(list(fractions.values())) * len(turn)).astype(int)
        places = np.searchsorted(edges, np.arange(len(turn)), side="right")
        of = {each: names[min(int(place), len(names) - 1)] for each, place in zip(turn, places, strict=True)}
    else:
        of = {str(each): split_of(str(each), fractions, seed) for each in distinct.tolist()}
    return of, np.array([of[each] for each in distinct.tolist()], dtype=object)[group.reshape(-1)]


def _counted(of: Mapping[str, str], fractions: Mapping[str, float]) -> dict[str, int]:
    return {name: sum(each == name for each in of.values()) for name in fractions}


def _gathered(
    names: npt.NDArray[Any], fractions: Mapping[str, float], dropped: dict[str, int]
) -> tuple[dict[str, Rows], dict[str, int]]:
    return {name: np.flatnonzero(names == name).astype(np.int64) for name in fractions}, {
        reason: count for reason, count in dropped.items() if count
    }


def _by_trial(columns: Columns, fractions: Mapping[str, float], seed: int, purge: float, *, balanced: bool) -> Splits:
    sessions, trials = _ids(columns, "session_id"), _column(columns, "trial")
    inside = np.array([value is not None and value == value and value != -1 for value in trials.tolist()])  # noqa: PLR0124
    ids = np.array(
        [f"{s}\0{_plain(t)}" for s, t in zip(sessions[inside].tolist(), trials[inside].tolist(), strict=True)],
        dtype=np.str_,
    )
    of, of_samples = _by_hash(ids, fractions, seed, balanced=balanced)
    names = np.full(len(inside), None, dtype=object)
    names[inside] = of_samples
    dropped = {"in no trial": int((~inside).sum())}
    notes: tuple[str, ...] = ()
    if "window_start_s" in columns and "window_stop_s" in columns:
        before = int((names != None).sum())  # noqa: E711  (elementwise)
        _clear(names, sessions, *_windows(columns), list(fractions), purge)
        dropped["too near to another split"] = before - int((names != None).sum())  # noqa: E711
    else:
        notes = ("the samples have no window_start_s and window_stop_s: whether windows overlap was not checked",)
    rows, counts = _gathered(names, fractions, dropped)
    return Splits(rows, counts, _counted(of, fractions), notes)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _windows(columns: Columns) -> tuple[Rows, Rows]:
    """Return window starts and stops as whole nanoseconds."""
    edges = [np.asarray(_column(columns, name), dtype=np.float64) for name in ("window_start_s", "window_stop_s")]
    if any(np.isnan(edge).any() for edge in edges) or bool((edges[1] <= edges[0]).any()):
        raise ConfigError("cannot split: some samples have no window_start_s and window_stop_s, or an empty window")
    start, stop = (np.rint(edge * _TICKS).astype(np.int64) for edge in edges)
    return start, stop


def _clear(
    names: npt.NDArray[Any], sessions: npt.NDArray[np.str_], start: Rows, stop: Rows, order: list[str], purge: float
) -> None:
    """Take windows out that are within ``purge`` of one of a later split in the same session; in place."""
    for session in np.unique(sessions):
        of = np.flatnonzero(sessions == session)
        kept: list[Rows] = []
        for name in reversed(order):
            mine = of[names[of] == name]
            if kept and len(mine):
                gap = np.rint(purge * (stop[mine] - start[mine])).astype(np.int64)
                near = _touched(np.concatenate(kept), start, stop, start[mine] - gap, stop[mine] + gap)
                names[mine[near]] = None
                mine = mine[~near]
            kept.append(mine)


def _touched(others: Rows, start: Rows, stop: Rows, begin: Rows, end: Rows) -> npt.NDArray[np.bool_]:
    """Return which of the spans ``[begin, end)`` overlap a window of ``others``."""
    # As many windows have started before ``end`` as have ended by ``begin`` exactly when none lies between.
    started = np.searchsorted(np.sort(start[others]), end, side="left")
    ended = np.searchsorted(np.sort(stop[others]), begin, side="right")
    return np.asarray(started > ended)


def _by_time(columns: Columns, fractions: Mapping[str, float], purge: float) -> Splits:
    sessions = _ids(columns, "session_id")
    start, stop = _windows(columns)
    shares = {name: share for name, share in fractions.items() if share > 0}
    names = np.full(len(sessions), None, dtype=object)
    for session in np.unique(sessions):
        of = np.flatnonzero(sessions == session)
        edges = _cuts(start[of], stop[of], np.cumsum(list(shares.values()))[:-1])
        gap = np.rint(purge * (stop[of] - start[of])).astype(np.int64)
        for i, name in enumerate(shares):
            after = start[of] >= edges[i - 1] + gap if i else np.ones(len(of), bool)
            before = stop[of] <= edges[i] if i < len(edges) else np.ones(len(of), bool)
            names[of[after & before]] = name
    rows, dropped = _gathered(names, fractions, {"too near to another split": int((names == None).sum())})  # noqa: E711
    stretches = {name: len(np.unique(sessions[rows[name]])) for name in fractions}
    return Splits(rows, dropped, stretches)


def _cuts(start: Rows, stop: Rows, shares: npt.NDArray[np.float64]) -> Rows:
    """Return the times at which the covered time of a session reaches these shares, moved to the next window start."""
    turn = np.argsort(start, kind="stable")
    reached = np.maximum.accumulate(stop[turn])
    new = np.maximum(stop[turn] - np.maximum(start[turn], np.concatenate(([start[turn[0]]], reached[:-1]))), 0)
    covered = np.cumsum(new) - new
    at = np.searchsorted(covered, np.rint(shares * new.sum()), side="left")
    cuts: Rows = np.where(at < len(turn), start[turn[np.minimum(at, len(turn) - 1)]], reached[-1])
    return cuts
