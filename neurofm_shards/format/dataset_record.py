"""Describe finished shards, and the data set that they make, for the manifest."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import orjson

from neurofm_shards.errors import ConfigError
from neurofm_shards.expressions import unknown_name
from neurofm_shards.format.index import ColumnLog, ShardIndex
from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.format.manifest import ColumnEntry, FrozenModel, Manifest, ShardEntry, merge_columns
from neurofm_shards.format.metadata_table import MetadataColumn, TablePart, constant_column, numbered, part_of
from neurofm_shards.format.resolve import compression_distribution
from neurofm_shards.format.sidecar import PackedInts, PackedStrings
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.plugins.registry import registry


class ShardRecord(FrozenModel):
    """A finished shard.

    Attributes
    ----------
    entry : ShardEntry
        Its line in the manifest.
    columns : list of ColumnEntry
        Its columns, without the metadata.
    """

    entry: ShardEntry
    columns: list[ColumnEntry]


def shard_record(
    index: ShardIndex, shard_idx: int, first_metadata: bytes, logs: Mapping[str, ColumnLog], split: str | None
) -> ShardRecord:
    """Return the manifest's entries of a shard and its columns."""
    counts = {name: log.num_samples for name, log in logs.items()}
    entry = shard_entry(index, shard_idx, orjson.loads(first_metadata), split)
    return ShardRecord(entry=entry, columns=column_entries(index, counts))


def shard_entry(index: ShardIndex, shard_idx: int, first_metadata: dict[str, Any], split: str | None) -> ShardEntry:
    """Return the manifest's entry of a shard; its first sample's metadata are a preview."""
    return ShardEntry(
        shard_name=index.shard_name,
        shard_idx=shard_idx,
        num_samples=index.num_samples,
        shard_bytes=index.shard_bytes,
        tar_bytes=index.tar_bytes,
        checksum=index.checksum,
        split=split,
        samples=[first_metadata],
    )


def column_entries(index: ShardIndex, counts: Mapping[str, int] | None = None) -> list[ColumnEntry]:
    """Return the manifest's entries of a shard's columns; ``counts`` are the samples that have each, where known."""
    if counts is None:
        counts = {name: int((column.payload_offsets >= 0).sum()) for name, column in index.columns.items()}
    entries = []
    for name, column in index.columns.items():
        if name == METADATA_FIELD:
            continue
        registered = registry().codecs.get(column.codec) if column.codec else None
        entries.append(
            ColumnEntry(
                name=name,
                codec=column.codec,
                extension=column.extension,
                codec_version=registered.entry.version if registered else 1,
                distribution=registered.distribution if registered else "",
                dtype=column.spec.dtype,
                shape=None if column.spec.shape is None else list(column.spec.shape),
                unit=column.spec.unit,
                table=column.spec.table,
                num_samples=counts[name],
                optional=counts[name] < index.num_samples,
            )
        )
    return entries


def metadata_part(ids: PackedStrings, shard_idx: int, own: list[bytes]) -> TablePart:
    """Make the metadata table of a shard from its samples' ids and the insides of their own JSON."""
    n = ids.length
    alike = len(set(own)) == 1
    said = part_of(_parsed(own[:1]) * n if alike else _parsed(own))
    number = constant_column(shard_idx, n)
    columns = {
        "sample_id": numbered(ids),
        **({"shard_idx": number} if number is not None else {}),
        "sample_idx_in_shard": _counting(n),
        **said.columns,
    }
    return TablePart(n, columns, ("modalities", *said.omitted))


def _counting(n: int) -> MetadataColumn:
    return MetadataColumn("int", PackedInts(n, 0, 1 if n > 1 else 0))


def _parsed(own: list[bytes]) -> list[dict[str, object]]:
    values: list[dict[str, object]] = orjson.loads(b"[{%b}]" % b"},{".join([text[1:] for text in own]))
    return values


_DISTRIBUTIONS = ("neurofm-shards", "numpy")


def unused_codecs(codecs: Mapping[str, str], names: Iterable[str]) -> str:
    """Return which fields that were given a codec are none of these, in words; empty where all are."""
    known = list(names)
    return "; ".join(f"codecs: {unknown_name('field', name, known)}" for name in codecs if name not in known)


def dataset_manifest(
    base: Manifest | None,
    records: Sequence[ShardRecord],
    shard_size: int,
    options: Mapping[str, Any],
    next_key: int,
) -> Manifest:
    """Make the manifest of a finished writer, which counts no statistics.

    Older statistics, which would no longer be those of the data set, are left out once something was added.

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

    Raises
    ------
    ConfigError
        The data set that was added to has another compression.
    """
    compression = compression_name(options["compression"])
    if base is not None:
        check_compression(base, compression)
    config = {
        "shard_size": shard_size,
        "codec": options["codec"],
        "codecs": options["codecs"],
        "compression": compression,
    }
    kept = dict(base.statistics) if base is not None and not records else {}
    first = {"shard_size": shard_size, "config": config} if base is None else {}
    return make_manifest(
        [*(base.shards if base else ()), *(record.entry for record in records)],
        [*([base.columns] if base else ()), *(record.columns for record in records)],
        base,
        compression=compression,
        next_key=next_key,
        statistics=kept,
        software=versions_of(_DISTRIBUTIONS),
        **first,
    )


def make_manifest(
    shards: Sequence[ShardEntry],
    columns: Iterable[Sequence[ColumnEntry]],
    base: Manifest | None = None,
    **facts: Any,
) -> Manifest:
    """Make the manifest of shards; totals, columns and modalities follow from them.

    Parameters
    ----------
    shards : sequence of ShardEntry
        All shards, in order.
    columns : iterable of sequence of ColumnEntry
        The columns of each shard, or of several together.
    base : Manifest, optional
        Says what ``facts`` do not say.
    **facts
        Fields of :class:`Manifest`; without ``base`` at least ``shard_size`` and ``compression``.

    Notes
    -----
    Where splits are saved with ``base``, they and not the samples' metadata say what a shard holds; shards that were
    written since are in none of them.
    """
    if base is not None and base.splits:
        saved = {entry.shard_name: entry.split for entry in base.shards}
        shards = [entry.model_copy(update={"split": saved.get(entry.shard_name)}) for entry in shards]
    values = {} if base is None else {name: getattr(base, name) for name in Manifest.model_fields}
    values.update(facts)
    if "compression" in facts and "compression_distribution" not in facts:
        values["compression_distribution"] = compression_distribution(facts["compression"])
    total = sum(entry.num_samples for entry in shards)
    merged = merge_columns(columns, total)
    values.update(
        total_samples=total,
        total_shards=len(shards),
        shards=list(shards),
        columns=merged,
        modalities=[column.name for column in merged],
    )
    return Manifest(**values)


def check_compression(base: Manifest, compression: str | Compression) -> None:
    """Refuse to add shards of one compression to a data set of another."""
    name = compression_name(compression)
    if base.shards and base.compression != name:
        raise ConfigError(
            f"the data set here has compression {base.compression!r}, and {name!r} was to be added: use the same, or "
            "overwrite=True"
        )


def compression_name(compression: str | Mapping[str, Any] | Compression) -> str:
    """Return the name that the manifest gives a compression."""
    if isinstance(compression, Mapping):
        return str(compression["kind"])
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
