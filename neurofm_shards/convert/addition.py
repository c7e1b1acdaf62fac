"""Plans what is added to a data set: new inputs, and what failed when it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from neurofm_shards.convert.columns import merge_columns
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.planning import ConversionPlan, InputPlan, check_sessions, join_tables
from neurofm_shards.convert.tasks import cut
from neurofm_shards.errors import ConfigError
from neurofm_shards.format.manifest import Manifest

Stretch = tuple[int, int, int]


def plan_append(
    manifest: Manifest, planned: Sequence[InputPlan], config: ConversionConfig, *, alike: bool = True
) -> ConversionPlan | None:
    """Plan the addition of inputs that a data set does not hold yet.

    Parameters
    ----------
    manifest : Manifest
        The data set.
    planned : sequence of InputPlan
        The inputs.
    config : ConversionConfig
        How they are converted.
    alike : bool
        Whether the new columns must be those of the data set.

    Returns
    -------
    ConversionPlan or None
        None when it holds all of them: they are recognised by fingerprint, wherever they lie and whatever their names.
    """
    known = {source["fingerprint"] for source in manifest.sources}
    new = [item for item in planned if item.expected is None or item.expected.fingerprint not in known]
    if not new:
        return None
    stretches = [(i, 0, item.num_samples) for i, item in enumerate(new)]
    return _addition(manifest, new, stretches, config, alike=alike)


def plan_retry(manifest: Manifest, planned: Sequence[InputPlan], config: ConversionConfig) -> ConversionPlan | None:
    """Plan what is missing of inputs that failed: whole inputs, or the stretches that could not be read."""
    failed = {tuple(entry["files"]): entry for entry in manifest.failures}
    chosen: list[InputPlan] = []
    stretches: list[Stretch] = []
    for item in planned:
        entry = failed.get(tuple(item.opening.input.file_names))
        if entry is None:
            continue
        i = len(chosen)
        chosen.append(replace(item, again=entry["rows"] is not None))
        if item.plan is not None:
            rows = [(0, item.num_samples)] if entry["rows"] is None else entry["rows"]
            stretches += [(i, start, stop) for start, stop in rows]
    return _addition(manifest, chosen, stretches, config, alike=True) if stretches else None


def _addition(
    manifest: Manifest, inputs: list[InputPlan], stretches: list[Stretch], config: ConversionConfig, *, alike: bool
) -> ConversionPlan:
    giving = [item for item in inputs if item.num_samples]
    present = {source["session_id"]: source["files"][0] for source in manifest.sources if "session_id" in source}
    check_sessions([item for item in giving if not item.again], present)
    known = (
        [] if config.transforms or not alike else [("the data set", tuple(column.spec for column in manifest.columns))]
    )
    columns = merge_columns([*known, *((item.name, item.columns) for item in giving)])
    rows = {name: entry.rows for name, entry in manifest.tables.items()}
    bases, tables = join_tables([replace(item, plan=None) if item.again else item for item in inputs], rows)
    earlier = {source["fingerprint"]: source.get("tables", {}) for source in manifest.sources}
    for i, item in enumerate(inputs):
        if item.again and item.expected is not None:
            if item.expected.fingerprint not in earlier:
                raise ConfigError(
                    f"{item.name} was converted in part and has changed since; withdraw what is there with "
                    f"`neurofm-shards drop --where 'session_id == \"{item.session_id}\"'` and add it anew with --append"
                )
            bases[i] = {name: base for name, (base, _) in earlier[item.expected.fingerprint].items()}
    return ConversionPlan(
        config,
        tuple(inputs),
        columns,
        tuple(cut(stretches, config.shard_size, manifest.next_key)),
        first_shard=1 + max((entry.shard_idx for entry in manifest.shards), default=-1),
        first_number=manifest.next_key,
        tables=tables,
        bases=tuple(bases),
    )
