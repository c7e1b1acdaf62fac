"""Facts about a data set, from its manifest, indexes and metadata table; no sample is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import FormatError
from neurofm_shards.format.manifest import Manifest, held_shares, valid_shares
from neurofm_shards.format.sessions import SessionSummary, session_summaries
from neurofm_shards.loading.datasets import ShardDataset
from neurofm_shards.loading.subsets import saved_splits
from neurofm_shards.stored.windows import WindowCollection
from neurofm_shards.types import SourcePlan
from neurofm_shards.values import sorted_unique, to_json
from neurofm_shards_report.views import known_of

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Name of the split of samples that belong to none.
NO_SPLIT = "(no split)"


@dataclass(frozen=True)
class Labels:
    """A text for each sample, as numbers of distinct texts.

    Attributes
    ----------
    codes : numpy.ndarray of int64, shape (n,)
        Number of each sample's text in ``names``.
    names : list of str
        The distinct texts.
    """

    codes: Ints
    names: list[str]

    @property
    def are_known(self) -> bool:
        """Whether any sample has a text."""
        return any(self.names)

    def counts(self) -> dict[str, int]:
        """Return the number of samples of each text, in order of appearance."""
        found = np.bincount(self.codes, minlength=len(self.names)).tolist()
        return dict(zip(self.names, found, strict=True))


@dataclass(frozen=True)
class Session:
    """One session of a data set.

    Attributes
    ----------
    summary : SessionSummary
        What the manifest says, with subject, samples and splits counted from the samples.
    covered_s : float or None
        Seconds that lie in at least one window.
    """

    summary: SessionSummary
    covered_s: float | None = None


@dataclass(frozen=True)
class ProblemGroup:
    """The same problem in one place or in many.

    Attributes
    ----------
    severity, what, consequence : str
        As the source said.
    where : list of str
        Places, each once.
    sources : int
        Inputs that have it.
    """

    severity: str
    what: str
    consequence: str
    where: list[str]
    sources: int


class DatasetFacts:
    """What the manifest and the metadata table say of a data set.

    Parameters
    ----------
    path : path-like
        A folder of shards, or one shard.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.dataset = _opened(path)
        self.collection = self.dataset.collection
        self.num_samples = self.collection.num_samples
        self.sessions_of = self._labels("session_id", self.num_samples)
        self.splits_of = self._saved() or self._labels("split", self.num_samples, missing=NO_SPLIT)
        self.subjects_of = self._labels("subject_id", self.num_samples)
        self.start, self.stop = self._times()
        self.sessions = self._sessions()

    @property
    def manifest(self) -> Manifest | None:
        """The manifest; None for shards from elsewhere."""
        return self.collection.manifest

    @property
    def stores_recordings(self) -> bool:
        """Whether the samples are windows that are cut when they are read."""
        return self.manifest is not None and self.manifest.config.get("layout") == "recordings"

    @property
    def has_splits(self) -> bool:
        """Whether samples belong to splits."""
        return self.splits_of.names != [NO_SPLIT]

    @cached_property
    def known(self) -> dict[str, Any]:
        """What the data set tells of its samples, see :func:`~neurofm_shards_report.views.known_of`."""
        return known_of(self.collection)

    def table(self, name: str) -> Sequence[Mapping[str, Any]]:
        """Return a side table; no rows where there is none."""
        rows: Sequence[Mapping[str, Any]] = self.known["tables"].get(name, ())
        return rows

    def drops(self) -> dict[str, int]:
        """Return the windows left out of all sessions, by reason, most frequent first."""
        total: Counter[str] = Counter()
        told = [session.summary.drops for session in self.sessions]
        for drops in [self.collection.plan.drops] if isinstance(self.collection, WindowCollection) else told:
            total.update(drops)
        return dict(total.most_common())

    def split_of(self, row: int) -> str:
        """Return the split of a sample; empty where it is in none."""
        name = self.splits_of.names[int(self.splits_of.codes[row])]
        return "" if name == NO_SPLIT else name

    def valid_windows(self) -> dict[str, float]:
        """Return in which share of all windows each modality is there and valid throughout, as conversion counted."""
        valid: dict[str, float] = {}
        windows = 0
        for source in self.source_facts():
            count = source.get("num_samples") or 0
            windows += count
            for name, share in held_shares(source.get("facts") or {}).items():
                valid[name] = valid.get(name, 0.0) + share * count
        return {name: share / windows for name, share in valid.items() if windows}

    def source_facts(self) -> list[dict[str, Any]]:
        """Return what the sources say of themselves; of stored recordings, with what cutting their windows tells."""
        return self._sources

    @cached_property
    def _sources(self) -> list[dict[str, Any]]:
        told = [] if self.manifest is None else [dict(source) for source in self.manifest.sources]
        if not isinstance(self.collection, WindowCollection):
            return told
        cut = {session: _of_plan(plan) for session, plan in self.collection.source_plans()}
        return [{**source, **cut.get(str(source.get("session_id")), {"num_samples": 0})} for source in told]

    def problems(self) -> list[ProblemGroup]:
        """Return the problems of all inputs, equal ones together, the gravest first."""
        found: dict[tuple[str, str, str], tuple[dict[str, None], set[int]]] = {}
        for number, source in enumerate(self.source_facts()):
            for problem in source.get("problems") or ():
                kind = (str(problem["severity"]), str(problem["what"]), str(problem["consequence"]))
                places, sources = found.setdefault(kind, ({}, set()))
                places[str(problem["where"])] = None
                sources.add(number)
        order = ("error", "warning", "info")
        groups = [ProblemGroup(*kind, list(places), len(sources)) for kind, (places, sources) in found.items()]
        return sorted(groups, key=lambda group: (order.index(group.severity), -group.sources))

    def leaks(self) -> list[dict[str, Any]]:
        """Return the pairs of splits with windows that overlap in time, or that share sessions or subjects."""
        names = [name for name in self.splits_of.names if name != NO_SPLIT]
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        return [self._leak(a, b) for a, b in pairs]

    def _leak(self, a: str, b: str) -> dict[str, Any]:
        in_a, in_b = (self.splits_of.codes == self.splits_of.names.index(name) for name in (a, b))
        return {
            "splits": (a, b),
            "sessions": _shared(self.sessions_of, in_a, in_b),
            "subjects": _shared(self.subjects_of, in_a, in_b),
            "overlapping": self._overlapping(in_a, in_b),
        }

    def _overlapping(self, in_a: npt.NDArray[np.bool_], in_b: npt.NDArray[np.bool_]) -> int | None:
        """Return how many windows of one share time with one of the other; None where times are unknown."""
        if self.start is None or self.stop is None:
            return None
        start, stop = self._on_one_axis(self.start, self.stop)
        return _touching(start, stop, in_a, in_b) + _touching(start, stop, in_b, in_a)

    def _on_one_axis(self, start: Floats, stop: Floats) -> tuple[Floats, Floats]:
        """Put the sessions one behind the other in time, so that one pass looks at all of them."""
        codes, count = self.sessions_of.codes, len(self.sessions_of.names)
        first, last = np.full(count, np.inf), np.full(count, -np.inf)
        np.minimum.at(first, codes, start)
        np.maximum.at(last, codes, stop)
        ends = np.cumsum(last - first + 1.0)
        shift = np.concatenate([[0.0], ends[:-1]]) - first
        return start + shift[codes], stop + shift[codes]

    def valid_by_session(self) -> dict[str, dict[str, float]]:
        """Return the share of each session's windows in which each modality is valid throughout."""
        found: dict[str, list[tuple[Mapping[str, Any], int]]] = {}
        for source in self.source_facts():
            counted = (source.get("facts") or {}, source.get("num_samples") or 0)
            found.setdefault(str(source.get("session_id") or ""), []).append(counted)
        return {name: valid_shares(inputs) for name, inputs in found.items()}

    def _saved(self) -> Labels | None:
        """Return the splits that were saved with the data set, which come before those that the metadata names."""
        saved = {} if isinstance(self.collection, WindowCollection) else saved_splits(self.collection)
        if not saved:
            return None
        codes = np.full(self.num_samples, len(saved), np.int64)
        for number, rows in enumerate(saved.values()):
            codes[rows] = number
        return Labels(codes, [*saved, *([NO_SPLIT] if bool((codes == len(saved)).any()) else [])])

    def _labels(self, name: str, count: int, missing: str = "") -> Labels:
        table = self.collection.metadata_table()
        if name not in table.names:
            return Labels(np.zeros(count, np.int64), [missing])
        codes, names = table.codes(name)
        codes = np.asarray(codes, np.int64)
        if bool((codes < 0).any()):
            codes, names = np.where(codes < 0, len(names), codes), [*names, missing]
        return Labels(codes, [text or missing for text in names])

    def _times(self) -> tuple[Floats | None, Floats | None]:
        table = self.collection.metadata_table()
        if not {"window_start_s", "window_stop_s"} <= set(table.names):
            return None, None
        start, stop = (np.asarray(table.values(name), np.float64) for name in ("window_start_s", "window_stop_s"))
        return (start, stop) if bool((np.isfinite(start) & np.isfinite(stop)).all()) else (None, None)

    def _sessions(self) -> list[Session]:
        counted = self._split_counts()
        covered = self._covered()
        subjects = self._subject_of_sessions()
        said = {each.name: each for each in self._summaries()}
        found = []
        for number, name in enumerate(self.sessions_of.names):
            by_split = dict(zip(self.splits_of.names, counted[number].tolist(), strict=True))
            splits = {split: count for split, count in by_split.items() if count}
            summary = replace(
                said.get(name, SessionSummary(name)), subject=subjects[number], splits=splits,
                samples=int(counted[number].sum()),
            )  # fmt: skip
            found.append(Session(summary, None if covered is None else float(covered[number])))
        return found

    def _summaries(self) -> list[SessionSummary]:
        if self.manifest is None:
            return []
        told = {"sources": self.source_facts(), "total_samples": self.num_samples}
        return session_summaries(self.manifest.model_copy(update=told))

    def _split_counts(self) -> Ints:
        sessions, splits = len(self.sessions_of.names), len(self.splits_of.names)
        flat = np.bincount(self.sessions_of.codes * splits + self.splits_of.codes, minlength=sessions * splits)
        return flat.reshape(sessions, splits)

    def _subject_of_sessions(self) -> list[str]:
        found = np.full(len(self.sessions_of.names), -1, np.int64)
        found[self.sessions_of.codes] = self.subjects_of.codes
        return [self.subjects_of.names[code] if code >= 0 else "" for code in found.tolist()]

    def _covered(self) -> Floats | None:
        """Return the seconds of each session that lie in at least one window."""
        if self.start is None or self.stop is None:
            return None
        start, stop = self._on_one_axis(self.start, self.stop)
        order = np.argsort(start, kind="stable")
        start, stop, codes = start[order], stop[order], self.sessions_of.codes[order]
        reached = np.concatenate([[-np.inf], np.maximum.accumulate(stop)[:-1]]) if len(stop) else stop
        added = np.maximum(0.0, stop - np.maximum(start, reached))
        return np.bincount(codes, added, len(self.sessions_of.names)).astype(np.float64)


def _of_plan(plan: SourcePlan) -> dict[str, Any]:
    """Return what the manifest would say of a recording, had its windows been converted."""
    return {
        "num_samples": plan.num_samples,
        "drops": dict(plan.drops),
        "problems": [to_json(problem.as_dict()) for problem in plan.problems],
        "tables": {name: [0, len(rows)] for name, rows in plan.tables.items()},
        "facts": to_json(dict(plan.metadata)),
    }


def _opened(path: str | os.PathLike[str]) -> ShardDataset:
    """Open a data set; stored recordings as the windows that loaders cut unless told otherwise."""
    dataset = ShardDataset(path, counts="stored")
    manifest = dataset.collection.manifest
    if manifest is None or manifest.config.get("layout") != "recordings":
        return dataset
    dataset.close()
    return ShardDataset(path, counts="stored", windows={})


def _shared(labels: Labels, in_a: npt.NDArray[np.bool_], in_b: npt.NDArray[np.bool_]) -> list[str]:
    both = np.intersect1d(labels.codes[in_a], labels.codes[in_b])
    return [labels.names[code] for code in both.tolist() if labels.names[code]]


def _touching(start: Floats, stop: Floats, of: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_]) -> int:
    """Return how many windows of one set share time with a window of another set that starts no later."""
    first, last = start[others], stop[others]
    order = np.argsort(first, kind="stable")
    first, reached = first[order], np.maximum.accumulate(last[order]) if len(last) else last
    at = np.searchsorted(first, start[of], side="right") - 1
    found = at >= 0
    return int((reached[at[found]] > start[of][found] + 1e-9).sum())


def drawn_rows(facts: DatasetFacts, number: int) -> Ints:
    """Return rows that represent the data set: some of every split, spread evenly over sessions and time."""
    number = min(number, facts.num_samples)
    counts = np.array(list(facts.splits_of.counts().values()))
    present = counts > 0
    shares = np.maximum(np.floor(counts / max(1, counts.sum()) * number), present).astype(np.int64)
    while shares.sum() < number:
        shares[int(np.argmax(np.where(shares < counts, counts / np.maximum(shares, 1), -1)))] += 1
    rows = []
    for code, share in enumerate(shares.tolist()):
        own = np.flatnonzero(facts.splits_of.codes == code)
        rows.append(
            own[np.linspace(0, len(own) - 1, min(share, len(own))).round().astype(np.int64)] if share else own[:0]
        )
    return sorted_unique(np.concatenate(rows))


def open_facts(path: str | os.PathLike[str]) -> DatasetFacts:
    """Open a data set for a report.

    Raises
    ------
    FormatError
        It is damaged.
    NoShardsError, InputNotFoundError
        There are no shards.
    """
    facts = DatasetFacts(path)
    if facts.num_samples == 0:
        raise FormatError(f"{facts.path}: the data set holds no samples, so there is nothing to draw")
    return facts
