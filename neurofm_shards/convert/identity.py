"""What makes two conversions the same, and in words how they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neurofm_shards._wording import listed
from neurofm_shards.convert.config import ConversionConfig, as_stored
from neurofm_shards.convert.input_plan import InputPlan
from neurofm_shards.convert.planning import ConversionPlan
from neurofm_shards.errors import ConfigError

#: How shards are cut where there are splits; the first release took no notice of them.
_ONE_SPLIT = "of one split each"


def identity(plan: ConversionPlan, base: str = "") -> dict[str, Any]:
    """Return the identity that a resumed run must share with the interrupted one, as JSON values.

    Parameters
    ----------
    plan : ConversionPlan
        The plan.
    base : str
        Checksum of the manifest that the conversion adds to, if any.
    """
    found = {"config": plan.config.content(), "inputs": [_input(item) for item in plan.inputs], "base": base}
    return {**found, "shards": _ONE_SPLIT} if plan.config.windows.split is not None else found


def _input(item: InputPlan) -> dict[str, Any]:
    names = {"files": item.spec.input.file_names, "format": item.spec.input.format}
    if item.plan is None or item.expected is None:
        return {**names, "error": item.error}
    return {
        **names,
        "session_id": item.session_id,
        "fingerprint": item.expected.fingerprint,
        "signature": [list(stat) for stat in item.expected.signature],
        "num_samples": item.num_samples,
    }


def with_earlier_failures(planned: Sequence[InputPlan], before: Mapping[str, Any]) -> list[InputPlan]:
    """Keep inputs failed that failed when the interrupted run was planned; they are retried when it is finished."""
    errors = {_key(item): item["error"] for item in before["inputs"] if "error" in item}
    result = []
    for item in planned:
        error = errors.get(_key(_input(item)))
        result.append(item if error in (None, item.error) else InputPlan(item.spec, None, error=error))
    return result


def check_same(now: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Refuse to resume a conversion that would make something else."""
    differences = config_differences(now["config"], before["config"])
    differences += _input_differences(now["inputs"], before["inputs"])
    if now.get("shards") != before.get("shards"):
        differences.append("an earlier release began it, whose shards hold several splits")
    if now["base"] != before["base"]:
        differences.append("the data set it adds to has changed")
    if differences:
        raise ConfigError(
            f"this is not the conversion that was interrupted: {listed(differences, 3, '; ')}. Give the same "
            "inputs and options with mode='resume', or start again with mode='overwrite'"
        )


def config_differences(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Describe how settings differ from stored ones; options that are newer than those have their defaults."""
    return _differences(now, ConversionConfig.of(as_stored(before)).content())


def _differences(now: Mapping[str, Any], before: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name in [*now, *(name for name in before if name not in now)]:
        a, b = now.get(name), before.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name} is {_shown(a)!r} and was {_shown(b)!r}")
    return found


def _shown(value: Any) -> Any:
    """Return a setting without the options in it that are not set."""
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return {k: _shown(v) for k, v in value.items() if v is not None} if isinstance(value, Mapping) else value


def _input_differences(now: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> list[str]:
    then = {_key(item): item for item in before}
    found = [f"input {_name(item)} is new" for item in now if _key(item) not in then]
    current = {_key(item) for item in now}
    found += [f"input {_name(item)} is missing" for item in before if _key(item) not in current]
    for item in now:
        other = then.get(_key(item))
        if other is not None and other != item:
            error = item.get("error")
            found.append(f"input {_name(item)} " + (f"cannot be read now: {error}" if error else "has changed since"))
    if not found and [_key(item) for item in now] != [_key(item) for item in before]:
        found.append("the inputs are in another order")
    return found


def _key(item: Mapping[str, Any]) -> tuple[str, ...]:
    return (*item["files"], item["format"])


def _name(item: Mapping[str, Any]) -> str:
    return str(item["files"][0])
