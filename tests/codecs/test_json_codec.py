"""``.json`` values and samples' metadata."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm_shards.codecs.json import JsonCodec, metadata_bytes, metadata_from_bytes, strict_json
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


def test_metadata_takes_what_experimenters_have() -> None:
    found = json.loads(
        metadata_bytes(
            {
                "gain": 1.0,
                "missing": float("nan"),
                "trial": np.int64(3),
                "speed": np.float32(0.5),
                "good": np.bool_(True),
                "position": np.array([1.5, np.nan]),
                "labels": np.array(["left", "right"]),
                "day": dt.date(2020, 1, 31),
                "start": dt.datetime(2020, 1, 31, 12, 30, tzinfo=dt.timezone.utc),
                "length": dt.timedelta(seconds=1.5),
                "file": PurePosixPath("a/b.nwb"),
            }
        )
    )
    assert found == {
        "gain": 1.0, "missing": None, "trial": 3, "speed": 0.5, "good": True, "position": [1.5, None],
        "labels": ["left", "right"], "day": "2020-01-31",
        "start": "2020-01-31T12:30:00+00:00", "length": 1.5, "file": "a/b.nwb",
    }  # fmt: skip
    assert isinstance(found["gain"], float)


@pytest.mark.parametrize(
    "metadata", [{"a": object()}, {"a": b"x"}, {"a": 2**70}, {1: 2}, [1], {"a": 1j}, {"a": np.array([1j])}]
)
def test_other_metadata_is_refused(metadata: object) -> None:
    with pytest.raises(EncodeError):
        metadata_bytes(metadata)


def test_metadata_must_be_an_object() -> None:
    assert metadata_from_bytes(b'{"a":1}') == {"a": 1}
    with pytest.raises(FormatError, match="list"):
        metadata_from_bytes(b"[1]")


@pytest.mark.parametrize(
    "text", [b'{"a":1,"a":2}', b'{"a":NaN}', b"[Infinity]", b"[" * 5000, b"{", b"1" * 5000, b"\xff"]
)
def test_strict_json_lets_nothing_doubtful_pass(text: bytes) -> None:
    with pytest.raises(FormatError):
        strict_json(text)


def test_strict_json_reads_ordinary_json() -> None:
    assert strict_json(b'{"a": [1, 2.0, null, "x"]}') == {"a": [1, 2.0, None, "x"]}
