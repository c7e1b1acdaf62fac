"""Spike counts of the real recordings equal an independent computation, to the last spike."""

from __future__ import annotations

import numpy as np
import pytest
from reference_files import epochs, spike_trains
from reference_recordings import expected
from reference_windows import counts, fixed_starts

pytestmark = pytest.mark.plugins
pytest.importorskip("h5py")

SPIKING = (
    "A2929_head_direction.nwb",
    "A8604_three_units.nwb",
    "anm00239123_photostim_trials.nwb",
    "anm372793_unsorted_spikes.nwb",
    "retina_R1_nwb_1.0.6.nwb",
)


@pytest.mark.parametrize("options", [{}, {"bin_size_ms": 20.0, "sequence_length": 33, "stride": 33}])
@pytest.mark.parametrize("name", SPIKING)
def test_counts_window_starts_and_drops_are_those_of_the_reference(shared_data, windows_of, name, options):
    width, bins = options.get("bin_size_ms", 10.0), options.get("sequence_length", 100)
    ids, starts, left, wanted, origin = expected(shared_data / name, width, bins, options.get("stride", 50))
    plan, block = windows_of(name, modalities=("spikes",), **options)
    assert plan.num_samples == len(starts)
    assert sum(plan.drops.values()) == left
    assert np.array_equal(block.columns["spikes"], wanted)
    assert [entry["window_start_s"] for entry in block.metadata] == (starts / 1e9).tolist()
    assert [entry["window_stop_s"] for entry in block.metadata] == ((starts + bins * round(width * 1e6)) / 1e9).tolist()
    assert {entry["origin_s"] for entry in block.metadata} == {origin / 1e9}
    assert [row["id"].rpartition("/")[2] for row in plan.tables["units"]] == ids


@pytest.mark.parametrize("name", [name for name in SPIKING if not name.startswith("retina")])
def test_the_h5py_reader_gives_the_same(windows_of, name):
    first, second = (windows_of(name, reader, modalities=("spikes",)) for reader in ("pynwb", "h5py"))
    assert np.array_equal(first[1].columns["spikes"], second[1].columns["spikes"])
    assert list(first[0].tables["units"]) == list(second[0].tables["units"])


def test_a2929_tiled_without_overlap_holds_every_spike(windows_of):
    plan, block = windows_of("A2929_head_direction.nwb", modalities=("spikes",), overlap=0.0)
    assert int(block.columns["spikes"].astype(np.int64).sum()) == 98_794
    assert (plan.num_samples, block.metadata[-1]["window_stop_s"]) == (1200, 1200.0)


@pytest.mark.parametrize("tag", ["sleep", "wake"])
def test_spikes_outside_the_chosen_epochs_are_left_out_and_not_pushed_into_the_end_bins(shared_data, windows_of, tag):
    path = shared_data / "A2929_head_direction.nwb"
    starts, stops, tags = epochs(path)
    row = next(row for row, words in enumerate(tags) if tag in words)
    windows, _ = fixed_starts(int(starts[row]), int(stops[row]), 10_000_000, 100, 100)
    _, block = windows_of(path.name, modalities=("spikes",), overlap=0.0, epochs=(tag,))
    assert np.array_equal(block.columns["spikes"], counts(spike_trains(path)[1], windows, 10_000_000, 100))


def test_ids_are_not_rows(windows_of):
    plan, _ = windows_of("A8604_three_units.nwb")
    assert [row["id"].rpartition("/")[2] for row in plan.tables["units"]] == ["6", "191", "206"]


def test_unsorted_spikes_are_sorted_and_all_there(windows_of):
    plan, block = windows_of("anm372793_unsorted_spikes.nwb", modalities=("spikes",), overlap=0.0, on_last_window="pad")
    assert int(block.columns["spikes"].astype(np.int64).sum()) == 2_434
    assert any("20 of 2434" in problem.what for problem in plan.problems)


def test_the_retina_has_four_cells(windows_of):
    plan, block = windows_of("retina_R1_nwb_1.0.6.nwb")
    assert block.columns["spikes"].shape[2] == len(plan.tables["units"]) == 4


def test_events_give_the_same_spikes_as_counts(shared_data, windows_of):
    name = "A8604_three_units.nwb"
    _, block = windows_of(name, modalities=("spikes",), spikes="both", overlap=0.0)
    _, starts, _, wanted, _ = expected(shared_data / name, stride=100)
    times, units = block.columns["spike_times"], block.columns["spike_units"]
    assert len(times.values) == wanted.sum()
    for window in range(0, len(starts), 97):
        per_unit = np.bincount(units[window], minlength=3)
        assert np.array_equal(per_unit, wanted[window].sum(axis=0))
        assert np.all((times[window] >= 0) & (times[window] <= 1))
