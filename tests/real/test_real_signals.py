"""LFP and ROI responses of the real recordings equal an independent computation."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from reference_files import regular_series
from reference_windows import samples_of_windows

pytestmark = pytest.mark.plugins

LFP = "neuropixels_lf_int16.nwb"
SERIES = "acquisition/ElectricalSeriesLF"
ROIS = "suite2p_transposed_rois.nwb"


def test_lfp_is_in_volts_at_9375_nanovolts_per_count(shared_data, windows_of):
    stored, first, rate, factor = regular_series(shared_data / LFP, SERIES)
    assert factor == 9.375e-6
    plan, block = windows_of(LFP)
    starts = np.arange(9, dtype=np.int64) * 500_000_000
    assert [entry["window_start_s"] for entry in block.metadata] == (starts / 1e9).tolist()
    wanted = samples_of_windows(stored, first, rate, starts, 2500).astype(np.float64) * factor
    assert np.allclose(block.columns["lfp"], wanted, rtol=1e-6, atol=0)
    assert block.columns["lfp_valid"].all()
    assert next(spec.unit for spec in plan.columns if spec.name == "lfp") == "V"
    assert [row["id"].rpartition("/")[2] for row in plan.tables["channels"]] == [str(i) for i in range(384)]


@pytest.mark.parametrize(("units", "factor"), [("uV", 9.375), ("raw", 1.0)])
def test_lfp_in_other_units_of_measure(shared_data, windows_of, units, factor):
    stored, first, rate, _ = regular_series(shared_data / LFP, SERIES)
    _, block = windows_of(LFP, lfp={"units": units}, overlap=0.0)
    starts = np.arange(5, dtype=np.int64) * 1_000_000_000
    wanted = samples_of_windows(stored, first, rate, starts, 2500) * factor
    assert np.allclose(block.columns["lfp"], wanted, rtol=1e-6, atol=0)


def test_chosen_channels_come_in_the_order_they_were_asked_for(shared_data, windows_of):
    stored, *_ = regular_series(shared_data / LFP, SERIES)
    _, block = windows_of(LFP, lfp={"channels": ("300", "7"), "units": "raw"}, overlap=0.0)
    assert np.array_equal(block.columns["lfp"][0], stored[:2500, [300, 7]])


def low_passed(values, rate, highest):
    """Drop all frequencies above ``highest`` (along time) by Fourier transform."""
    spectrum = np.fft.rfft(values, axis=0)
    spectrum[np.fft.rfftfreq(len(values), 1 / rate) > highest] = 0
    return np.fft.irfft(spectrum, len(values), axis=0)


def test_resampled_lfp_keeps_what_lies_below_the_new_band(shared_data, windows_of):
    stored, _, rate, factor = regular_series(shared_data / LFP, SERIES)
    plan, block = windows_of(LFP, lfp={"rate": 500.0, "channels": ("5", "200")}, overlap=0.0)
    assert next(spec.shape for spec in plan.columns if spec.name == "lfp") == (500, 2)
    whole = low_passed(stored[:12500, [5, 200]].astype(np.float64) * factor, rate, 100.0)[::5]
    found = low_passed(block.columns["lfp"].reshape(-1, 2).astype(np.float64), 500.0, 100.0)
    middle = slice(250, -250)
    spread = (whole[middle] - whole[middle].mean(axis=0)).std(axis=0)
    assert np.all((found - whole)[middle].std(axis=0) < 0.02 * spread)


@pytest.mark.parametrize("name", ["Fluorescence", "Neuropil", "Deconvolved"])
def test_roi_responses_are_time_by_roi(shared_data, windows_of, name):
    path = f"processing/ophys/{name}/{name}"
    with h5py.File(shared_data / ROIS) as file:
        stored = file[path]["data"][()]
    assert stored.shape == (219, 2000)
    plan, block = windows_of(ROIS, ophys={"path": path}, overlap=0.0)
    assert plan.num_samples == 200
    assert np.array_equal(block.columns["ophys"].reshape(2000, 219), stored.T)
    table = next(spec.table for spec in plan.columns if spec.name == "ophys_channels")
    assert [row["id"].rpartition("/")[2] for row in plan.tables[table]] == [str(roi) for roi in range(219)]
