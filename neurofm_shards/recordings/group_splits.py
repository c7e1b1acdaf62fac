"""Which split a session, subject or trial belongs to: by name, by the sizes of all of them, or by a hash of its id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from neurofm_shards._typing import Ints
from neurofm_shards._wording import listed
from neurofm_shards.errors import ConfigError
from neurofm_shards.recordings.options import SplitOptions

#: Ways to divide groups that are all tried, where there are no more; else as many groups at a time as give fewer.
_ALL_TRIED = 1 << 20
_TRIED_AT_A_TIME = 1 << 13
#: How often other groups are tried, in all and in a row without gain.
_ROUNDS = 400
_ROUNDS_WITHOUT_GAIN = 80
#: Hashes that decide which groups are tried; where groups are so many that these are used up, a few at random are.
_HASHED = 1_000_000
#: A split whose share is further from what was asked for is warned of.
_OFF = 0.05 + 1e-9
#: Sessions that a message lists.
_LISTED = 20


def group_hash(identity: str, seed: int) -> int:
    """Return XXH3 (64 bit) of ``seed NUL identity`` as UTF-8. Never to be changed: splits of old data depend on it."""
    return xxhash.xxh3_64_intdigest(f"{seed}\0{identity}".encode())


def split_of(identity: str, fractions: Mapping[str, float], seed: int) -> str:
    """Return the split of a session, subject or trial by its hash: adding others never moves it."""
    position = group_hash(identity, seed) / 2**64
    reached = 0.0
    for name, fraction in fractions.items():
        reached += fraction
        if position < reached:
            return name
    return next(name for name in reversed(list(fractions)) if fractions[name] > 0)


def share(options: SplitOptions, identity: str) -> str:
    """Return the split of a session, subject or trial as the options say, without regard to others."""
    return options.by_name.get(identity) or split_of(identity, options.fractions, options.seed)


def divide(
    sizes: Mapping[str, int], fractions: Mapping[str, float], seed: int, fixed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Divide groups so that each split has its fraction of the samples, as nearly as whole groups allow.

    The largest difference is made as small as can be, then the sum of them; no split stays empty where there are groups
    enough. Few groups are divided in the best of all ways, many in one that exchanging a few of them does not improve.

    Parameters
    ----------
    sizes : mapping of str to int
        Samples of each group.
    fractions : mapping of str to float
        Share of each split; they add up to 1.
    seed : int
        Decides between ways that are equally good, and where many groups begin.
    fixed : mapping of str to str, optional
        Groups whose split is known. Those in a split without a fraction do not count; others count for theirs.

    Returns
    -------
    dict of str to str
        The split of each group, fixed ones included.

    Examples
    --------
    >>> divide({"a": 60, "b": 20, "c": 20}, {"train": 0.8, "test": 0.2}, 0, {"b": "train"})
    {'a': 'train', 'b': 'train', 'c': 'test'}
    """
    known = {group: split for group, split in (fixed or {}).items() if group in sizes}
    names = [name for name, fraction in fractions.items() if fraction > 0]
    held = np.array([sum(sizes[group] for group, split in known.items() if split == name) for name in names])
    free = sorted((group for group in sizes if group not in known), key=lambda group: (group_hash(group, seed), group))
    weights = np.array([sizes[group] for group in free], dtype=np.int64)
    targets = np.array([fractions[name] for name in names]) * (held.sum() + weights.sum())
    places = _Division(weights, held.astype(np.int64), targets).places()
    known.update((group, names[place]) for group, place in zip(free, places.tolist(), strict=True))
    return {group: known[group] for group in sizes}


def divide_recordings(
    options: SplitOptions,
    groups: Sequence[str],
    counts: Sequence[int],
    held: Mapping[str, int] | None = None,
    fixed: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the split of each recording, as the sizes of all of them decide.

    Parameters
    ----------
    options : SplitOptions
        How samples are divided; it ``needs_all``.
    groups : sequence of str
        The session or subject of each recording.
    counts : sequence of int
        Samples of each recording.
    held, fixed : mapping, optional
        Samples and split of each session or subject that a data set holds already.
    """
    sizes = Counter(held or {})
    for group, count in zip(groups, counts, strict=True):
        sizes[group] += count
    of = divide(sizes, options.fractions, options.seed, {**options.by_name, **(fixed or {})})
    return [of[group] for group in groups]


def in_proportion(
    identity: str, names: Sequence[str], sizes: Ints, fractions: Mapping[str, float], seed: int
) -> list[str]:
    """Divide the trials of one session so that each split has its fraction of them, to within one trial.

    Trials stand in the order of their hashes, one behind the other; splits are stretches of that line, which begin
    where the session's hash says: what few trials leave over goes to other splits in other sessions. Other sessions
    need not be known, and move none.

    Parameters
    ----------
    identity : str
        The session.
    names : sequence of str
        What the trials are called, the session included.
    sizes : numpy.ndarray of int64, shape (trials,)
        What each counts.
    fractions : mapping of str to float
        Share of each split; they add up to 1.
    seed : int
        Decides the order and where splits begin.

    Returns
    -------
    list of str
        The split of each trial.
    """
    order = np.argsort(np.array([group_hash(name, seed) for name in names], dtype=np.uint64), kind="stable")
    weights = sizes[order].astype(np.float64) if sizes.any() else np.ones(len(order))
    middles = (np.cumsum(weights) - weights / 2) / weights.sum() if len(order) else weights
    positions = (middles + group_hash(identity, seed) / 2**64) % 1
    splits = [name for name, fraction in fractions.items() if fraction > 0]
    places = np.searchsorted(np.cumsum([fractions[name] for name in splits])[:-1], positions, side="right")
    found = np.empty(len(order), dtype=object)
    found[order] = [splits[place] for place in places.tolist()]
    return [str(name) for name in found]


@dataclass(frozen=True)
class _Division:
    """Samples of each group to divide, of each split already, and wanted of each split."""

    weights: Ints
    held: Ints
    targets: npt.NDArray[np.float64]

    def places(self) -> Ints:
        """Return the number of each group's split, int64 of shape (groups,)."""
        every = np.arange(len(self.weights))
        if self._at_a_time(_ALL_TRIED) == len(every):
            largest_first = every[np.argsort(-self.weights, kind="stable")]
            return self._best(np.zeros(len(every), dtype=np.int64), largest_first)
        places = self._in_proportion()
        number, cost, since = self._at_a_time(_TRIED_AT_A_TIME), self._cost_of(places), 0
        hashed = max(1, _HASHED // len(every))
        for turn in range(_ROUNDS):
            if turn < hashed:
                chosen = np.argsort([group_hash(f"{i}", turn) for i in every.tolist()])[:number]
            else:
                chosen = np.unique([group_hash(f"{i}", turn) % len(every) for i in range(number)])
            found = self._largest_first() if turn == hashed else self._best(places, chosen)
            if (new := self._cost_of(found)) < cost:
                places, cost, since = found, new, 0
            elif (since := since + 1) == _ROUNDS_WITHOUT_GAIN:
                break
            if cost[:2] < (0, 0.5):  # to the sample
                break
        return places

    def _at_a_time(self, most: int) -> int:
        """Return how many groups can be divided in no more ways than ``most``."""
        number = 0
        while number < len(self.weights) and len(self.targets) ** (number + 1) <= most:
            number += 1
        return number

    def _in_proportion(self) -> Ints:
        """Give each group, in turn, to the split that has least of what it should have."""
        counts = self.held.astype(np.float64)
        places = np.zeros(len(self.weights), dtype=np.int64)
        for i, weight in enumerate(self.weights.tolist()):
            places[i] = np.argmin(counts / self.targets)
            counts[places[i]] += weight
        return places

    def _largest_first(self) -> Ints:
        """Give each group, the largest first, to the split with most of its share left, of those that it fits into.

        A group that fits nowhere goes where most is lacking: others make up for it.
        """
        lacking = self.targets - self.held
        places = np.zeros(len(self.weights), dtype=np.int64)
        for i in np.argsort(-self.weights, kind="stable").tolist():
            fits = lacking >= self.weights[i]
            places[i] = np.argmax(np.where(fits, lacking / self.targets, -1)) if fits.any() else np.argmax(lacking)
            lacking[places[i]] -= self.weights[i]
        return places

    def _best(self, places: Ints, chosen: Ints) -> Ints:
        """Return the places with those of the chosen groups changed to the best of all ways."""
        splits = len(self.targets)
        others = np.ones(len(places), dtype=bool)
        others[chosen] = False
        counts: Ints = self._counts(places[others], self.weights[others])[None]
        for weight in self.weights[chosen].tolist():  # the ways so far, each with this group in each split
            counts = (counts[:, None] + weight * np.eye(splits, dtype=np.int64)).reshape(-1, splits)
        way = _least(self._costs(counts))
        found: Ints = places.copy()
        found[chosen] = [way // splits**i % splits for i in reversed(range(len(chosen)))]
        return found

    def _counts(self, places: Ints, weights: Ints) -> Ints:
        counts: Ints = self.held.copy()
        np.add.at(counts, places, weights)
        return counts

    def _costs(self, counts: Ints) -> tuple[npt.NDArray[Any], ...]:
        """Return the costs to minimise, the most important first: empty splits, largest difference, sum of them."""
        off = np.abs(counts - self.targets).round(6)
        return (counts == 0).sum(axis=1), off.max(axis=1), off.sum(axis=1).round(6)

    def _cost_of(self, places: Ints) -> tuple[float, ...]:
        return tuple(float(cost[0]) for cost in self._costs(self._counts(places, self.weights)[None]))


def _least(costs: Sequence[npt.NDArray[Any]]) -> int:
    """Return the first of those that are least in the first cost, among them in the second, and so on."""
    left = np.arange(len(costs[0]))
    for cost in costs:
        left = left[cost[left] == cost[left].min()]
    return int(left[0])


def sample_shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Return each split's share of the samples that are in one."""
    total = sum(counts.values())
    return {name: count / total if total else 0.0 for name, count in counts.items()}


def shares_off(counts: Mapping[str, int], fractions: Mapping[str, float], by: str, *, balanced: bool) -> str:
    """Return which splits are more than 5 points off their fractions, and why, in words; empty where none is.

    Splits without a fraction, which have the groups that were named for them, are not counted.
    """
    shares = sample_shares({name: counts.get(name, 0) for name in fractions})
    if not any(shares.values()):
        return ""
    off = [name for name in fractions if abs(shares[name] - fractions[name]) > _OFF]
    if not off:
        return ""
    told = (f"{name} has {shares[name]:.1%} of the samples instead of {fractions[name]:.1%}" for name in off)
    return f"{', '.join(told)}: {_why(by, balanced=balanced)}"


def _why(by: str, *, balanced: bool) -> str:
    if by == "time":
        return "gaps between splits, and windows that were dropped, are not in them"
    if not balanced:
        return f"a hash of each {by}'s id decides, which does not look at sizes (balanced=True does)"
    gaps = ", without the gaps between splits," if by == "trial" else ""
    return f"whole {by}s{gaps} do not divide better"


def subjects_in_doubt(sources: Iterable[Mapping[str, Any]]) -> str:
    """Return which sessions of a data set may name no subject, in words; empty where none may.

    A session whose file names no subject has one that is called like the session or its file. The first release did not
    say so in the manifest, and no manifest does that was made anew.

    Parameters
    ----------
    sources : iterable of mapping
        What the manifest, or the samples themselves, say of each input.
    """
    found: list[str] = []
    total = 0
    for source in sources:
        total += 1
        facts, files = source.get("facts") or {}, source.get("files") or ()
        said, own = facts.get("facts") or {}, facts.get("subject_id")
        names = {source.get("session_id"), said.get("identifier"), *(file.rpartition(".")[0] for file in files)}
        if own and own in names and "valid_share" not in facts:
            found.append(str(source.get("session_id")))
    if not found:
        return ""
    return (
        f"the subject of {len(found)} of {total} sessions is called like the session or its file, as it is where a "
        f"file names no subject: {listed(found, _LISTED)}. If these name none, one "
        "animal may be in several splits: convert the files again with subject_ids=FILE=ID, or split by session"
    )


def check_subjects_are_known(unknown: Sequence[str], total: int, remedy: str) -> None:
    """Refuse to split by subject where sessions name none: one animal would be in several splits.

    Parameters
    ----------
    unknown : sequence of str
        What to call the sessions without a subject.
    total : int
        Number of sessions.
    remedy : str
        How to say whose they are.

    Raises
    ------
    ConfigError
        There are some; the message lists them.
    """
    if unknown:
        raise ConfigError(
            f"split by subject: {len(unknown)} of {total} sessions name no subject: {listed(unknown, _LISTED)}. "
            f"{remedy}, or split by session"
        )
