"""What windows a data set of recordings gives with some options: found once, kept beside the data or in the cache.

So are their statistics, of those that train, column by column, when they are asked for.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from neurofm_shards._typing import Ints
from neurofm_shards.blocks import RowBase, add_rows
from neurofm_shards.convert.agreement import agreed_columns, modalities_of
from neurofm_shards.convert.tasks import by_split
from neurofm_shards.errors import FormatError, NeurofmShardsError, NothingToConvertError
from neurofm_shards.events import ModalityMasked, notes
from neurofm_shards.format.files import SIDECAR_DIR
from neurofm_shards.format.index_io import cache_folder
from neurofm_shards.format.sidecar import Arrays, read_arrays, write_arrays
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.reading.samples import SampleCollection
from neurofm_shards.recordings.group_splits import check_subjects_are_known, divide_recordings, shares_off
from neurofm_shards.recordings.options import SplitOptions, WindowOptions
from neurofm_shards.recordings.windowing import RecordingSamples, windowed
from neurofm_shards.recordings.windows import Cut
from neurofm_shards.stored.recording import Held, StoredRecording, held
from neurofm_shards.types import Block, ColumnSpec
from neurofm_shards.writing.statistics import (
    COUNTED_SPLITS,
    ChannelStats,
    SessionStats,
    block_statistics,
    is_quantity,
    manifest_statistics,
    merged,
)

#: Raised when other windows would be found with the same options in the same data.
PLAN_VERSION = 4
_LOG = logging.getLogger("neurofm_shards.loading")
_PLACES = ("starts", "stops", "latest")
_VALUES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class WindowPlan:
    """The windows of a data set.

    Attributes
    ----------
    recordings : tuple of Held
        The recording of each group of windows: those that give any, in the data set's order, once for each length.
    kinds : numpy.ndarray of int64, shape (groups,)
        Which of the options each group was cut with.
    splits : tuple of str
        The split of each group, where it follows from all of them; empty where windows are divided otherwise, or not.
    runs : numpy.ndarray of int64, shape (runs, 3)
        Which windows follow one another: number of the group, first of its windows, how many. Group by group, or split
        by split where there are splits, as conversion has it.
    starts, stops, latest : numpy.ndarray of int64, shape (windows,)
        Where each window lies, in ticks of its recording, and until when it could start; see
        :class:`~neurofm_shards.recordings.windows.Cut`.
    columns : tuple of ColumnSpec
        Of all together; an axis that differs is None.
    bases : tuple of mapping of str to RowBase
        Where the rows of each group's recording stand in each side table.
    tables : mapping of str to int
        Rows of each side table.
    drops : mapping of str to int
        Windows left out, by reason.
    others : tuple of tuple of str
        The modalities that each group's windows have, present or masked, where its recording lacks any that others
        have; else empty.
    """

    recordings: tuple[Held, ...]
    kinds: Ints
    splits: tuple[str, ...]
    runs: Ints
    starts: Ints
    stops: Ints
    latest: Ints
    columns: tuple[ColumnSpec, ...]
    bases: tuple[Mapping[str, RowBase], ...]
    tables: Mapping[str, int]
    drops: Mapping[str, int]
    others: tuple[tuple[str, ...], ...]

    @property
    def first_of_recordings(self) -> list[int]:
        """The first group of each recording."""
        sessions = [recording.session_id for recording in self.recordings]
        return [i for i, session in enumerate(sessions) if i == 0 or session != sessions[i - 1]]


def open_samples(
    collection: ShardCollection, recording: Held, options: WindowOptions, split: str = "", others: Sequence[str] = ()
) -> RecordingSamples:
    """Return the windows of one recording, all of them in one split where it is named (raises NeurofmShardsError)."""
    try:
        samples = windowed(StoredRecording(collection, recording), options, others)
    except NeurofmShardsError as error:
        text = str(error)
        raise error if recording.session_id in text else type(error)(f"{recording.session_id}: {text}") from error
    return samples.in_split(split) if split else samples


def window_identity(collection: ShardCollection, cuts: Sequence[WindowOptions], num_shards: int | None = None) -> str:
    """Return the identity of the windows of a data set, or of its first shards: data, options, version."""
    data = collection.fingerprint if num_shards is None else collection.prefix_fingerprint(num_shards)
    said = " ".join(options.model_dump_json() for options in cuts)
    return xxhash.xxh3_128_hexdigest(f"{data} {PLAN_VERSION} {said}".encode())


def window_plan(collection: ShardCollection, cuts: Sequence[WindowOptions]) -> WindowPlan:
    """Find the windows of a data set, cut with each of these options, or read what was found before.

    Raises
    ------
    NothingToConvertError
        No recording gives a window.
    ConfigError
        The recordings give different columns, or the data set stores no recordings.
    """
    kept = Kept(collection.catalog.folder, window_identity(collection, cuts), "plan")
    found = kept.read()
    plan = None if found is None else _parsed(*found, len(cuts), collection.num_samples)
    if plan is None:
        plan = _find(collection, cuts)
        kept.write(*_stored(plan))
    return plan


@dataclass(frozen=True)
class _Group:
    recording: Held
    kind: int
    cut: Cut
    splits: tuple[tuple[str, int], ...]
    columns: tuple[ColumnSpec, ...]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    subject_id: str
    subject_is_known: bool
    others: tuple[str, ...]
    split: str = ""


def _find(collection: ShardCollection, cuts: Sequence[WindowOptions]) -> WindowPlan:
    split = cuts[0].split
    groups, drops = _cut(collection, cuts)
    _check_all_give(collection, cuts, groups, drops)
    _check_subjects(groups, split)
    groups = _with_splits(groups, split)
    _warn_of_shares(groups, split)
    runs = _runs(groups, split)
    starts, stops, latest = (
        np.concatenate([getattr(groups[i].cut, name)[first:stop] for i, first, stop in runs]) for name in _PLACES
    )
    bases, tables = _numbered(groups)
    return WindowPlan(
        recordings=tuple(group.recording for group in groups),
        kinds=np.array([group.kind for group in groups], dtype=np.int64),
        splits=tuple(group.split for group in groups),
        runs=np.array([(i, first, stop - first) for i, first, stop in runs], dtype=np.int64),
        starts=starts,
        stops=stops,
        latest=latest,
        columns=agreed_columns([(group.recording.session_id, group.columns) for group in groups]),
        bases=tuple(bases),
        tables=tables,
        drops=dict(drops),
        others=tuple(group.others for group in groups),
    )


def _cut(collection: ShardCollection, cuts: Sequence[WindowOptions]) -> tuple[list[_Group], Counter[str]]:
    """Cut each recording with each of the options; return the groups that are not empty, and windows left out."""
    recordings = held(collection)
    found = [_cut_one(collection, recording, cuts) for recording in recordings]
    if cuts[0].modalities is None:
        giving = [modalities_of(chain.from_iterable(group.columns for group in groups)) for groups, _ in found]
        every = tuple(sorted({name for names in giving for name in names}))
        lacking = [i for i, names in enumerate(giving) if names and len(names) < len(every)]
        for i in lacking:
            found[i] = _cut_one(collection, recordings[i], cuts, every)
        _warn_of_masks([(recordings[i].session_id, giving[i]) for i in lacking], every, sum(map(bool, giving)))
    drops: Counter[str] = Counter()
    for _, own in found:
        drops.update(own)
    return [group for groups, _ in found for group in groups], drops


def _cut_one(
    collection: ShardCollection, recording: Held, cuts: Sequence[WindowOptions], others: tuple[str, ...] = ()
) -> tuple[list[_Group], Counter[str]]:
    """Cut one recording with each of the options; modalities of ``others`` that it lacks are empty and masked."""
    groups: list[_Group] = []
    drops: Counter[str] = Counter()
    for kind, options in enumerate(cuts):
        samples = open_samples(collection, recording, options, others=others)
        plan = samples.plan()
        drops.update(plan.drops)
        if plan.num_samples:
            whose = str(plan.metadata["subject_id"]), not plan.metadata.get("subject_is_unknown", False)
            groups.append(_Group(recording, kind, samples.cut, plan.splits, plan.columns, plan.tables, *whose, others))
    return groups, drops


def _warn_of_masks(lacking: Sequence[tuple[str, Sequence[str]]], every: Sequence[str], total: int) -> None:
    """Say which recordings have empty, masked columns for want of a modality that others have."""
    for name in every:
        without = tuple(session for session, names in lacking if name not in names)
        for note in notes(ModalityMasked(name, without, total)) if without else ():
            _LOG.warning("%s", note.text)


def _runs(groups: Sequence[_Group], split: SplitOptions | None) -> list[tuple[int, int, int]]:
    """Return group, first window and end of each run of windows, in the order of conversion."""
    windows = [(i, 0, len(group.cut)) for i, group in enumerate(groups)]
    splits = dict(enumerate(group.splits for group in groups))
    return list(chain.from_iterable(by_split(windows, splits, split.names if split is not None else [])))


def _check_subjects(groups: Sequence[_Group], split: SplitOptions | None) -> None:
    """Refuse a split by subject of recordings that name none."""
    if split is None or split.by != "subject":
        return
    sessions = {group.recording.session_id: group.subject_is_known for group in groups}
    unknown = [session for session, is_known in sessions.items() if not is_known]
    check_subjects_are_known(unknown, len(sessions), "Store them with subject_ids=FILE=ID or subject_template")


def _with_splits(groups: Sequence[_Group], split: SplitOptions | None) -> list[_Group]:
    """Put groups into splits as conversion does, session by session or subject by subject."""
    if split is None or not split.needs_all:
        return list(groups)
    names = [group.recording.session_id if split.by == "session" else group.subject_id for group in groups]
    of = divide_recordings(split, names, [len(group.cut) for group in groups])
    return [
        replace(group, split=name, splits=((name, len(group.cut)),)) for group, name in zip(groups, of, strict=True)
    ]


def _warn_of_shares(groups: Sequence[_Group], split: SplitOptions | None) -> None:
    counts: Counter[str] = Counter()
    for name, count in chain.from_iterable(group.splits for group in groups):
        counts[name] += count
    if split is not None and (off := shares_off(counts, split.fractions, split.by, balanced=split.balanced)):
        _LOG.warning("split by %s: %s", split.by, off)


def _check_all_give(
    collection: ShardCollection, cuts: Sequence[WindowOptions], groups: Sequence[_Group], drops: Mapping[str, int]
) -> None:
    """Refuse options of which some give nothing."""
    empty = [options for kind, options in enumerate(cuts) if all(group.kind != kind for group in groups)]
    if not empty:
        return
    which = f" of {', '.join(str(options.window_bins) for options in empty)} bins" if len(cuts) > 1 else ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in drops.items())
    raise NothingToConvertError(f"{collection.catalog.folder} gives no windows{which} (dropped: {reasons or 'none'})")


def _numbered(groups: Sequence[_Group]) -> tuple[list[dict[str, RowBase]], dict[str, int]]:
    """Return where the rows of each group's recording stand in each side table, and how many rows each table has."""
    bases: list[dict[str, RowBase]] = []
    tables: dict[str, list[Mapping[str, Any]]] = {}
    for i, group in enumerate(groups):
        if i and groups[i - 1].recording is group.recording:
            bases.append(bases[-1])
            continue
        bases.append({name: add_rows(name, tables.setdefault(name, []), rows) for name, rows in group.tables.items()})
    return bases, {name: len(rows) for name, rows in tables.items()}


def _stored(plan: WindowPlan) -> tuple[dict[str, Any], Arrays]:
    """Return a plan as it is kept."""
    header = {
        "sessions": [recording.session_id for recording in plan.recordings],
        "shards": [list(recording.shards) for recording in plan.recordings],
        "columns": [[s.name, s.dtype, _listed(s.shape), s.unit, s.table] for s in plan.columns],
        "bases": [dict(base) for base in plan.bases],
        "tables": dict(plan.tables),
        "drops": dict(plan.drops),
        "splits": list(plan.splits),
        "others": [list(names) for names in plan.others],
    }
    rows = np.concatenate([recording.rows for recording in plan.recordings])
    pieces = np.array([len(recording.rows) for recording in plan.recordings], dtype=np.int64)
    arrays = {
        "kinds": plan.kinds,
        "runs": plan.runs,
        "rows": rows,
        "pieces": pieces,
        **{name: getattr(plan, name) for name in _PLACES},
    }
    return header, arrays


def _listed(shape: tuple[int | None, ...] | None) -> list[int | None] | None:
    return None if shape is None else list(shape)


def _parsed(header: Mapping[str, Any], arrays: Arrays, cuts: int, pieces: int) -> WindowPlan | None:
    """Undo :func:`_stored`; None where what was kept is damaged: it is found anew then."""
    try:
        return _plan(header, arrays, cuts, pieces)
    except (KeyError, TypeError, ValueError):
        return None


def _plan(header: Mapping[str, Any], arrays: Arrays, cuts: int, pieces: int) -> WindowPlan:
    edges = np.cumsum(arrays["pieces"])[:-1]
    rows: Sequence[Ints] = np.split(arrays["rows"].astype(np.int64), edges)
    recordings = tuple(
        Held(str(session), mine, tuple(shards))
        for session, mine, shards in zip(header["sessions"], rows, header["shards"], strict=True)
    )
    columns = tuple(
        ColumnSpec(name, dtype, None if shape is None else tuple(shape), unit, table)
        for name, dtype, shape, unit, table in header["columns"]
    )
    kinds, runs = arrays["kinds"].astype(np.int64), arrays["runs"].astype(np.int64).reshape(-1, 3)
    starts, stops, latest = (arrays[name].astype(np.int64) for name in _PLACES)
    lengths = {len(starts), len(stops), len(latest)}
    splits = tuple(map(str, header["splits"]))
    others = tuple(tuple(map(str, names)) for names in header["others"])
    groups = {len(kinds), len(splits), len(np.unique(runs[:, 0])), len(header["bases"]), len(others)}
    named = ((arrays["rows"], pieces), (kinds, cuts), (runs[:, 0], len(recordings)))
    inside = all(((numbers >= 0) & (numbers < limit)).all() for numbers, limit in named)
    if groups != {len(recordings)} or lengths != {int(runs[:, 2].sum())} or not inside:
        raise ValueError("a plan of windows is damaged")
    return WindowPlan(
        recordings,
        kinds,
        splits,
        runs,
        starts,
        stops,
        latest,
        columns,
        tuple(header["bases"]),
        header["tables"],
        header["drops"],
        others,
    )


class Kept:
    """One thing that was found out about windows: beside the data, or in the user's cache if that cannot be written.

    Parameters
    ----------
    folder : path
        The data set.
    mark : str
        Identity of the windows it belongs to.
    what : str
        Kind of thing; the end of the file's name.
    """

    def __init__(self, folder: Path, mark: str, what: str) -> None:
        self._mark = {"kind": f"windows {what}", "mark": mark}
        self._places = [top / "windows" / f"{mark}.{what}" for top in (folder / SIDECAR_DIR, cache_folder())]

    def read(self) -> tuple[dict[str, Any], Arrays] | None:
        """Return the kept header and arrays; None where they are missing or damaged, and are made again."""
        for place in self._places:
            if not os.path.exists(place):  # noqa: PTH110  (Path raises where a folder above may not be searched)
                continue
            try:
                header, arrays = read_arrays(place)
            except (OSError, FormatError):
                continue
            if self._mark.items() <= header.items():
                return header, arrays
        return None

    def write(self, header: Mapping[str, Any], arrays: Arrays) -> None:
        """Keep it in the first place that can be written; nowhere, it is found again each time."""
        for place in self._places:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                write_arrays(place, {**header, **self._mark}, arrays)
            except OSError:
                continue
            return


def training_statistics(windows: SampleCollection, columns: Sequence[str]) -> dict[str, Any]:
    """Return statistics of some columns as in a manifest: of windows in the split ``train``, or in none.

    A column that nobody asked for before is read once.
    """
    total: SessionStats = {}
    for name in columns:
        if windows.columns[name].table is None:
            total |= _column(windows, name)
    table = windows.metadata_table()
    return manifest_statistics(total, split=any(table.codes("split")[1]))


def _column(windows: SampleCollection, name: str) -> SessionStats:
    kept = Kept(windows.catalog.folder, windows.fingerprint, f"{name}.statistics")
    found = kept.read()
    if found is not None:
        return {(session, name): ChannelStats.from_json(said) for session, said in found[0]["sessions"].items()}
    stats = merged(_parts(windows, name))
    kept.write({"sessions": {session: said.to_json() for (session, _), said in stats.items()}}, {})
    return stats


def _parts(windows: SampleCollection, name: str) -> Iterator[SessionStats]:
    sessions, codes = windows.metadata_table().values("session_id"), windows.metadata_table().values("split")
    counted = np.flatnonzero(np.isin(codes.astype(str), COUNTED_SPLITS))
    for rows in _batches(windows, name, counted):
        data = windows.gather(rows, [name])[name]
        if is_quantity(data):
            said = [{"session_id": sessions[row]} for row in rows.tolist()]
            yield block_statistics(Block({name: data}, said), [name])


def _batches(windows: SampleCollection, name: str, rows: Ints) -> list[Ints]:
    """Cut rows into batches of few enough values."""
    shape = windows.columns[name].shape or ()
    each = int(np.prod([length or 1 for length in shape], dtype=np.int64))
    step = max(1, min(1000, _VALUES_AT_ONCE // max(1, each)))
    return [rows[first : first + step] for first in range(0, len(rows), step)]
