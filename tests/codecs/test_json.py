"""``.json`` values."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm_shards.codecs.json import JsonCodec
from neurofm_shards.errors import EncodeError, FormatError
from neurofm_shards.testing.comparing import same

CODEC = JsonCodec()
TEXT = st.text(st.characters(exclude_categories=("Cs",)))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def encoded(value: object) -> bytes:
    return b"".join(CODEC.encode(value))


@given(VALUES)
def test_values_come_back_and_other_readers_agree(value: object) -> None:
    assert CODEC.accepts(value)
    assert same(CODEC.decode(memoryview(encoded(value))), value)
    assert same(json.loads(encoded(value)), value)


@pytest.mark.parametrize("value", [float("nan"), [1.0, float("inf")], {"a": [None, {"b": -float("inf")}]}])
def test_nan_and_infinity_are_refused_not_turned_into_null(value: object) -> None:
    with pytest.raises(EncodeError, match="JSON cannot hold"):
        CODEC.encode(value)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (2**64, "string"),
        ({1: 2}, "keys"),
        ([np.arange(3)], "field of their own"),
        ({"a": dt.datetime(2020, 1, 1)}, "datetime"),  # noqa: DTZ001  (a naive one on purpose)
        ({"a": {1, 2}}, "set"),
        ("\ud800", "UTF-8"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_a_hint(value: object, hint: str) -> None:
    with pytest.raises(EncodeError, match=hint):
        CODEC.encode(value)


def test_deep_values_are_refused_both_ways() -> None:
    deep: list[object] = []
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(EncodeError):
        CODEC.encode(deep)
    for text in (b"[" * 100_000, b"[" * 101 + b"]" * 101, b'{"a":' * 50_000):
        with pytest.raises(FormatError, match="deeper"):
            CODEC.decode(memoryview(text))
    many = b"[" + b"[]," * 500 + b'"[[[[\\"[["]'
    assert len(CODEC.decode(memoryview(many))) == 501


def test_numpy_scalars_are_arrays_not_json() -> None:
    assert not CODEC.accepts(np.float64(1))
    assert not CODEC.accepts(np.int32(1))


@pytest.mark.parametrize("text", [b"", b"{", b"nul", b"[1,]", b"\xff", b'{"a":1}x', b"NaNx", b"1" * 5000 + b"NaN"])
def test_damaged_text_is_a_format_error(text: bytes) -> None:
    with pytest.raises(FormatError):
        CODEC.decode(memoryview(text))


def test_nan_from_python_writers_is_read() -> None:
    value = CODEC.decode(memoryview(json.dumps({"x": float("nan"), "y": float("inf")}).encode()))
    assert np.isnan(value["x"])
    assert value["y"] == float("inf")
