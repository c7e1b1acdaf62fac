"""Sidecars come back as they were written, or not at all."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neurofm_shards.errors import FormatError
from neurofm_shards.format.sidecar import (
    load_ints,
    load_strings,
    pack_ints,
    pack_strings,
    parse_arrays,
    read_arrays,
    store_ints,
    store_strings,
    write_arrays,
)

ARRAYS = {"a": np.arange(7, dtype="<u2"), "b": np.ones((2, 3)), "c": np.zeros(0, "<i8"), "d": np.array([True])}


def test_arrays_come_back(tmp_path):
    write_arrays(tmp_path / "x", {"k": [1, "é", None]}, ARRAYS)
    header, arrays = read_arrays(tmp_path / "x")
    assert header == {"k": [1, "é", None]}
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_every_changed_byte_and_every_cut_is_noticed(tmp_path):
    write_arrays(tmp_path / "x", {"k": 1}, ARRAYS)
    raw = (tmp_path / "x").read_bytes()
    for at in range(len(raw)):
        with pytest.raises(FormatError):
            parse_arrays(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(FormatError):
            parse_arrays(raw[:at])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_header_under_a_right_checksum_is_read_or_refused(text):
    import struct

    import xxhash

    body = struct.pack("<II", len(text), 0) + text + bytes(64)
    with contextlib.suppress(FormatError):
        parse_arrays(b"NFMSIDE1" + struct.pack("<Q", xxhash.xxh3_64_intdigest(body)) + body)


@pytest.mark.parametrize(
    "row",
    [["a", "<u2", [4], 64], ["a", "<u2", [-1], 0], ["a", "|O", [1], 0], ["a", "<u2", [1 << 60], 0],
     ["a", "<u2", [1], 3],
     ["a", "<u2", [[1]], 0], ["a", "<u2", [1], -64], "a", ["a", "<u2", [1 << 47, 1 << 47, 1 << 47], 0]],
)  # fmt: skip
def test_tables_that_leave_the_file_are_refused(row):
    import struct

    import orjson
    import xxhash

    text = orjson.dumps({"arrays": [row], "header": {}})
    body = struct.pack("<II", len(text), 0) + text + bytes(-(24 + len(text)) % 64) + bytes(64)
    with pytest.raises(FormatError):
        parse_arrays(b"NFMSIDE1" + struct.pack("<Q", xxhash.xxh3_64_intdigest(body)) + body)


@given(hnp.arrays(np.int64, st.integers(0, 50), elements=st.integers(-1, 1 << 40)))
def test_integers_come_back(values):
    packed = pack_ints(values)
    arrays = {}
    loaded = load_ints(store_ints(packed, "x", arrays), len(values), arrays)
    np.testing.assert_array_equal(loaded.array(), values)
    assert loaded.bounds() == ((int(values.min()), int(values.max())) if len(values) else (0, 0))
    assert [loaded.at(i) for i in range(len(values))] == values.tolist()


def test_progressions_take_no_array():
    arrays = {}
    assert store_ints(pack_ints(np.arange(1000) * 512 + 3), "x", arrays) == [3, 512]
    assert not arrays


@given(st.one_of(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=20),
                 st.builds(lambda start, n, w: [f"s_{i:0{w}d}" for i in range(start, start + n)],
                           st.integers(0, 1100), st.integers(0, 20), st.integers(1, 6))))  # fmt: skip
def test_texts_come_back(texts):
    packed = pack_strings(texts)
    arrays = {}
    loaded = load_strings(store_strings(packed, "x", arrays), len(texts), arrays)
    assert loaded.texts() == texts
    assert [loaded.at(i) for i in range(len(texts))] == texts
