"""Statistics of channels, against plain NumPy, with and without the C module, which give the same to the last bit.

Broken on purpose, each of these is caught here: a last chunk that is read beyond its end, rows added in another order,
the largest or smallest value of a chunk's first or last row, values that are not finite taken for numbers.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm_shards.writing import statistics
from neurofm_shards.writing.statistics import ChannelStats

KINDS = [True, False] if statistics.COMPILED else [False]
FIELDS = ("count", "nans", "mean", "m2", "low", "high")


@pytest.mark.parametrize("compiled", KINDS)
def test_nan_infinity_and_integers_have_right_statistics(monkeypatch, compiled):
    monkeypatch.setattr(statistics, "COMPILED", compiled)
    rng = np.random.default_rng(0)
    gaps = rng.standard_normal((200_000, 3))
    gaps[rng.random(gaps.shape) < 0.3] = np.nan
    gaps[:, 2] = np.nan
    counts = rng.integers(0, 255, (100_000, 4)).astype("u1")
    wide = rng.standard_normal((50_000, 40)).astype("f4")
    wide[20_000:20_010, 7] = np.nan
    many = rng.integers(0, 255, (20_000, 100)).astype("u1")
    climbing = np.arange(13_104.0 * 40).reshape(-1, 40)  # the largest values in the last rows of whole chunks
    narrow = rng.integers(-30_000, 30_000, (70_000, 1)).astype("i2")
    for values in (gaps, counts, wide, many, climbing, narrow, gaps[:, :1].astype("f4")):
        got = ChannelStats.of(values).to_json()
        exact = values.astype(np.float64)
        seen = ~np.isnan(exact)
        assert got["count"] == seen.sum(axis=0).tolist()
        assert got["nans"] == (~seen).sum(axis=0).tolist()
        for channel in range(values.shape[1]):
            known = exact[seen[:, channel], channel]
            if len(known) == 0:
                assert got["mean"][channel] is got["std"][channel] is got["min"][channel] is None
                continue
            found = [got[name][channel] for name in ("mean", "std", "min", "max")]
            np.testing.assert_allclose(
                found, [known.mean(), known.std(), known.min(), known.max()], rtol=1e-9, atol=1e-12
            )
    infinite = ChannelStats.of(np.array([[1.0], [np.inf]])).to_json()
    assert (infinite["count"], infinite["mean"], infinite["max"]) == ([2], [None], [None])


@pytest.mark.skipif(not statistics.COMPILED, reason="built without a compiler")
@given(
    dtype=st.sampled_from(["u1", "i1", "u2", "i2", "i4", "f4", "f8", ">i2", ">f4"]),
    rows=st.integers(1, 300),
    width=st.integers(32, 70),
    chunk=st.integers(32, 4000),
    odd=st.sampled_from([None, np.nan, np.inf]),
    seed=st.integers(0, 1000),
)
def test_the_module_gives_the_numbers_of_numpy_to_the_last_bit(dtype, rows, width, chunk, odd, seed):
    values = (np.random.default_rng(seed).normal(size=(rows, width)) * 100).astype(dtype)
    if odd is not None and values.dtype.kind == "f":
        values[rows // 2, width // 2] = odd
    found = []
    for compiled in KINDS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(statistics, "COMPILED", compiled)
            patch.setattr(statistics, "_CHUNK_VALUES", chunk)
            found.append(ChannelStats.of(values))
    for name in FIELDS:
        first, second = (getattr(stats, name) for stats in found)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second, err_msg=name)


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_moments_are_those_of_exact_arithmetic(dtype):
    values = (np.random.default_rng(1).normal(size=(150, 33)) * 100).astype(dtype)
    stats = ChannelStats.of(values)
    for channel in range(33):
        numbers = [Fraction(float(value)) for value in values[:, channel]]
        mean = sum(numbers) / len(numbers)
        assert math.isclose(stats.mean[channel], mean, rel_tol=1e-13, abs_tol=1e-13)
        assert math.isclose(stats.m2[channel], sum((n - mean) ** 2 for n in numbers), rel_tol=1e-12)
        assert (stats.low[channel], stats.high[channel]) == (min(numbers), max(numbers))


@pytest.mark.skipif(not statistics.COMPILED, reason="built without a compiler")
class TestWhatTheModuleRefuses:
    """Whatever it is given, it reads and writes inside of its buffers."""

    def moments(self, **changed):
        said = {"values": np.arange(10.0).reshape(5, 2), "rows": 2, "out": np.zeros((4, 3, 2)), **changed}
        statistics._moments.moments(said["values"], said["rows"], said["out"])
        return said["out"]

    def test_it_computes(self):
        mean, spread, low, high = self.moments().tolist()
        assert mean == [[1, 2], [5, 6], [8, 9]]
        assert spread == [[2, 2], [2, 2], [0, 0]]
        assert (low, high) == ([[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7], [8, 9]])

    @pytest.mark.parametrize(
        "changed",
        [
            {"rows": 0},
            {"rows": -1},
            {"rows": 3},  # other chunks than there is room for
            {"rows": 1 << 62},
            {"rows": "2"},
            {"out": np.zeros((4, 2, 2))},
            {"out": np.zeros((3, 3, 2))},
            {"out": np.zeros((4, 3, 3))},
            {"out": np.zeros((4, 3, 2), np.float32)},
            {"out": np.zeros((4, 2, 3)).swapaxes(1, 2)},
            {"out": b"0" * 192},
            {"values": np.arange(10.0)},
            {"values": np.arange(20.0).reshape(5, 4)[:, ::2]},
            {"values": np.arange(10).reshape(5, 2)},
            {"values": np.zeros((5, 2), ">f8")},
            {"values": np.zeros((5, 2), complex)},
            {"values": None},
        ],
    )
    def test_it_refuses(self, changed):
        with pytest.raises((TypeError, ValueError, BufferError)):
            self.moments(**changed)
