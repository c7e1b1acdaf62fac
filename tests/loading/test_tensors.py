"""Batches: what becomes of each kind of field, the same through samples and through gathered columns."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.blocks import MISSING
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.tensors import TensorOptions, batch_to_tensors, collate_webdataset, delivered_dtypes
from neurofm_shards.types import ColumnSpec, Ragged

WAYS = ["list", "pad", "packed", "nested"]


def same(one, two):
    if isinstance(one, torch.Tensor) and one.is_nested:
        return same(list(one.unbind()), list(two.unbind()))
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def test_equal_shapes_are_stacked_and_numbers_become_tensors():
    batch = collate_webdataset(
        [
            {"x": np.full((2, 3), i, "f4"), "t": torch.tensor([i]), "n": i, "r": i / 2, "ok": i > 0, "who": f"M{i}"}
            for i in range(3)
        ]
    )
    assert batch["x"].shape == (3, 2, 3)
    assert batch["x"].dtype == torch.float32
    assert batch["t"].tolist() == [[0], [1], [2]]
    assert batch["n"].dtype == torch.int64
    assert batch["r"].dtype == torch.float64
    assert batch["ok"].tolist() == [False, True, True]
    assert batch["who"] == ["M0", "M1", "M2"]


def test_metadata_stays_a_list_of_dicts():
    batch = collate_webdataset([{"x": 1, "metadata": {"a": 1}}, {"x": 2}])
    assert batch["metadata"] == [{"a": 1}, {}]


def test_a_field_that_some_samples_lack_is_none_there():
    batch = collate_webdataset([{"x": np.ones(2)}, {"y": 3}])
    assert batch["x"][1] is None
    assert batch["y"] == [None, 3]
    gathered = batch_to_tensors({"y": [MISSING, 3]})
    assert gathered["y"] == [None, 3]


def test_shapes_that_differ_become_a_list():
    batch = collate_webdataset([{"x": np.ones((2, 3))}, {"x": np.ones((2, 5))}, {"x": np.ones(4)}])
    assert [tuple(value.shape) for value in batch["x"]] == [(2, 3), (2, 5), (4,)]


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=8), width=st.integers(0, 3), how=st.sampled_from(WAYS))
def test_ragged_columns_give_what_their_samples_give(lengths, width, how):
    rng = np.random.default_rng(len(lengths))
    shape = () if width == 0 else (width,)
    values = rng.integers(0, 99, (sum(lengths), *shape)).astype("i4")
    data = Ragged(values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    columns = {"x": ColumnSpec("x", "<i4", (None, *shape))}
    whole = batch_to_tensors({"x": data}, None, TensorOptions(how, -1))
    single = collate_webdataset(
        [{"x": data[i]} for i in range(len(lengths))], ragged=how, pad_value=-1, columns=columns
    )
    assert list(whole) == list(single)
    assert all(same(whole[name], single[name]) for name in whole)
    parts = np.split(values, np.cumsum(lengths)[:-1])
    if how == "pad":
        for i, part in enumerate(parts):
            np.testing.assert_array_equal(whole["x"][i][whole["x_mask"][i]], part)
            assert (whole["x"][i][~whole["x_mask"][i]] == -1).all()
    elif how == "packed":
        bounds = pairwise(whole["x_offsets"].tolist())
        assert all(np.array_equal(whole["x"][a:b], part) for (a, b), part in zip(bounds, parts, strict=True))
    else:
        found = whole["x"].unbind() if how == "nested" else whole["x"]
        assert all(np.array_equal(a, b) for a, b in zip(found, parts, strict=True))


def test_units_that_differ_are_padded_with_a_mask_of_units():
    samples = [{"spikes": np.ones((4, units), "f4")} for units in (3, 5)]
    batch = collate_webdataset(samples, ragged="pad", pad_value=-1)
    assert batch["spikes"].shape == (2, 4, 5)
    assert batch["spikes_mask"].sum(1).tolist() == [3, 5]
    assert (batch["spikes"][0, :, 3:] == -1).all()
    columns = {"spikes": ColumnSpec("spikes", "<f4", (4, None))}
    one_session = batch_to_tensors({"spikes": [np.ones((4, 3), "f4")] * 2}, None, TensorOptions("pad", 0.0, columns))
    assert one_session["spikes_mask"].shape == (2, 3)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i8", "f2", "c8", "?"])
def test_every_type_is_padded_and_has_gaps(dtype):
    most = np.iinfo(dtype).max if dtype[0] in "iu" else 1
    values = [np.resize(np.array([0, most], dtype), length) for length in (2, 3)]
    padded = collate_webdataset([{"x": value} for value in values], ragged="pad")
    assert [part[mask].numpy().tolist() for part, mask in zip(padded["x"], padded["x_mask"], strict=True)] == [
        value.tolist() for value in values
    ]
    options = TensorOptions(columns={"x": ColumnSpec("x", np.dtype(dtype).str, ())}, optional=frozenset("x"))
    for rows in ([values[0][1], MISSING], [MISSING, MISSING], [values[0][0], MISSING, values[0][1]]):
        gaps = batch_to_tensors({"x": rows}, None, options)
        assert gaps["x"].numpy().dtype == dtype
        assert gaps["x"].numpy().tolist() == [0 if row is MISSING else row.item() for row in rows]
        assert gaps["x_valid"].tolist() == [row is not MISSING for row in rows]


def test_equally_long_samples_of_a_ragged_column_are_treated_like_all_others():
    samples = [{"x": np.ones(3)}, {"x": np.zeros(3)}]
    columns = {"x": ColumnSpec("x", "<f8", (None,))}
    assert "x_mask" in collate_webdataset(samples, ragged="pad", columns=columns)
    assert collate_webdataset(samples, ragged="pad")["x"].shape == (2, 3)


def test_tensors_share_the_memory_of_gathered_arrays():
    array = np.zeros((2, 3))
    batch_to_tensors({"x": array})["x"][0, 0] = 5
    assert array[0, 0] == 5


def test_types_that_torch_lacks_stay_arrays():
    batch = batch_to_tensors({"when": np.zeros(3, "M8[s]"), "x": np.zeros(3, "u2")})
    assert isinstance(batch["when"], np.ndarray)
    assert batch["x"].dtype == torch.uint16


def test_counts_become_float32_unless_the_stored_type_is_wanted():
    columns = {
        "spikes": ColumnSpec("spikes", "|u1", (3,)),
        "licks": ColumnSpec("licks", "<u2", (3,), unit="count"),
        "pixels": ColumnSpec("pixels", "|u1", (3,)),
        "net": ColumnSpec("net", "<i4", (3,), unit="count"),
    }
    assert delivered_dtypes(columns) == {"spikes": np.dtype("f4"), "licks": np.dtype("f4")}
    assert delivered_dtypes(columns, "stored") == {}
    with pytest.raises(ConfigError, match="choose 'float32' or 'stored'"):
        delivered_dtypes(columns, "int8")


def test_wrong_arguments_are_explained():
    with pytest.raises(ConfigError, match="at least one sample"):
        collate_webdataset([])
    with pytest.raises(ConfigError, match="ragged='pack'"):
        collate_webdataset([{"x": 1}], ragged="pack")
    with pytest.raises(ConfigError, match=r"pad_value=0.5 does not fit .*int32"):
        batch_to_tensors({"x": Ragged(np.zeros(2, "i4"), np.array([0, 1, 2]))}, None, TensorOptions("pad", 0.5))
