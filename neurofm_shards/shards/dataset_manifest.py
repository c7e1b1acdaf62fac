"""The manifest of what a Python writer wrote, joined with what was there before."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from neurofm_shards.errors import ConfigError
from neurofm_shards.format.dataset_record import ShardRecord
from neurofm_shards.format.manifest import Manifest
from neurofm_shards.format.resolve import compression_distribution
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.shards.manifest_merge import merge_columns

_DISTRIBUTIONS = ("neurofm-shards", "numpy")


def dataset_manifest(
    base: Manifest | None,
    records: Sequence[ShardRecord],
    shard_size: int,
    options: Mapping[str, Any],
    next_key: int,
    statistics: Mapping[str, Any] | None = None,
) -> Manifest:
    """Make the manifest of a finished writer.

    Parameters
    ----------
    base : Manifest or None
        The data set that was added to.
    records : sequence of ShardRecord
        The new shards.
    shard_size : int
        Samples per new shard; a data set keeps the one it was made with.
    options : mapping
        How shards were written: codec, codecs, compression.
    next_key : int
        Number of the next automatic key.
    statistics : mapping, optional
        Of the whole data set. None: the samples are not counted, and older statistics, which would no longer be those
        of the data set, are left out once something was added.

    Raises
    ------
    ConfigError
        The data set that was added to has another compression.
    """
    compression = compression_name(options["compression"])
    if base is not None and base.shards and base.compression != compression:
        raise ConfigError(
            f"the data set here has compression {base.compression!r}, and {compression!r} was to be added: use the "
            "same, or overwrite=True"
        )
    shards = [*(base.shards if base else ()), *(record.entry for record in records)]
    total = sum(shard.num_samples for shard in shards)
    groups = [*([base.columns] if base else ()), *(record.columns for record in records)]
    columns = merge_columns(groups, total)
    config = {
        "shard_size": shard_size,
        "codec": options["codec"],
        "codecs": options["codecs"],
        "compression": compression,
    }
    kept = base.statistics if base is not None and not records else {}
    return Manifest(
        total_samples=total,
        total_shards=len(shards),
        shard_size=base.shard_size if base else shard_size,
        compression=compression,
        compression_distribution=compression_distribution(compression),
        modalities=[column.name for column in columns],
        columns=columns,
        shards=shards,
        next_key=next_key,
        statistics=dict(statistics if statistics is not None else kept),
        tables=base.tables if base else {},
        sources=base.sources if base else [],
        failures=base.failures if base else [],
        config=base.config if base else config,
        software=versions_of(_DISTRIBUTIONS),
    )


def compression_name(compression: str | Compression) -> str:
    """Return the name that the manifest gives a compression."""
    return compression if isinstance(compression, str) else compression.name


def versions_of(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    return {name: version for name in sorted(distributions) if (version := _version(name))}


@cache
def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
