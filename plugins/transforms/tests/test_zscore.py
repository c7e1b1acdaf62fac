"""Z-scores, from numbers given and from a data set's statistics."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm_shards.errors import ConfigError
from neurofm_shards.plugins.registry import registry
from neurofm_shards.types import Block, Ragged


def make(**options):
    return registry().transforms.make({"kind": "zscore", "fields": ["x"], **options})


def statistics(x):
    flat = x.reshape(-1, x.shape[-1]).astype(np.float64)
    return {"x": {"mean": flat.mean(0).tolist(), "std": flat.std(0).tolist()}}


@pytest.fixture
def two_sessions():
    rng = np.random.default_rng(0)
    a, b = rng.poisson(3, (5, 20, 4)).astype(np.uint8), rng.poisson(40, (5, 20, 4)).astype(np.uint8)
    manifest = {
        "statistics": {
            "columns": statistics(np.concatenate([a, b])),
            "sessions": {"a": statistics(a), "b": statistics(b)},
        }
    }
    block = Block(
        {"x": np.concatenate([a, b])}, [{"session_id": "a"} for _ in range(5)] + [{"session_id": "b"} for _ in range(5)]
    )
    return block, manifest


def test_the_whole_data_set_comes_out_with_mean_0_and_deviation_1(two_sessions):
    block, manifest = two_sessions
    got = make().bind(manifest).apply_block(block).columns["x"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(got.std((0, 1)), 1, atol=1e-5)


def test_each_session_comes_out_with_mean_0_and_deviation_1(two_sessions):
    block, manifest = two_sessions
    transform = make(by="session").bind(manifest)
    got = transform.apply_block(block).columns["x"]
    for part in (got[:5], got[5:]):
        np.testing.assert_allclose(part.mean((0, 1)), 0, atol=1e-5)
        np.testing.assert_allclose(part.std((0, 1)), 1, atol=1e-5)
    for i in range(10):
        np.testing.assert_array_equal(got[i], transform({"x": block.columns["x"][i]}, block.metadata[i])["x"])


def test_ragged_columns_use_their_own_session(two_sessions):
    block, manifest = two_sessions
    x = block.columns["x"]
    ragged = Ragged(np.concatenate([x[0][:7], x[5][:3]]), np.array([0, 7, 10]))
    transform = make(by="session").bind(manifest)
    got = transform.apply_block(Block({"x": ragged}, [{"session_id": "a"}, {"session_id": "b"}])).columns["x"]
    np.testing.assert_array_equal(got[1], transform({"x": x[5][:3]}, {"session_id": "b"})["x"])


def test_a_session_that_lacks_a_modality_needs_no_statistics_of_it(two_sessions):
    block, manifest = two_sessions
    manifest["statistics"]["sessions"]["c"] = {}
    transform = make(by="session").bind(manifest)
    x = [block.columns["x"][0], np.zeros((20, 0), np.uint8)]
    got = transform.apply_block(Block({"x": x}, [{"session_id": "a"}, {"session_id": "c"}])).columns["x"]
    assert [value.shape for value in got] == [(20, 4), (20, 0)]
    np.testing.assert_array_equal(got[0], transform({"x": x[0]}, {"session_id": "a"})["x"])
    with pytest.raises(ConfigError, match="no statistics for session 'c' of 'x': .* split within sessions"):
        transform({"x": x[0]}, {"session_id": "c"})


def test_a_channel_that_never_changes_is_divided_by_one():
    manifest = {"statistics": {"columns": {"x": {"mean": [2.0, None], "std": [0.0, None]}}}}
    got = make().bind(manifest)({"x": np.array([[2.0, 5.0]])}, {})["x"]
    np.testing.assert_array_equal(got, [[0.0, 5.0]])


def test_numbers_given_are_used_without_a_data_set():
    got = make(mean=[1.0], std=[2.0])({"x": np.array([[3.0, 5.0]])}, {})["x"]
    np.testing.assert_array_equal(got, [[1.0, 2.0]])
    assert make(mean=[1.0], std=[2.0]).bind({}).apply_block(Block({"x": np.zeros((0, 2, 2))}, [])) is not None


def test_what_is_missing_is_said(two_sessions):
    _, manifest = two_sessions
    with pytest.raises(ConfigError, match="give mean and std"):
        make()({"x": np.zeros((2, 2))}, {})
    with pytest.raises(ConfigError, match="no statistics of 'x'"):
        make().bind({"statistics": {"columns": {"y": {}}}})
    with pytest.raises(ConfigError, match="no statistics per session"):
        make(by="session").bind({})
    with pytest.raises(ConfigError, match="no session has statistics of 'y'"):
        make(by="session", fields=["y"]).bind(manifest)
    with pytest.raises(ConfigError, match="no statistics for session 'c'"):
        make(by="session").bind(manifest)({"x": np.zeros((2, 4))}, {"session_id": "c"})
    with pytest.raises(ConfigError, match="4 means or deviations for 3 channels"):
        make().bind(manifest)({"x": np.zeros((2, 3))}, {})
    with pytest.raises(ConfigError, match="both mean and std"):
        make(mean=[1.0])
