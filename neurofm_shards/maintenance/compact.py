"""Join neighbouring shards that are not full, as appending leaves them, into full ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from neurofm_shards.format.manifest import Manifest
from neurofm_shards.maintenance.rewriting import OpenDataSet, Replacement, finished, opened, replace_shards


def compact(folder: str | os.PathLike[str], *, durable: bool = True, dry_run: bool = False) -> dict[str, Any]:
    """Write neighbouring shards that are not full anew, as fewer and full ones.

    Samples keep their order, their keys and their content; each is checked against its checksum while it is copied.
    Full shards stay as they are. New shards get new numbers, in the places of the old ones. All of it becomes visible
    as one step, and a crash in between is finished by the next run.

    Parameters
    ----------
    folder : path
        The data set.
    durable : bool
        Whether everything is synced.
    dry_run : bool
        Only say what would be done.

    Returns
    -------
    dict
        ``shards_before``, ``shards_after``, ``shards_rewritten`` and ``samples_rewritten``.

    Raises
    ------
    ConfigError
        The folder is no finished data set of ours.
    IntegrityError
        A sample is damaged; everything is as it was.
    """
    with finished(folder, locked=not dry_run) as (output, manifest):
        report = _report(manifest)
        if report["shards_rewritten"] and not dry_run:
            with opened(output, manifest) as data:
                replace_shards(data, _replacements(data), lambda _: {}, durable=durable)
        return report


@dataclass(frozen=True)
class Run:
    """Neighbouring shards, and the sizes of those that take their place.

    Attributes
    ----------
    first, stop : int
        Shards ``first`` to ``stop`` (exclusive), counted in the order of the data set.
    sizes : tuple of int
        Samples of the new shards; empty where the old ones stay.
    """

    first: int
    stop: int
    sizes: tuple[int, ...] = ()


def runs(counts: Sequence[int], shard_size: int, splits: Sequence[str | None] = ()) -> Iterator[Run]:
    """Yield all shards of a data set as runs: those that stay, and those of one split that become fewer.

    Examples
    --------
    >>> list(runs([4, 1, 2, 4, 3], 4))
    [Run(first=0, stop=1, sizes=()), Run(first=1, stop=3, sizes=(3,)), Run(first=3, stop=4, sizes=()), \
Run(first=4, stop=5, sizes=())]
    """
    splits = splits or [None] * len(counts)
    first = 0
    while first < len(counts):
        stop = first
        while stop < len(counts) and counts[stop] < shard_size and splits[stop] == splits[first]:
            stop += 1
        total = sum(counts[first:stop])
        sizes = tuple(min(shard_size, total - done) for done in range(0, total, shard_size))
        if stop - first > len(sizes):
            yield Run(first, stop, sizes)
        else:
            stop = max(stop, first + 1)
            yield Run(first, stop)
        first = stop


def _runs(manifest: Manifest) -> Iterator[Run]:
    shards = manifest.shards
    return runs([entry.num_samples for entry in shards], manifest.shard_size, [entry.split for entry in shards])


def _report(manifest: Manifest) -> dict[str, Any]:
    shards = manifest.shards
    found = list(_runs(manifest))
    rewritten = [entry for run in found if run.sizes for entry in shards[run.first : run.stop]]
    return {
        "shards_before": len(shards),
        "shards_after": len(shards) - len(rewritten) + sum(len(run.sizes) for run in found),
        "shards_rewritten": [entry.shard_name for entry in rewritten],
        "samples_rewritten": sum(entry.num_samples for entry in rewritten),
    }


def _replacements(data: OpenDataSet) -> list[Replacement]:
    found = []
    for run in _runs(data.manifest):
        if run.sizes:
            edges = int(data.collection.starts[run.first]) + np.cumsum([0, *run.sizes], dtype=np.int64)
            rows = tuple(np.arange(start, stop, dtype=np.int64) for start, stop in pairwise(edges.tolist()))
            found.append(Replacement(run.first, run.stop, rows))
    return found
