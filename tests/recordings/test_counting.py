"""Counting windows of many trains at once gives what counting event by event gives, with and without the C module.

Broken on purpose, each of these is caught here: a window's end that is taken in, a partial bin that is counted, rows
that are not chosen, counts that wrap, an owner beyond the rows.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm_shards.recordings import counting
from neurofm_shards.recordings.counting import Train, count_trains

KINDS = [True, False] if counting.COMPILED else [False]


def by_hand(trains, which, starts, stops, bins, bin_ticks, widths):
    """Count with plain loops."""
    out = []
    for t, start, stop, width, length in zip(which, starts, stops, widths, bins, strict=True):
        counts = np.zeros((length, width), int)
        last = start + min(stop - start, length * bin_ticks) // bin_ticks * bin_ticks
        for tick, owner in zip(trains[t].ticks, trains[t].owner, strict=True):
            row = int(owner) if trains[t].rows is None else int(trains[t].rows[owner])
            if start <= tick < last and row >= 0:
                counts[(tick - start) // bin_ticks, row] += 1
        out.append(counts.ravel())
    return np.concatenate([*out, np.zeros(0, int)])


@st.composite
def trains_and_windows(draw):
    trains, widths = [], []
    for _ in range(draw(st.integers(1, 3))):
        owners = draw(st.integers(1, 5))
        n = draw(st.integers(0, 40))
        ticks = np.sort(np.array(draw(st.lists(st.integers(-50, 300), min_size=n, max_size=n)), dtype=np.int64))
        owner = np.array(draw(st.lists(st.integers(0, owners - 1), min_size=n, max_size=n)))
        rows = None
        if draw(st.booleans()):
            keep = np.array(draw(st.lists(st.booleans(), min_size=owners, max_size=owners)))
            rows = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32)
        trains.append(Train(ticks, owner.astype(draw(st.sampled_from(["u2", "u4", "i4"]))), rows))
        widths.append(owners if rows is None else int(keep.sum()))
    which = np.array(draw(st.lists(st.integers(0, len(trains) - 1), max_size=8)), dtype=np.int64)
    starts = np.array([draw(st.integers(-60, 300)) for _ in which], dtype=np.int64)
    bins, bin_ticks = np.array([draw(st.integers(1, 6)) for _ in which], np.int64), draw(st.integers(1, 20))
    stops = starts + np.array([draw(st.integers(0, 7 * bin_ticks)) for _ in which], np.int64)
    return trains, which, starts, stops, bins, bin_ticks, np.array(widths, np.int64)[which]


@pytest.mark.parametrize("compiled", KINDS)
@pytest.mark.parametrize("delivered", ["uint8", "uint16", "float32"])
@given(made=trains_and_windows())
def test_counts_are_those_by_hand(compiled, delivered, made):
    trains, which, starts, stops, bins, bin_ticks, widths = made
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "COMPILED", compiled)
        patch.setattr(counting, "_CELLS_AT_ONCE", 40)  # NumPy counts a window or a few at once
        found = count_trains(trains, which, (starts, stops), bins, bin_ticks, widths, ("uint8", delivered))
    assert found.dtype == delivered
    assert found.tolist() == by_hand(trains, which, starts, stops, bins, bin_ticks, widths).tolist()


@pytest.mark.parametrize("compiled", KINDS)
@pytest.mark.parametrize("delivered", ["uint8", "float32"])
def test_a_count_that_does_not_fit_is_an_error_and_never_wraps(monkeypatch, compiled, delivered):
    monkeypatch.setattr(counting, "COMPILED", compiled)
    for n, fits in ((255, True), (256, False)):
        train = Train(np.zeros(n, np.int64), np.zeros(n, np.uint16), None)
        call = lambda train=train: count_trains(  # noqa: E731
            [train],
            np.array([0]),
            (np.array([0]), np.array([5])),
            np.array([1]),
            5,
            np.array([1]),
            ("uint8", delivered),
        )
        if fits:
            assert call().tolist() == [255]
        else:
            with pytest.raises(OverflowError):
                call()


@pytest.mark.skipif(not counting.COMPILED, reason="built without a compiler")
class TestWhatTheModuleRefuses:
    """Whatever it is given, it reads and writes inside of its buffers."""

    def count(self, **changed):
        said = {
            "ticks": np.arange(10),
            "owner": np.zeros(10, np.uint16),
            "rows": None,
            "windows": np.array([[0, 0, 2, 0, 2, 2]]),
            "bin_ticks": 5,
            "most": 255,
            "out": np.zeros(4, np.uint8),
            **changed,
        }
        train = said.get("train", (said["ticks"], said["owner"], said["rows"]))
        counting._events.count_events([train], said["windows"], said["bin_ticks"], said["most"], said["out"])
        return said["out"]

    def test_it_counts(self):
        assert self.count().tolist() == [5, 0, 5, 0]

    @pytest.mark.parametrize(
        "changed",
        [
            {"windows": np.array([[1, 0, 2, 0, 2, 2]])},  # no such train
            {"windows": np.array([[-1, 0, 2, 0, 2, 2]])},
            {"windows": np.array([[0, 0, 2, 1, 2, 2]])},  # beyond the output
            {"windows": np.array([[0, 0, 2, -1, 2, 2]])},
            {"windows": np.array([[0, 0, 2, 0, 3, 2]])},
            {"windows": np.array([[0, 0, 2, 0, -1, 2]])},
            {"windows": np.array([[0, 0, 2, 0, 1 << 62, 2]])},
            {"windows": np.array([[0, 0, 3, 0, 2, 2]])},  # longer than its bins
            {"windows": np.array([[0, -(1 << 63), 2, 0, 2, 2]])},
            {"windows": np.array([[0, 0, 0, 0, 2, 0]])},
            {"bin_ticks": 0},
            {"windows": np.array([[0, 0, 2, 0, 2, 1 << 62]]), "bin_ticks": 1 << 62},
            {"owner": np.full(10, 2, np.uint16)},  # nobody
            {"owner": np.full(10, -1, np.int32)},
            {"rows": np.array([5], np.int32)},
            {"owner": np.full(10, 9, np.uint16), "rows": np.array([0], np.int32)},
            {"owner": np.zeros(9, np.uint16)},
            {"owner": np.zeros(10, np.uint8)},
            {"ticks": np.zeros(10, np.int32)},
            {"ticks": np.zeros((10, 1), np.int64)},
            {"out": np.zeros(4, np.int32)},
            {"out": np.zeros(4, np.float64)},
            {"windows": np.zeros((1, 4), np.int64)},
            {"windows": np.zeros(6, np.int64)},
            {"train": (np.arange(3),)},
            {"train": None},
        ],
    )
    def test_it_refuses(self, changed):
        with pytest.raises((TypeError, ValueError, IndexError)):
            self.count(**changed)

    def test_times_out_of_order_stay_inside(self):
        rng = np.random.default_rng(0)
        for spread in np.repeat([8, 40, 1 << 62], 200).tolist():
            ticks, out = rng.integers(-spread, spread, 10), np.full(12, 77, np.uint8)
            table = np.array([[0, int(ticks[3]) // 2, rng.integers(0, 3), 4, 2, 2]])
            self.count(ticks=ticks, windows=table, out=out)
            assert (out[:4] == 77).all()
            assert (out[8:] == 77).all()
            assert out[4:8].sum() <= 10
