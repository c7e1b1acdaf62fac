"""Values become arrays and JSON in one way."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurofm_shards.errors import EncodeError
from neurofm_shards.values import as_array, exact_numbers, json_bytes, loads_unique, sorted_unique, to_json


class Tensor(torch.Tensor):
    """A subclass, as torchvision and others have."""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.arange(3), np.arange(3)),
        (np.float32(1.5), np.array(1.5, "f4")),
        (torch.arange(3), np.arange(3)),
        (torch.ones(2, requires_grad=True), np.ones(2, "f4")),
        (torch.tensor([1 + 2j]).conj(), np.array([1 - 2j], "c8")),
        (torch.arange(3).as_subclass(Tensor), np.arange(3)),
    ],
)
def test_arrays_scalars_and_tensors_are_arrays(value, expected):
    found = as_array(value)
    assert type(found) is np.ndarray
    assert (found.dtype, found.tolist()) == (expected.dtype, expected.tolist())


@pytest.mark.parametrize("value", [1, 1.5, "text", [1, 2], None, torch.Tensor, {"a": np.arange(2)}])
def test_anything_else_is_none(value):
    assert as_array(value) is None


@pytest.mark.parametrize("tensor", [torch.zeros(2, dtype=torch.bfloat16), torch.eye(2).to_sparse()])
def test_a_tensor_without_a_counterpart_says_what_to_do(tensor):
    with pytest.raises(EncodeError, match=r"\.float\(\) or \.to_dense\(\)"):
        as_array(tensor)


def test_facts_become_json():
    facts = {
        "rate": np.float64(2.5), "gap": float("nan"), "far": np.inf, "on": np.bool_(True), 3: (1, np.int8(2)),
        "text": b"caf\xc3\xa9", "axes": np.array([[1.0, np.nan]]), "day": dt.date(2026, 1, 2), "none": None,
        "inner": {"names": np.array(["a", "b"])}, "time": np.datetime64(1, "ns"), "span": np.timedelta64(1500, "ms"),
        "times": np.array([[1, "NaT"]], "M8[ns]"),
    }  # fmt: skip
    found = to_json(facts)
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "rate": 2.5, "gap": None, "far": None, "on": True, "3": [1, 2], "text": "café", "axes": [[1.0, None]],
        "day": "2026-01-02", "none": None, "inner": {"names": ["a", "b"]},
        "time": "1970-01-01T00:00:00.000000001", "span": 1.5, "times": [["1970-01-01T00:00:00.000000001", None]],
    }  # fmt: skip
    assert type(found["on"]) is bool


def test_json_text_of_arrays_and_tensors():
    value = {
        "grid": np.arange(6).reshape(2, 3).T, "x": np.float32(0.1), "t": torch.tensor([1.5]), "gap": np.nan,
        "names": np.array(["a"]),
    }  # fmt: skip
    expected = {"grid": [[0, 3], [1, 4], [2, 5]], "x": 0.1, "t": [1.5], "gap": None, "names": ["a"]}
    assert json.loads(json_bytes(value)) == expected
    with pytest.raises(TypeError):
        json_bytes({"a": object()})


def test_a_key_that_comes_twice_is_refused_at_any_depth():
    assert loads_unique('{"a": {"b": [{"c": 1}, {"c": 2}]}}') == {"a": {"b": [{"c": 1}, {"c": 2}]}}
    for text in ('{"a": 1, "a": 1}', '{"x": [{"a": 1, "b": 2, "a": 3}]}'):
        with pytest.raises(ValueError, match="the key 'a' comes twice"):
            loads_unique(text)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([], "i8"),
        ([-(2**63), 2**63 - 1], "i8"),
        ([0, 2**63 + 1], "u8"),
        ([2**64 - 1], "u8"),
        ([-1, 2**63 + 1], "O"),
        ([2**64], "O"),
        ([0.5, 2**53], "f8"),
        ([0.5, 2**53 + 1], "O"),
        ([0.5, -(2**53) - 1], "O"),
    ],
)
def test_numbers_become_arrays_that_hold_them_exactly(values, dtype):
    found = exact_numbers(values)
    assert (found.dtype, found.tolist()) == (np.dtype(dtype), values)


def test_what_pandas_does_not_know_is_none():
    pandas = pytest.importorskip("pandas")
    assert to_json([pandas.NaT, pandas.NA, pandas.Timestamp("2026-01-02")]) == [None, None, "2026-01-02 00:00:00"]


@given(st.lists(st.integers(-5, 5)), st.sampled_from(["i8", "u1", "f8"]))
def test_sorted_unique_is_the_sorted_set(numbers, dtype):
    array = np.array(numbers).astype(dtype)
    found = sorted_unique(array.reshape(2, -1) if len(array) % 2 == 0 else array)
    assert found.dtype == array.dtype
    assert found.tolist() == sorted(set(array.tolist()))
