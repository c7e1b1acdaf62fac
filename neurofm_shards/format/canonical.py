"""Check a whole plain shard against its index in a few NumPy calls, where it is in our canonical form."""

from __future__ import annotations

from typing import Any

import numpy as np

from neurofm_shards._typing import Bytes, Ints
from neurofm_shards.errors import FormatError, PluginError
from neurofm_shards.format.headers import MEMBER_BLOCK, MemberHeaders
from neurofm_shards.format.index import ColumnIndex, ShardIndex
from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.format.resolve import codec_named

_STEP = 4096


def is_canonical(tar: memoryview, index: ShardIndex) -> bool:
    """Return whether headers and envelopes of a tar are, byte by byte, what the writer would have written.

    If so, names, sizes and order are proven, and so are the envelopes of arrays of constant shape:
    nothing of it needs to be parsed. False only means that it has to be parsed.
    """
    data = np.frombuffer(tar, np.uint8)
    columns = list(index.columns.values())
    if not columns or columns[-1].spec.name != METADATA_FIELD or data.nbytes != index.tar_bytes:
        return False
    keys = _keys(index)
    if keys is None or not _contiguous(index, columns):
        return False
    if data[int(index.record_offsets[-1]) :].any() or index.packed_records.at(0) != 0:
        return False
    return all(_column_is_canonical(data, column, keys) for column in columns)


def _keys(index: ShardIndex) -> Bytes | None:
    """Return the keys as rows; None when they differ in length or are not ASCII."""
    texts = index.keys()
    if not texts or len(set(map(len, texts))) != 1:
        return None
    joined = "".join(texts)
    return np.frombuffer(joined.encode(), np.uint8).reshape(len(texts), -1) if joined.isascii() else None


def _contiguous(index: ShardIndex, columns: list[ColumnIndex]) -> bool:
    records = index.record_offsets
    expected = records[:-1]
    for column in columns:
        offsets, sizes = column.payload_offsets, column.payload_sizes
        if (offsets != expected + MEMBER_BLOCK).any():
            return False
        expected = offsets + (sizes + MEMBER_BLOCK - 1) // MEMBER_BLOCK * MEMBER_BLOCK
    return bool((expected == records[1:]).all())


def _column_is_canonical(data: Bytes, column: ColumnIndex, keys: Bytes) -> bool:
    name = column.spec.name
    if "." in name or len(keys[0]) + len(name) + len(column.extension) + 2 > 100:
        return False
    template = MemberHeaders(name, column.extension)
    offsets, sizes = column.payload_offsets, column.payload_sizes
    for start in range(0, len(offsets), _STEP):
        part = slice(start, start + _STEP)
        if (_rows(data, offsets[part] - MEMBER_BLOCK, MEMBER_BLOCK) != template.many(keys[part], sizes[part])).any():
            return False
    return _envelopes_match(data, column, offsets, sizes)


def _rows(data: Bytes, offsets: Ints, length: int) -> Bytes:
    windows = np.lib.stride_tricks.as_strided(data, (len(data) - length + 1, length), (1, 1), writeable=False)
    return windows[offsets]


def _envelopes_match(data: Bytes, column: ColumnIndex, offsets: Ints, sizes: Ints) -> bool:
    if column.spec.name == METADATA_FIELD:
        return True
    around = _envelope(column)
    if around is None or column.data_offsets is None:
        return False
    before, after = (np.frombuffer(part, np.uint8) for part in around)
    length = _data_bytes(column)
    if (sizes != len(before) + length + len(after)).any() or (column.data_offsets != offsets + len(before)).any():
        return False
    matches = len(before) == 0 or bool((_rows(data, offsets, len(before)) == before).all())
    return matches and (
        len(after) == 0 or bool((_rows(data, offsets + len(before) + length, len(after)) == after).all())
    )


def _envelope(column: ColumnIndex) -> tuple[bytes, bytes] | None:
    spec = column.spec
    if spec.dtype is None or spec.shape is None or None in spec.shape or not column.codec:
        return None
    try:
        codec = codec_named(column.codec)
    except (PluginError, FormatError):
        return None
    return codec.envelope(spec.dtype, tuple(length or 0 for length in spec.shape))


def _data_bytes(column: ColumnIndex) -> int:
    count: Any = np.dtype(column.spec.dtype).itemsize
    for length in column.spec.shape or ():
        count *= length or 0
    return int(count)
