"""Reading the metadata members of a shard, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from neurofm_shards.errors import FormatError
from neurofm_shards.format.index import ShardIndex
from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.format.tar import TarReader
from neurofm_shards.shards.index_builder import opened_tar

#: Metadata of one sample that is larger than this is not metadata.
MAX_METADATA_BYTES = 1 << 24


def metadata_of_shard(path: Path, index: ShardIndex) -> Iterator[dict[str, Any]]:
    """Yield the metadata of each sample of a shard; an empty dict where there is none.

    Raises
    ------
    FormatError
        A metadata member is not JSON.
    """
    column = index.columns.get(METADATA_FIELD)
    if column is None:
        yield from ({} for _ in range(index.num_samples))
        return
    places = zip(column.payload_offsets.tolist(), column.payload_sizes.tolist(), strict=True)
    keys = index.keys()
    with opened_tar(path) as (source, limit):
        payloads: Iterator[memoryview | None]
        if isinstance(source, memoryview):
            payloads = (source[offset : offset + size] if offset >= 0 else None for offset, size in places)
        else:
            payloads = _from_stream(TarReader(source, name=path.name, limit=limit), column.payload_offsets.tolist())
        for key, payload in zip(keys, payloads, strict=True):
            yield parse_metadata(payload, f"{path.name}, sample {key!r}")


def _from_stream(reader: TarReader, offsets: list[int]) -> Iterator[memoryview | None]:
    members = iter(reader)
    for offset in offsets:
        if offset < 0:
            yield None
            continue
        member = next((member for member in members if member.offset == offset), None)
        if member is None or member.size > MAX_METADATA_BYTES:
            raise FormatError(f"{reader.name}: the metadata at byte {offset:,} is not where its index says")
        yield reader.head(member, member.size)


def parse_metadata(payload: bytes | memoryview | None, where: str) -> dict[str, Any]:
    """Return one sample's metadata; JSON that is no object is kept under ``value``.

    Raises
    ------
    FormatError
        It is not JSON, or larger than ``MAX_METADATA_BYTES``.
    """
    if payload is None:
        return {}
    if len(payload) > MAX_METADATA_BYTES:
        raise FormatError(f"{where}: its metadata has {len(payload):,} bytes; {MAX_METADATA_BYTES:,} are allowed")
    try:
        values = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"{where}: its metadata is not JSON ({error})") from error
    return values if isinstance(values, dict) else {"value": values}
