"""The transforms do what their names say, on one sample as on a block of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from neurofm_shards.errors import ConfigError
from neurofm_shards.plugins.registry import registry
from neurofm_shards.types import Block, Ragged

VALUES = [
    {"kind": "sqrt", "fields": ["x"]},
    {"kind": "clip", "fields": ["x"], "low": 1.0, "high": 3.0},
    {"kind": "cast", "fields": ["x"], "dtype": "float64"},
    {"kind": "smooth", "fields": ["x"], "sigma_bins": 1.5},
    {"kind": "smooth", "fields": ["x"], "sigma_bins": 1.0, "causal": True},
    {"kind": "crop", "fields": ["x"], "start": 1, "stop": 4},
    {"kind": "channel-mask", "fields": ["x"], "channels": [1]},
    {"kind": "channel-mask", "fields": ["x"], "channels": [0, 2], "mode": "remove"},
    {"kind": "select", "fields": ["x"]},
    {"kind": "rename", "names": {"x": "z"}},
]


def make(config):
    return registry().transforms.make(config)


def block_of(x, **more):
    return Block(columns={"x": x, **more}, metadata=[{} for _ in range(len(x))])


@pytest.mark.parametrize("config", VALUES, ids=lambda c: c["kind"])
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(x=arrays(np.float32, (3, 6, 4), elements=st.floats(0, 9, width=32)))
def test_a_block_gives_what_its_samples_give(config, x):
    transform = make(config)
    changed = transform.apply_block(block_of(x)).columns
    for i in range(3):
        alone = transform({"x": x[i]}, {})
        assert list(alone) == list(changed)
        for name, value in alone.items():
            np.testing.assert_array_equal(value, changed[name][i])


@pytest.mark.parametrize("config", VALUES[:8], ids=lambda c: c["kind"])
def test_ragged_columns_are_changed_sample_by_sample(config):
    rng = np.random.default_rng(0)
    parts = [rng.uniform(0, 9, (length, 4)).astype(np.float32) for length in (4, 7, 5)]
    column = Ragged(np.concatenate(parts), np.array([0, 4, 11, 16]))
    transform = make(config)
    changed = transform.apply_block(Block({"x": column}, [{}, {}, {}])).columns["x"]
    for i, part in enumerate(parts):
        np.testing.assert_array_equal(changed[i], transform({"x": part}, {})["x"])


def test_the_input_is_left_alone():
    x = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    before = x.copy()
    for config in VALUES:
        make(config).apply_block(block_of(x))
    np.testing.assert_array_equal(x, before)


def test_smoothing_agrees_with_a_direct_sum():
    x = np.random.default_rng(1).poisson(2.0, (40, 3)).astype(np.uint8)
    got = make({"kind": "smooth", "fields": ["x"], "sigma_bins": 2.0})({"x": x}, {})["x"]
    for t in (0, 5, 20, 39):
        near = [s for s in range(40) if abs(s - t) <= 8]
        weights = np.exp([-0.5 * ((s - t) / 2.0) ** 2 for s in near])
        np.testing.assert_allclose(got[t], weights @ x[near] / weights.sum(), rtol=1e-5)
    assert got.dtype == np.float32


def test_smoothing_keeps_a_constant_constant():
    got = make({"kind": "smooth", "fields": ["x"], "sigma_bins": 3.0})({"x": np.full((10, 2), 5.0)}, {})["x"]
    np.testing.assert_allclose(got, 5.0)


def test_causal_smoothing_never_looks_ahead():
    x = np.zeros((20, 1))
    x[10] = 1.0
    got = make({"kind": "smooth", "fields": ["x"], "sigma_bins": 2.0, "causal": True})({"x": x}, {})["x"]
    assert (got[:10] == 0).all()
    assert (got[10:15] > 0).all()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kind": "clip", "fields": ["x"]}, "give low, high or both"),
        ({"kind": "clip", "fields": ["x"], "low": 3, "high": 1}, "low is above high"),
        ({"kind": "cast", "fields": ["x"], "dtype": "object"}, "numeric"),
        ({"kind": "crop", "fields": ["x"], "start": 5, "stop": 5}, "stop must be after start"),
        ({"kind": "channel-mask", "fields": ["x"], "channels": [-1]}, "count from 0"),
        ({"kind": "smooth", "fields": ["x"], "sigma": 2.0}, "no such option"),
        ({"kind": "rename", "names": {"a": "c", "b": "c"}}, "same new name"),
    ],
)
def test_wrong_options_are_refused_with_a_reason(config, words):
    with pytest.raises(ConfigError, match=words):
        make(config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kind": "sqrt", "fields": ["y"]}, "no field 'y'.*there are: x"),
        ({"kind": "crop", "fields": ["x"], "start": 0, "stop": 9}, "9 of a sample with 4"),
        ({"kind": "channel-mask", "fields": ["x"], "channels": [7]}, "channel 7 of 3"),
        ({"kind": "cast", "fields": ["x"], "dtype": "int32"}, "NaN"),
        ({"kind": "sqrt", "fields": ["x"]}, "negative"),
    ],
)
def test_data_that_does_not_fit_is_an_error(config, words):
    x = np.array([[-1.0, np.nan, 2.0]] * 4)
    with pytest.raises(ConfigError, match=words):
        make(config)({"x": x}, {})
