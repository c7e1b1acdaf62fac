"""Train, validation and test from a finished data set, by group, so that nothing leaks between them.

Sessions, subjects and trials are divided so that each split has its fraction of the samples, as nearly as whole groups
allow; or by a hash of their id, which more data never moves. Windows that overlap in time across splits, or come nearer
than the purge gap, are left out of the earlier split, and counted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Rows
from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError
from neurofm_shards.expressions import Columns, unknown_name
from neurofm_shards.format.manifest import Manifest
from neurofm_shards.format.metadata_table import MetadataTable
from neurofm_shards.loading.subsets import Splits, TableColumns, split_names
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.reading.samples import SampleCollection
from neurofm_shards.recordings.group_splits import (
    check_subjects_are_known,
    divide,
    shares_off,
    split_of,
    subjects_in_doubt,
)
from neurofm_shards.recordings.options import DEFAULT_FRACTIONS, SplitBy

#: Names of groups by split.
Named = Mapping[str, str | Sequence[str]]

_LOG = logging.getLogger("neurofm_shards.loading")

_TICKS = 1e9


def split(
    data: Any,
    by: SplitBy = "session",
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    *,
    named: Named | None = None,
    purge: float = 1.0,
    column: str | None = "split",
    balanced: bool = True,
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
        Share of the samples that each split should have; they add up to 1. A warning is logged
        (``neurofm_shards.loading``) where a share is off by more than 5 points.
    seed : int
        Decides between divisions that are equally good, or is mixed into the hash.
    named : mapping of str to (sequence of) str, optional
        By session or subject: groups that belong to a split in any case, ``{"test": ["mouse7"]}``. A split that
        ``fractions`` does not have holds these groups only; the others are divided among the rest.
    purge : float
        By trial and time: gap between splits of one session, in window lengths.
    column : str or None
        Metadata column that is honoured where it names splits already; None to divide anew.
    balanced : bool
        Whether groups are divided so that the fractions of samples are met as nearly as whole groups allow; more data
        may then move old groups. False: by a hash of each group's id, which more data never moves.

    Raises
    ------
    ConfigError
        A column is missing, fractions do not add up to 1, there is no group of a name, or a split would be empty.
    """
    columns, manifest = _opened(data)
    doubt = check_subjects(columns, manifest) if by == "subject" else ""
    found = divided(columns, by, fractions, seed, named=named or {}, purge=purge, column=column, balanced=balanced)
    if doubt:
        _LOG.warning("split by subject: %s", doubt)
    if shares_off(found.counts(), found.fractions, by, balanced=balanced):
        _LOG.warning("split by %s: %s", by, found.notes[-1])
    return found


def divided(
    columns: Columns,
    by: SplitBy,
    fractions: Mapping[str, float],
    seed: int,
    *,
    named: Named,
    purge: float,
    column: str | None,
    balanced: bool,
) -> Splits:
    """Divide samples as :func:`split` does; what there is to warn of is the last note alone."""
    _check_fractions(fractions)
    written = split_names(columns[column]) if column is not None and column in columns else np.zeros(0, np.str_)
    if (written != "").any():
        if named:
            raise ConfigError(f"the metadata column {column!r} names splits already: column=None divides anew")
        return _as_written(written, column)
    fixed = _fixed(named, by)
    match by:
        case "session" | "subject":
            groups, names = _grouped(_ids(columns, f"{by}_id"), fractions, seed, fixed, balanced=balanced)
            shown = [*fractions, *(name for name in named if name not in fractions)]
            found = Splits(*_gathered(names, shown, {}), _counted(groups, shown))
        case "trial":
            found = _by_trial(columns, fractions, seed, purge, balanced=balanced)
        case "time":
            found = _by_time(columns, fractions, purge)
        case _:
            raise ConfigError(f"by={by!r}; choose session, subject, trial or time")
    _check_filled(found, by, fractions, balanced=balanced)
    return _with_shares(found, by, fractions, balanced=balanced)


def _with_shares(found: Splits, by: str, fractions: Mapping[str, float], *, balanced: bool) -> Splits:
    """Note what was asked for, and where the shares are far from it."""
    off = shares_off(found.counts(), fractions, by, balanced=balanced)
    return replace(found, fractions=dict(fractions), notes=(*found.notes, off) if off else found.notes)


def groups_of(columns: Columns, by: SplitBy, splits: Mapping[str, Rows]) -> dict[str, list[str]]:
    """Return the sessions or subjects that each split has.

    Raises
    ------
    ConfigError
        A session or subject is in several splits, or ``by`` is neither.
    """
    if by not in ("session", "subject"):
        raise ConfigError(f"splits are extended by whole sessions or subjects, not by {by}")
    ids = _ids(columns, f"{by}_id")
    found = {name: np.unique(ids[rows]).tolist() for name, rows in splits.items()}
    owners: dict[str, str] = {}
    for name, groups in found.items():
        for group in groups:
            if owners.setdefault(group, name) != name:
                raise ConfigError(f"{by} {group!r} is in {owners[group]} and in {name}: such splits cannot be extended")
    return found


def _fixed(named: Named, by: str) -> dict[str, str]:
    """Return the split of each group that is named."""
    if named and by not in ("session", "subject"):
        raise ConfigError(f"named= gives splits to sessions or subjects, not to what by={by!r} divides")
    pairs = [(str(each), name) for name, of in named.items() for each in ([of] if isinstance(of, str) else of)]
    fixed = dict(pairs)
    if len(fixed) < len(pairs):
        twice = sorted({group for group, name in pairs if (group, fixed[group]) != (group, name)} or fixed)
        raise ConfigError(f"named= gives {', '.join(map(repr, twice))} to a split more than once")
    return fixed


def _opened(data: Any) -> tuple[Columns, Manifest | None]:
    """Return metadata columns, and the manifest of a data set."""
    if isinstance(data, Mapping):
        return {name: np.asarray(values) for name, values in data.items()}, None
    if isinstance(data, (str, os.PathLike)):
        with ShardCollection.open(os.fspath(data)) as collection:
            return TableColumns(collection.metadata_table()), collection.manifest
    if isinstance(data, SampleCollection):
        return TableColumns(data.metadata_table()), data.manifest
    if isinstance(data, MetadataTable):
        return TableColumns(data), None
    raise ConfigError(
        f"split() takes a folder, an opened data set or a mapping of metadata columns, not {type(data).__name__}; of a "
        "ShardDataset, give its .collection"
    )


def check_subjects(columns: Columns, manifest: Manifest | None) -> str:
    """Refuse to split by subject where the manifest says that sessions name none; return of which it may be true.

    Raises
    ------
    ConfigError
        Listing them.
    """
    sources = (manifest.sources if manifest is not None else ()) or _sources_of(columns)
    unknown = {str(each.get("session_id")) for each in sources if (each.get("facts") or {}).get("subject_is_unknown")}
    if unknown:
        sessions = list(dict.fromkeys(map(str, _column(columns, "session_id").tolist())))
        remedy = "Convert them with subject_ids=FILE=ID or subject_template"
        check_subjects_are_known([name for name in sessions if name in unknown], len(sessions), remedy)
    return subjects_in_doubt(sources)


def _sources_of(columns: Columns) -> list[dict[str, Any]]:
    """Return what samples say of their sources, as a manifest does: one that was made anew of shards names none."""
    if not {"session_id", "subject_id"} <= set(columns):
        return []
    sessions, subjects = (columns[name].tolist() for name in ("session_id", "subject_id"))
    files = columns["source_file"].tolist() if "source_file" in columns else [""] * len(sessions)
    different = dict.fromkeys((str(a), str(b), str(c)) for a, b, c in zip(sessions, subjects, files, strict=True))
    return [{"session_id": a, "facts": {"subject_id": b}, "files": [c]} for a, b, c in different]


def _check_fractions(fractions: Mapping[str, float]) -> None:
    if not (fractions and min(fractions.values()) >= 0 and abs(sum(fractions.values()) - 1) <= 1e-6):
        raise ConfigError(f"fractions={dict(fractions)} must be non-negative and add up to 1")


def _check_filled(found: Splits, by: str, fractions: Mapping[str, float], *, balanced: bool) -> None:
    empty = [name for name, share in fractions.items() if share > 0 and not len(found.rows[name])]
    if empty:
        remedy = "a smaller purge, " if by == "time" else "" if balanced else "balanced=True, another seed, "
        raise ConfigError(
            f"split by {by} leaves {' and '.join(empty)} empty ({_told('groups', found.groups)}; "
            f"{_told('samples dropped', found.dropped)}): use {remedy}other fractions, or split by something finer"
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
        raise ConfigError(f"cannot split: {counted(missing, 'sample')} without {name}; split by something else")
    return np.array([str(value) for value in values], dtype=np.str_)


def _as_written(named: npt.NDArray[np.str_], column: str | None) -> Splits:
    """Take the splits that the metadata names."""
    rows = {name: np.flatnonzero(named == name).astype(np.int64) for name in np.unique(named).tolist() if name}
    left = int((named == "").sum())
    note = f"taken from the metadata column {column!r}; column=None divides anew"
    return Splits(rows, {"in no split": left} if left else {}, {}, (note,))


def _grouped(
    ids: npt.NDArray[np.str_],
    fractions: Mapping[str, float],
    seed: int,
    fixed: Mapping[str, str],
    *,
    balanced: bool,
) -> tuple[dict[str, str], npt.NDArray[Any]]:
    """Return each group's split, and each sample's."""
    distinct, group, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    names = distinct.tolist()
    unknown = sorted(set(fixed).difference(names))
    if unknown:
        raise ConfigError(f"cannot split: {unknown_name('group', unknown[0], names)}")
    if balanced:
        of = divide(dict(zip(names, sizes.tolist(), strict=True)), fractions, seed, fixed)
    else:
        of = {each: fixed.get(each) or split_of(each, fractions, seed) for each in names}
    return of, np.array([of[each] for each in names], dtype=object)[group.reshape(-1)]


def _counted(of: Mapping[str, str], names: Iterable[str]) -> dict[str, int]:
    return {name: sum(each == name for each in of.values()) for name in names}


def _gathered(
    names: npt.NDArray[Any], wanted: Iterable[str], dropped: dict[str, int]
) -> tuple[dict[str, Rows], dict[str, int]]:
    return {name: np.flatnonzero(names == name).astype(np.int64) for name in wanted}, {
        reason: count for reason, count in dropped.items() if count
    }


def _by_trial(columns: Columns, fractions: Mapping[str, float], seed: int, purge: float, *, balanced: bool) -> Splits:
    sessions, trials = _ids(columns, "session_id"), _column(columns, "trial")
    inside = np.array([value is not None and value == value and value != -1 for value in trials.tolist()])  # noqa: PLR0124
    ids = np.array(
        [f"{s}\0{_whole_or_same(t)}" for s, t in zip(sessions[inside].tolist(), trials[inside].tolist(), strict=True)],
        dtype=np.str_,
    )
    of, of_samples = _grouped(ids, fractions, seed, {}, balanced=balanced)
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


def _whole_or_same(value: Any) -> Any:
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
