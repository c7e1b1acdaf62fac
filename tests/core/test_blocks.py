"""Samples become blocks and come back."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from neurofm_shards.blocks import (
    MISSING,
    block_from_samples,
    column_spec,
    concat_blocks,
    map_block,
    samples_of,
    take,
)
from neurofm_shards.errors import ConfigError
from neurofm_shards.types import Block, ColumnSpec, Ragged

SAMPLES = [
    {"x": np.full((2, 3), i, "f4"), "r": np.arange(i), "w": f"w{i}", "odd": np.zeros(i % 2 + 1, f"f{4 * (i % 2 + 1)}")}
    for i in range(4)
]
METADATA = [{"i": i} for i in range(4)]


def equal(a, b):
    return a.keys() == b.keys() and all(
        np.array_equal(a[k], b[k]) and getattr(a[k], "dtype", None) == getattr(b[k], "dtype", None) for k in a
    )


def test_columns_take_the_form_that_fits():
    block = block_from_samples(SAMPLES, METADATA)
    assert block.columns["x"].shape == (4, 2, 3)
    assert isinstance(block.columns["r"], Ragged)
    assert isinstance(block.columns["w"], list)
    assert isinstance(block.columns["odd"], list)
    assert all(equal(a, b) and m is n for (a, m), b, n in zip(samples_of(block), SAMPLES, METADATA, strict=True))


def test_missing_fields_stay_missing():
    block = block_from_samples([{"a": 1}, {"b": np.zeros(2)}], [{}, {}])
    assert block.columns["a"] == [1, MISSING]
    assert [set(sample) for sample, _ in samples_of(block)] == [{"a"}, {"b"}]
    assert pickle.loads(pickle.dumps(MISSING)) is MISSING


def test_a_transform_may_change_and_drop():
    block = block_from_samples(SAMPLES, METADATA, keys=list("abcd"))
    kept = map_block(lambda s, m: {"x": s["x"] * 2} if m["i"] % 2 else None, block)
    assert kept.rows.tolist() == [1, 3]
    assert (kept.keys, kept.metadata) == (["b", "d"], [{"i": 1}, {"i": 3}])
    np.testing.assert_array_equal(kept.columns["x"], np.stack([SAMPLES[1]["x"], SAMPLES[3]["x"]]) * 2)
    unchanged = map_block(lambda s, _: s, Block(block.columns, METADATA, rows=np.arange(5, 9)))
    assert unchanged.rows.tolist() == [5, 6, 7, 8]
    assert len(map_block(lambda _s, _m: None, block)) == 0


def test_blocks_are_cut_and_joined():
    block = block_from_samples(SAMPLES, METADATA)
    joined = concat_blocks([take(block, np.array([0, 1])), take(block, np.array([2])), take(block, np.array([3]))])
    assert isinstance(joined.columns["r"], Ragged)
    assert all(equal(a, b) for (a, _), b in zip(samples_of(joined), SAMPLES, strict=True))
    mixed = concat_blocks([Block({"a": np.zeros((1, 2))}, [{}]), Block({"b": [1]}, [{}])])
    assert mixed.columns["a"][1] is MISSING


def test_specs():
    block = block_from_samples(SAMPLES, METADATA)
    specs = {name: column_spec(name, data) for name, data in block.columns.items()}
    assert specs["x"] == ColumnSpec("x", "<f4", (2, 3))
    assert specs["r"] == ColumnSpec("r", "<i8", (None,))
    assert specs["w"] == ColumnSpec("w", None, None)
    assert specs["odd"].dtype is None
    assert column_spec("be", np.zeros((2, 3), ">f8")).dtype == "<f8"
    a, b = ColumnSpec("x", "<f4", (2, 3), "V"), ColumnSpec("x", "<f4", (2, 4), "V")
    assert a.merge(b) == ColumnSpec("x", "<f4", (2, None), "V")
    assert a.merge(ColumnSpec("x", "<f4", (2,), "s")) == ColumnSpec("x", "<f4", None, None)


def test_as_many_metadata_as_samples():
    with pytest.raises(ConfigError, match="one per sample"):
        block_from_samples(SAMPLES, METADATA[:2])
