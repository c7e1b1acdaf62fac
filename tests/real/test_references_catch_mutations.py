"""The references notice wrong programs: each named mutation of what the program gives is told from the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference_files import epochs, regular_series, series, spike_trains
from reference_windows import centres, circular_distance, counts, fixed_starts, interpolated, samples_of_windows

pytestmark = pytest.mark.plugins
pytest.importorskip("h5py")

A2929 = "A2929_head_direction.nwb"
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def truth(shared_data, windows_of):
    """The program's counts in the wake epoch, the reference's, and the spikes in seconds."""
    starts, stops, _ = epochs(shared_data / A2929)
    windows, _ = fixed_starts(int(starts[1]), int(stops[1]), 10_000_000, 100, 100)
    _, trains = spike_trains(shared_data / A2929)
    _, block = windows_of(A2929, overlap=0.0, epochs=("wake",))
    assert np.array_equal(block.columns["spikes"], counts(trains, windows, 10_000_000, 100))
    return block, trains, windows


def tiled(times, bins):
    """Count per bin number, dropping numbers that are no bin."""
    keep = (bins >= 0) & (bins < 60_000)
    return np.bincount(bins[keep], minlength=60_000) if len(times) else np.zeros(60_000, dtype=np.int64)


SPIKE_MUTATIONS = {
    "a bin off by one": lambda t: tiled(t, ((t - 600 * SECOND) // 10_000_000) + 1),
    "clipping instead of excluding": lambda t: tiled(t, np.clip((t - 600 * SECOND) // 10_000_000, 0, 59_999)),
    "floating floor division": lambda t: tiled(t, np.floor((t / 1e9) / 0.01).astype(int) - 60_000),
    "bins closed at the right": lambda t: tiled(t, (t - 600 * SECOND - 1) // 10_000_000),
    "rounding to the nearest bin": lambda t: tiled(t, np.rint((t - 600 * SECOND) / 10_000_000).astype(int)),
    "the origin forgotten": lambda t: tiled(t, t // 10_000_000),
    "an index read as 8 bits": lambda t: tiled(t[: len(t) % 256], (t[: len(t) % 256] - 600 * SECOND) // 10_000_000),
}


@pytest.mark.parametrize("mutation", SPIKE_MUTATIONS)
def test_wrong_counts_are_noticed(truth, mutation):
    block, trains, windows = truth
    wrong = np.stack([SPIKE_MUTATIONS[mutation](train) for train in trains], axis=-1).reshape(600, 100, -1)
    reference = counts(trains, windows, 10_000_000, 100)
    assert not np.array_equal(wrong, reference)
    assert np.array_equal(block.columns["spikes"], reference)


def test_the_right_count_by_the_same_path_is_not_noticed(truth):
    _, trains, windows = truth
    right = np.stack([tiled(train, (train - 600 * SECOND) // 10_000_000) for train in trains], axis=-1)
    assert np.array_equal(right.reshape(600, 100, -1), counts(trains, windows, 10_000_000, 100))


def test_wrong_headings_are_noticed(shared_data, truth):
    at = centres(truth[2], 10_000_000, 100)
    times, values = series(shared_data / A2929, "acquisition/CompassDirection/ry")
    wanted, known = interpolated(times, values, at, math.tau)
    across = np.interp(at, times, values)
    assert circular_distance(across[known], wanted[known], math.tau).max() > 1
    held = values[np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(values) - 1)]
    assert circular_distance(held[known], wanted[known], math.tau).max() > 1e-3
    by_rate = np.interp(at, times[0] + np.arange(len(times)) / 119.8, np.unwrap(values))
    assert circular_distance(by_rate[known] % math.tau, wanted[known], math.tau).max() > 1e-3
    assert not known.all()


def test_a_forgotten_scale_and_a_shifted_sample_are_noticed(shared_data, windows_of):
    stored, first, rate, factor = regular_series(
        shared_data / "neuropixels_lf_int16.nwb", "acquisition/ElectricalSeriesLF"
    )
    starts = np.arange(5, dtype=np.int64) * SECOND
    wanted = samples_of_windows(stored, first, rate, starts, 2500) * factor
    _, block = windows_of("neuropixels_lf_int16.nwb", overlap=0.0)
    assert np.allclose(block.columns["lfp"], wanted, rtol=1e-6, atol=0)
    assert not np.allclose(block.columns["lfp"], wanted / factor, rtol=1e-6, atol=0)
    assert not np.allclose(block.columns["lfp"], np.roll(wanted, 1, axis=1), rtol=1e-6, atol=0)


def patched_times(monkeypatch, change):
    """Make the program itself wrong: spike times are changed where the plugin hands them over."""
    from neurofm_shards_nwb import tables

    original = tables._reader

    def wrong(*arguments):
        read = original(*arguments)
        return lambda: change(*read())

    monkeypatch.setattr(tables, "_reader", wrong)


PROGRAM_MUTATIONS = {
    "times shifted by a bin": lambda times, owner: (times + 0.01, owner),
    "times kept as float32": lambda times, owner: (times.astype(np.float32).astype(np.float64), owner),
    "units in another order": lambda times, owner: (times, owner.max() - owner),
    "the last spike lost": lambda times, owner: (times[:-1], owner[:-1]),
}


@pytest.mark.parametrize("mutation", PROGRAM_MUTATIONS)
def test_a_wrong_plugin_is_noticed(truth, windows_of, monkeypatch, mutation):
    patched_times(monkeypatch, PROGRAM_MUTATIONS[mutation])
    _, block = windows_of(A2929, overlap=0.0, epochs=("wake",))
    assert not np.array_equal(block.columns["spikes"], counts(truth[1], truth[2], 10_000_000, 100))
