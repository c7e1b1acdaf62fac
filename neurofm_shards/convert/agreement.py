"""Check that the inputs of one conversion go together, and say in one message all that is wrong with them."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from neurofm_shards._wording import counted, listed
from neurofm_shards.codecs.arrays import check_storable
from neurofm_shards.convert.config import SUBJECT_FIELDS, ConversionConfig
from neurofm_shards.convert.input_plan import InputPlan
from neurofm_shards.convert.input_reader import session_name
from neurofm_shards.errors import ConfigError, EncodeError
from neurofm_shards.format.dataset_record import unused_codecs
from neurofm_shards.recordings.options import WindowOptions
from neurofm_shards.types import WITHOUT_EFFECT, ColumnSpec

#: The modality that a column of windows belongs to, by its name; in the order in which modalities are taken.
_MODALITIES = {"spikes": "spikes", "spike_times": "spikes"} | {
    name: name for name in ("lfp", "behavior", "ophys", "events")
}
_NAMES_SHOWN = 5
_OTHER_TYPE = "convert them apart, or make them alike with options or a cast transform"


def modalities_of(columns: Iterable[ColumnSpec]) -> tuple[str, ...]:
    """Return the modalities that columns of windows belong to, in a fixed order."""
    names = {spec.name for spec in columns}
    return tuple(dict.fromkeys(modality for name, modality in _MODALITIES.items() if name in names))


def is_masked(modality: str, columns: Iterable[ColumnSpec]) -> bool:
    """Return whether a modality is there for the others' sake alone: without a single unit, channel or feature."""
    return any(0 in (spec.shape or ()) for spec in columns if _MODALITIES.get(spec.name) == modality)


def agreed_columns(
    inputs: Sequence[tuple[str, Sequence[ColumnSpec]]], remedy: str = "", other_type: str = _OTHER_TYPE
) -> tuple[ColumnSpec, ...]:
    """Join the columns of all inputs; lengths that differ become ragged.

    Parameters
    ----------
    inputs : sequence of (name, columns)
        Name for messages, and the columns the input gives.
    remedy : str
        What to do where one lacks a column that others have.
    other_type : str
        What to do where a column has another type or unit.

    Raises
    ------
    ConfigError
        A column is missing from an input, or its type, unit or number of dimensions differs.
    """
    first_name, first = inputs[0]
    merged = {spec.name: spec for spec in first}
    for name, columns in inputs[1:]:
        _check_names(first_name, _required(merged.values()), name, _required(columns), remedy)
        for spec in columns:
            before = merged.setdefault(spec.name, spec)
            both = before.optional and spec.optional
            merged[spec.name] = before.merge(spec) if both else _merge(first_name, before, name, spec, other_type)
    return tuple(merged.values())


def _required(columns: Iterable[ColumnSpec]) -> set[str]:
    return {spec.name for spec in columns if not spec.optional}


def _check_names(first_name: str, first: set[str], name: str, names: set[str], remedy: str) -> None:
    if first == names:
        return
    lacking, missing = (name, first - names) if first - names else (first_name, names - first)
    having = first_name if lacking == name else name
    raise ConfigError(
        f"{lacking} has no column {min(missing)!r}, which {having} has (in common: "
        f"{', '.join(sorted(first & names)) or 'none'}){remedy and f'; {remedy}'}"
    )


def _merge(first_name: str, a: ColumnSpec, name: str, b: ColumnSpec, other_type: str) -> ColumnSpec:
    # an input without a single channel or unit has no value in another unit of measure
    empty = 0 in (a.shape or ()), 0 in (b.shape or ())
    if (a.dtype, a.table) != (b.dtype, b.table) or not (a.unit == b.unit or any(empty)):
        raise ConfigError(
            f"column {a.name!r} is {_describe(a)} in {first_name} but {_describe(b)} in {name}; {other_type}"
        )
    both = a.merge(b)
    if both.shape is None and a.shape != b.shape:
        raise ConfigError(
            f"column {a.name!r} has shape {a.shape} in {first_name} but {b.shape} in {name}: the number of "
            "dimensions must be the same"
        )
    return replace(both, unit=b.unit if empty[0] else a.unit)


def _describe(spec: ColumnSpec) -> str:
    return f"{spec.dtype or 'JSON'}{f' in {spec.unit}' if spec.unit else ''}"


def misfits(
    columns: Sequence[tuple[str, Sequence[ColumnSpec]]], known: Sequence[ColumnSpec] = (), remedy: str = ""
) -> dict[int, str]:
    """Return which inputs do not fit the others, or the columns of a data set that is added to, and why.

    Without a data set, the others are those that share their columns with the most inputs.
    """
    alike = [frozenset((spec.name, spec.dtype) for spec in specs if not spec.optional) for _, specs in columns]
    common = Counter(alike).most_common(1)[0][0] if columns else None
    joined: list[tuple[str, Sequence[ColumnSpec]]] = [("the data set", known)] if known else []
    found: dict[int, str] = {}
    for i in sorted(range(len(columns)), key=lambda i: alike[i] != common):
        name = joined[0][0] if joined else columns[i][0]
        try:
            joined = [(name, agreed_columns([*joined, columns[i]], remedy))]
        except ConfigError as error:
            found[i] = str(error)
    return dict(sorted(found.items()))


def cannot_be_stored(name: str, columns: Sequence[ColumnSpec]) -> str:
    """Return why an input gives an array that no reader takes; empty where it gives none."""
    for spec in columns:
        if spec.dtype is None:
            continue
        try:
            check_storable(np.dtype(spec.dtype), (0,) * len(spec.shape or ()))
        except EncodeError as error:
            return f"{name}: column {spec.name!r} is {error}"
    return ""


def shared_ids(sessions: Iterable[tuple[str, str]]) -> str:
    """Return which inputs have one session id, in words; empty where each has its own.

    Parameters
    ----------
    sessions : iterable of (name, session id)
        The inputs.
    """
    inputs: dict[str, list[str]] = {}
    for name, session in sessions:
        inputs.setdefault(session, []).append(name)
    shared = {session: names for session, names in inputs.items() if len(names) > 1}
    if not shared:
        return ""
    told = [f"{session!r} ({listed(names, _NAMES_SHOWN)})" for session, names in shared.items()]
    number = sum(map(len, shared.values()))
    return f"{number:,} inputs share {len(shared):,} session id{'s' * (len(shared) > 1)}: {listed(told, _NAMES_SHOWN)}"


def all_that_is_wrong(failures: Sequence[tuple[str, str]], total: int) -> str:
    """Return one message about all inputs that fail, those whose causes differ in numbers at most together.

    Parameters
    ----------
    failures : sequence of (name, error)
        The inputs that fail.
    total : int
        How many inputs there are.
    """
    by_cause: dict[str, list[tuple[str, str, str]]] = {}
    for name, error in failures:
        base = os.path.basename(name)  # noqa: PTH119  (a name, not a place)
        cause = error.replace(name, "").replace(base, "")
        by_cause.setdefault(re.sub(r"\d+", "0", cause), []).append((name, error, cause))
    remedy = "on_error='skip' leaves them out"
    lines = [f"{len(failures):,} of {counted(total, 'input')} cannot be converted; {remedy}"]
    for alike in by_cause.values():
        first, error, _ = alike[0]
        same = len({cause for _, _, cause in alike}) == 1
        whose = "" if same else f" (numbers are those of {first})"
        lines.append(f"{listed([item[0] for item in alike], _NAMES_SHOWN)}: {error.removeprefix(f'{first}: ')}{whose}")
    return "\n  ".join(lines)


def check_sessions(planned: Sequence[InputPlan], present: Mapping[str, str] | None = None) -> None:
    """Refuse two inputs with one session id, and sessions that a data set holds already, with other content.

    Raises
    ------
    ConfigError
        Naming the inputs and how to replace sessions, or to choose other ids.
    """
    held = [item for item in planned if item.session_id in (present or {})]
    if held:
        ids = [json.dumps(item.session_id) for item in held]
        where = f"session_id == {ids[0]}" if len(ids) == 1 else f"session_id in [{', '.join(ids[:_SHOWN])}]"
        raise ConfigError(
            f"{listed([item.name for item in held], _SHOWN)}: the data set holds {listed(ids, _SHOWN)} "
            "already, with other content. To replace it, drop it first, then append: `neurofm-shards drop DATA_SET "
            f"--where '{where}'`. If it is another session, choose ids that differ, with "
            'session_template="{parent}_{stem}" or the like'
        )
    if clash := clash_of(planned):
        raise ConfigError(clash)


#: Sessions that a message names.
_SHOWN = 5
#: Templates that a message offers where session ids are not unique.
_TEMPLATES = ("{subject_id}_{session_id}", "{stem}", "{parent}_{stem}")


def clash_of(planned: Sequence[InputPlan]) -> str:
    """Return which inputs share a session id, and which templates give each its own; empty where none does."""
    shared = shared_ids([(item.name, item.session_id) for item in planned])
    if not shared:
        return ""
    fitting = [repr(template) for template in _TEMPLATES if _separates(template, planned)]
    if not fitting:
        return f"{shared}. Rename the files so that session_template can tell them apart, or leave copies out"
    return f"{shared}. Choose ids that differ with session_template={' or '.join(fitting)}"


def _separates(template: str, planned: Sequence[InputPlan]) -> bool:
    """Return whether a template gives each input an id of its own."""
    specs = [replace(item.spec, session_template=template) for item in planned]
    own = [(item.session_id, str(item.plan.metadata.get("subject_id", "")) if item.plan else "") for item in planned]
    return len({session_name(spec, *ids) for spec, ids in zip(specs, own, strict=True)}) == len(planned)


def check_options_are_used(
    planned: Sequence[InputPlan], columns: Sequence[ColumnSpec], config: ConversionConfig
) -> None:
    """Refuse options that change nothing of any input, as they would be missed in the result (raises ConfigError)."""
    _check_windows_are_used(planned, config)
    _check_subjects_are_used(planned, config)
    _check_names_are_used(planned, columns, config)


def _check_windows_are_used(planned: Sequence[InputPlan], config: ConversionConfig) -> None:
    if any(item.is_recording for item in planned) or config.windows == WindowOptions():
        return
    default = WindowOptions()
    chosen = [name for name in WindowOptions.model_fields if getattr(config.windows, name) != getattr(default, name)]
    raise ConfigError(
        f"{', '.join(chosen)} cut windows out of recordings, but {planned[0].name} holds samples that are cut already; "
        "leave them out, or give the source's options that say where time is"
    )


def _check_subjects_are_used(planned: Sequence[InputPlan], config: ConversionConfig) -> None:
    """Refuse subject ids of samples that are cut already, which say themselves whose they are."""
    if any(item.is_recording for item in planned):
        return
    given = [name for name in SUBJECT_FIELDS if getattr(config, name) != getattr(ConversionConfig(), name)]
    if given:
        raise ConfigError(
            f"{', '.join(given)}: subjects are said of recordings, but {planned[0].name} holds samples that are cut "
            "already; leave them out, or give the source's options that say where time is"
        )


def _check_names_are_used(
    planned: Sequence[InputPlan], columns: Sequence[ColumnSpec], config: ConversionConfig
) -> None:
    """Refuse options that name what no input has; what some have not is a problem of theirs."""
    unused = [_without_effect(item) for item in planned]
    everywhere = [said for said in unused[0] if all(said in others for others in unused)]
    if everywhere:
        raise ConfigError(f"{planned[0].name}: {'; '.join(everywhere)}")
    wrong = unused_codecs(config.codecs, [spec.name for spec in columns])
    if wrong and not config.transforms:  # which may make other columns
        raise ConfigError(wrong)


def _without_effect(item: InputPlan) -> list[str]:
    problems = item.plan.problems if item.plan is not None else ()
    return [f"{found.where}: {found.what}" for found in problems if found.consequence == WITHOUT_EFFECT]


def check_subjects_held(planned: Sequence[InputPlan], known: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to name the subject of what a data set holds already: nothing there would change."""
    for item in planned:
        source = known.get(item.expected.fingerprint) if item.plan is not None and item.expected is not None else None
        there = (source or {}).get("facts", {}).get("subject_id")
        now = item.plan.metadata.get("subject_id") if item.plan is not None else None
        if source is not None and there is not None and there != now:
            raise ConfigError(
                f"{item.name}: the data set holds session {source['session_id']!r} as one of subject {there!r}, and "
                f"subject_ids says {now!r}; to change that, drop it first, then append"
            )
