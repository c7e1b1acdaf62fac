"""What a finished shard is, for the manifest."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from neurofm_shards.format.index import ShardIndex
from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.format.manifest import ColumnEntry, FrozenModel, ShardEntry
from neurofm_shards.format.metadata_table import TablePart, part_of
from neurofm_shards.plugins.registry import registry
from neurofm_shards.shards.index_log import ColumnLog
from neurofm_shards.shards.metadata_columns import MetadataColumn, constant_column, numbered
from neurofm_shards.shards.packing import PackedInts, PackedStrings


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
    index: ShardIndex, shard_idx: int, first_metadata: bytes, logs: Mapping[str, ColumnLog]
) -> ShardRecord:
    """Say of a shard what the manifest says."""
    entry = ShardEntry(
        shard_name=index.shard_name,
        shard_idx=shard_idx,
        num_samples=index.num_samples,
        shard_bytes=index.shard_bytes,
        tar_bytes=index.tar_bytes,
        checksum=index.checksum,
        samples=[orjson.loads(first_metadata)],
    )
    return ShardRecord(
        entry=entry, columns=column_entries(index, {name: log.num_samples for name, log in logs.items()})
    )


def column_entries(index: ShardIndex, counts: Mapping[str, int]) -> list[ColumnEntry]:
    """Say of a shard's columns what the manifest says; ``counts`` are the samples that have each."""
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
    """Make the metadata table of a shard from what its samples say: their ids, and the inside of their own JSON."""
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
