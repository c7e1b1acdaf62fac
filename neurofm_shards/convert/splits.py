"""Assign recordings to splits where that follows from the sizes of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from neurofm_shards.convert.input_plan import InputPlan
from neurofm_shards.format.manifest import Manifest
from neurofm_shards.recordings.group_splits import (
    check_subjects_are_known,
    divide_recordings,
    shares_off,
    subjects_in_doubt,
)
from neurofm_shards.recordings.options import SplitOptions

_REMEDY = "Say whose they are with subject_ids=FILE=ID or subject_template"


def with_splits(
    planned: Sequence[InputPlan], split: SplitOptions | None, manifest: Manifest | None = None
) -> list[InputPlan]:
    """Put recordings into splits, session by session or subject by subject.

    Parameters
    ----------
    planned : sequence of InputPlan
        All inputs; those whose split was chosen before keep it.
    split : SplitOptions or None
        How samples are divided.
    manifest : Manifest, optional
        The data set that they are added to: what is there stays where it is, and counts for its split.

    Raises
    ------
    ConfigError
        The split is by subject, and some sessions name none.
    """
    if split is None or split.by not in ("session", "subject"):
        return list(planned)
    todo = [i for i, item in enumerate(planned) if item.is_recording and item.num_samples and not item.spec.split]
    if split.by == "subject":
        unknown = [planned[i] for i in todo if _facts(planned[i]).get("subject_is_unknown")]
        check_subjects_are_known([f"{item.session_id} ({item.name})" for item in unknown], len(todo), _REMEDY)
    if not split.needs_all:
        return list(planned)
    groups = [_group(split, planned[i].session_id, _facts(planned[i])) for i in todo]
    counts = [0 if planned[i].again else planned[i].num_samples for i in todo]
    of = dict(zip(todo, divide_recordings(split, groups, counts, *_present(split, manifest)), strict=True))
    return [_in_split(item, of[i]) if i in of else item for i, item in enumerate(planned)]


def _present(split: SplitOptions, manifest: Manifest | None) -> tuple[Counter[str], dict[str, str]]:
    """Return samples and split of each session or subject that a data set holds."""
    sizes: Counter[str] = Counter()
    fixed: dict[str, str] = {}
    for source in manifest.sources if manifest is not None else ():
        facts = source.get("facts") or {}
        for name, count in (facts.get("splits") or {}).items():
            group = _group(split, source.get("session_id", ""), facts)
            sizes[group] += count
            fixed[group] = name
    return sizes, fixed


def _facts(item: InputPlan) -> Mapping[str, Any]:
    return item.plan.metadata if item.plan is not None else {}


def _group(split: SplitOptions, session_id: str, facts: Mapping[str, Any]) -> str:
    return session_id if split.by == "session" else str(facts.get("subject_id", ""))


def _in_split(item: InputPlan, name: str) -> InputPlan:
    if item.plan is None:
        raise AssertionError(f"{item.name} has no samples to put into a split")
    counts = {name: item.num_samples}
    plan = replace(item.plan, splits=tuple(counts.items()), metadata={**item.plan.metadata, "splits": counts})
    return replace(item, spec=replace(item.spec, split=name), plan=plan)


def split_warnings(
    planned: Sequence[InputPlan], split: SplitOptions, added: Mapping[str, int], manifest: Manifest | None
) -> Iterator[str]:
    """Yield warnings: names that no input has, empty splits, shares that are far off."""
    present, _ = _present(split, manifest)
    there = {*present, *(_group(split, item.session_id, _facts(item)) for item in planned)}
    absent = [f"{group!r} ({name})" for group, name in split.by_name.items() if group not in there]
    if absent and manifest is None:
        yield f"no {split.by} is called {', '.join(absent)}, as `named` has it: nothing is put there by name"
    if split.by == "subject" and manifest is not None and (doubt := subjects_in_doubt(manifest.sources)):
        yield doubt
    empty = [name for name, count in added.items() if not count]
    if empty:
        yield (
            f"no samples for {', '.join(empty)}: with few inputs, whole sessions or subjects are too large for small "
            "shares (choose another split), or windows were dropped (`drops` of the result says which)"
        )
    before: Counter[str] = Counter()
    for source in manifest.sources if manifest is not None else ():
        before.update((source.get("facts") or {}).get("splits") or {})
    counts = {name: before[name] + added.get(name, 0) for name in split.names}
    if off := shares_off(counts, split.fractions, split.by, balanced=split.balanced):
        yield f"split by {split.by}: {off}"
