"""Synthetic files all the way to samples: what small real files lack, compared with plain numpy."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from neurofm_shards.errors import SourceError
from neurofm_shards.recordings import WindowOptions, windowed
from neurofm_shards_nwb.source import NwbSource

RNG = np.random.default_rng(7)
TRAINS = [np.sort(RNG.uniform(0, 20, 300)), np.sort(RNG.uniform(0, 20, 50))]
LFP = RNG.integers(-2000, 2000, (20_000, 2), dtype=np.int16)
PLACE = np.cumsum(RNG.standard_normal((2000, 2)), axis=0)


def samples_of(path, **options):
    with NwbSource().open((str(path),)) as recording:
        samples = windowed(recording, WindowOptions(**options))
        plan = samples.plan()
        return plan, samples.read(0, plan.num_samples)


def fill_all(nwbfile, observed=None):
    from pynwb import ecephys
    from pynwb.behavior import Position, SpatialSeries

    device = nwbfile.create_device(name="probe")
    group = nwbfile.create_electrode_group("g", "d", "CA1", device)
    for _ in range(2):
        nwbfile.add_electrode(group=group, location="CA1")
    region = nwbfile.create_electrode_table_region([0, 1], "all")
    nwbfile.add_epoch(0.0, 20.0, ["all"])
    for row, train in enumerate(TRAINS):
        seen = {} if observed is None else {"obs_intervals": observed[row]}
        nwbfile.add_unit(spike_times=train, **seen)
    holder = ecephys.LFP()
    nwbfile.create_processing_module("ecephys", "d").add(holder)
    lfp = {"data": LFP, "conversion": 1e-6, "channel_conversion": [1.0, 2.5], "offset": 3e-5}
    holder.add_electrical_series(ecephys.ElectricalSeries(name="lfp", electrodes=region, rate=1000.0, **lfp))
    place = SpatialSeries(
        name="p", data=PLACE, reference_frame="room", unit="m", timestamps=2.0 + np.arange(2000) / 100, conversion=0.01
    )
    nwbfile.create_processing_module("behavior", "d").add(Position(spatial_series=place))


def counted(first, last):
    edges = np.arange(first, last + 1) * 10_000_000
    ticks = [np.sort(np.rint(train * 1e9).astype(np.int64)) for train in TRAINS]
    return np.stack([np.diff(np.searchsorted(train, edges)) for train in ticks], axis=-1)


def test_units_lfp_and_behaviour_lie_on_one_clock(write_nwb):
    plan, block = samples_of(write_nwb(fill_all), overlap=0.0)
    assert plan.num_samples == 20
    assert np.array_equal(block.columns["spikes"].reshape(2000, 2), counted(0, 2000))
    volts = LFP.astype(np.float64) * 1e-6 * [1.0, 2.5] + 3e-5
    assert np.allclose(block.columns["lfp"].reshape(20_000, 2), volts, rtol=1e-6, atol=1e-12)
    at = (np.arange(2000) + 0.5) / 100
    stamps = 2.0 + np.arange(2000) / 100
    wanted = np.stack([np.interp(at, stamps, PLACE[:, axis] * 0.01) for axis in range(2)], axis=-1)
    known = (at >= stamps[0]) & (at <= stamps[-1])
    valid = block.columns["behavior_valid"].reshape(2000, 2)
    assert np.array_equal(valid, np.stack([known, known], axis=-1))
    assert np.allclose(block.columns["behavior"].reshape(2000, 2)[known], wanted[known], rtol=1e-6, atol=1e-7)
    assert [row["column"] for row in plan.tables["features"]] == ["x", "y"]


def test_time_that_was_not_observed_is_not_zero_spikes(write_nwb):
    seen = [[[0.0, 20.0]], [[0.0, 5.0], [10.0, 20.0]]]
    path = write_nwb(lambda nwbfile: fill_all(nwbfile, seen))
    _, block = samples_of(path, overlap=0.0, modalities=("spikes",))
    masks = [name for name in block.columns if "valid" in name]
    assert masks, "a unit that was not observed all the time needs a mask"
    mask = block.columns[masks[0]]
    unobserved = [window for window, entry in enumerate(block.metadata) if 5.0 <= entry["window_start_s"] < 10.0]
    second = mask[..., 1] if mask.ndim == 3 else mask
    assert not second[unobserved].any()
    others = [window for window in range(len(block)) if window not in unobserved]
    assert second[others].all()


@pytest.mark.parametrize(("choice", "windows"), [("drop", 18), ("mask", 20), ("ignore", 20)])
def test_invalid_times_are_dropped_masked_or_ignored(write_nwb, choice, windows):
    def fill(nwbfile):
        fill_all(nwbfile)
        nwbfile.add_invalid_time_interval(start_time=4.0, stop_time=6.0)

    plan, block = samples_of(write_nwb(fill), overlap=0.0, modalities=("spikes",), invalid=choice)
    assert plan.num_samples == windows
    starts = [entry["window_start_s"] for entry in block.metadata]
    assert (4.0 in starts) == (choice != "drop")
    if choice == "drop":
        assert sum(plan.drops.values()) == 2
    if choice == "mask":
        assert block.columns["valid"].sum(axis=1).tolist() == [0 if start in {4.0, 5.0} else 100 for start in starts]


def test_gaps_are_never_interpolated_across(write_nwb):
    from pynwb import TimeSeries

    stamps = np.concatenate([np.arange(500) / 100, np.arange(1000) / 100 + 10])
    values = np.sin(stamps)

    def fill(nwbfile):
        nwbfile.add_epoch(0.0, 20.0, ["all"])
        nwbfile.create_processing_module("behavior", "d").add(
            TimeSeries(name="speed", data=values, unit="cm/s", timestamps=stamps)
        )

    _, block = samples_of(write_nwb(fill), overlap=0.0)
    at = (np.arange(2000) + 0.5) / 100
    known = ((at >= 0) & (at <= stamps[499])) | ((at >= 10) & (at <= stamps[-1]))
    assert np.array_equal(block.columns["behavior_valid"].ravel(), known)
    wanted = np.interp(at, stamps, values)
    assert np.allclose(block.columns["behavior"].ravel()[known], wanted[known], rtol=1e-6, atol=1e-9)


def test_a_series_that_nobody_asks_for_stops_nobody(write_nwb):
    path = write_nwb(fill_all)
    with h5py.File(path, "r+") as file:
        group = file["processing/behavior/Position/p"]
        attributes = dict(group["timestamps"].attrs)
        del group["timestamps"]
        group["timestamps"] = np.arange(7) / 10
        group["timestamps"].attrs.update(attributes)
    plan, _ = samples_of(path, overlap=0.0, modalities=("spikes", "lfp"))
    assert plan.num_samples == 20
    with pytest.raises(SourceError, match="7 time stamps"):
        samples_of(path, overlap=0.0, behavior=({"path": "Position/p"},))


def test_of_several_unit_tables_one_is_chosen_by_path(write_nwb):
    from pynwb.misc import Units

    def fill(nwbfile):
        fill_all(nwbfile)
        other = Units(name="curated", description="kept units")
        other.add_unit(spike_times=TRAINS[1], id=77)
        nwbfile.processing["ecephys"].add(other)

    path = write_nwb(fill)
    with pytest.raises(SourceError, match=r"units \(2 ids\).*unit_table_path"):
        samples_of(path, modalities=("spikes",))
    plan, block = samples_of(path, modalities=("spikes",), unit_table_path="processing/ecephys/curated", overlap=0.0)
    assert np.array_equal(block.columns["spikes"].reshape(2000), counted(0, 2000)[:, 1])
    assert [row["id"] for row in plan.tables["units"]] == ["s1/processing/ecephys/curated/77"]


def test_units_are_chosen_by_their_properties(write_nwb):
    def fill(nwbfile):
        nwbfile.add_unit_column("quality", "how good")
        for train, quality in zip(TRAINS, ("noise", "good"), strict=True):
            nwbfile.add_unit(spike_times=train, quality=quality)

    plan, block = samples_of(write_nwb(fill), unit_filter='quality == "good"', overlap=0.0)
    assert block.columns["spikes"].shape[2] == len(plan.tables["units"]) == 1
    assert plan.tables["units"][0]["quality"] == "good"
