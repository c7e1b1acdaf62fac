"""Sessions that differ are converted together: what one lacks is empty and masked, and the report says so."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.inputs import find_inputs
from neurofm_shards.convert.parts import Part, commit_parts, plan_parts, run_part
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import ConfigError, NothingToConvertError, SourceError
from neurofm_shards.events import InputPlanned, ModalityMasked
from neurofm_shards.format.manifest import read_manifest
from neurofm_shards.loading.datasets import ShardDataset
from neurofm_shards.maintenance.drop import drop_samples


def add_units(nwbfile):
    for unit in range(3):
        nwbfile.add_unit(spike_times=np.arange(0.05 + unit / 100, 20.0, 0.1))


def add_speed(nwbfile):
    from pynwb import TimeSeries

    module = nwbfile.create_processing_module("behavior", "synthetic")
    module.add(TimeSeries(name="speed", data=np.sin(np.arange(1200) / 60), unit="cm/s", rate=60.0))


@pytest.fixture
def sessions(write_nwb):
    """A session with units alone, and one with running alone."""
    return [
        write_nwb(add_units, "units.nwb", session_id="units", identifier="1"),
        write_nwb(add_speed, "running.nwb", session_id="running", identifier="2"),
    ]


def check(folder):
    data = ShardDataset(folder)
    of = {
        name: [i for i in range(len(data)) if data[i]["metadata"]["session_id"] == name]
        for name in ("units", "running")
    }
    assert all(len(rows) > 10 for rows in of.values())
    for row in of["running"]:
        assert tuple(data[row]["spikes"].shape) == (100, 0)
        assert data[row]["behavior"].shape[1] == 1
        assert data[row]["behavior_valid"].float().mean() > 0.9
    for row in of["units"]:
        assert tuple(data[row]["behavior"].shape) == (100, 0)
        assert data[row]["behavior_valid"].numel() == 0
        assert int(data[row]["spikes"].sum()) == 30


def test_each_gives_what_it_has_and_the_report_says_what_it_lacks(sessions, tmp_path):
    told = []
    result = convert_inputs(sessions, tmp_path / "out", {"windows": {"overlap": 0.0}}, observer=told.append)
    assert result["failures"] == []
    masked = {event.modality: event for event in told if isinstance(event, ModalityMasked)}
    assert {name: event.inputs for name, event in masked.items()} == {
        "behavior": (str(sessions[0]),),
        "spikes": (str(sessions[1]),),
    }
    check(tmp_path / "out")


def test_what_is_added_later_lacks_what_the_data_set_has(sessions, tmp_path):
    options = {"windows": {"overlap": 0.0}}
    convert_inputs(sessions, tmp_path / "both", options)
    convert_inputs([*sessions], tmp_path / "out", options)
    with h5py.File(sessions[0], "r+") as file:
        del file["general/session_id"]
        file["general/session_id"] = "third"
    third = sessions[0].rename(tmp_path / "third.nwb")
    result = convert_inputs([third], tmp_path / "out", mode="append")
    data = ShardDataset(tmp_path / "out")
    assert data[len(data) - 1]["metadata"]["session_id"] == "third"
    assert tuple(data[len(data) - 1]["behavior"].shape) == (100, 0)
    assert result["new_failures"] == []


def test_parts_write_the_same(sessions, tmp_path):
    config = ConversionConfig(windows={"overlap": 0.0})
    plan_parts(sessions, tmp_path / "out", config, parts=1)
    run_part(tmp_path / "out", Part(1, 1))
    commit_parts(tmp_path / "out")
    check(tmp_path / "out")
    convert_inputs(sessions, tmp_path / "whole", config)
    name = "shard_000000.tar"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_folder_of_files_is_an_input_each(sessions, tmp_path):
    (tmp_path / "in/deeper").mkdir(parents=True)
    for path, place in zip(sessions, ("in", "in/deeper"), strict=True):
        path.rename(tmp_path / place / path.name)
    found = find_inputs([tmp_path / "in"], "auto", {})
    assert [item.file_names for item in found] == [["units.nwb"], ["running.nwb"]]


def test_epochs_of_nwb_1_are_chosen_by_their_names(shared_data, tmp_path):
    path = shared_data / "retina_R1_nwb_1.0.6.nwb"
    with h5py.File(path) as file:
        start, stop = (float(file[f"epochs/stim_2/{name}"][()]) for name in ("start_time", "stop_time"))
    windows = {"epochs": ("stim_2",), "sequence_length": 1000, "overlap": 0.0}
    result = convert_inputs([path], tmp_path / "out", {"windows": windows})
    data = ShardDataset(tmp_path / "out")
    starts = [data[i]["metadata"]["window_start_s"] for i in range(len(data))]
    assert len(starts) == result["total_samples"] >= (stop - start) // 10 - 1
    assert start <= min(starts)
    assert max(starts) + 10 <= stop


def add_nothing(nwbfile):
    """Leave a file as it is."""


def test_a_session_without_data_stops_no_others(sessions, write_nwb, tmp_path):
    empty = write_nwb(add_nothing, "empty.nwb", session_id="empty", identifier="3")
    told = []
    result = convert_inputs([*sessions, empty], tmp_path / "out", {"windows": {"overlap": 0.0}}, observer=told.append)
    assert result["new_failures"] == []
    assert [(failure["files"], failure["empty"]) for failure in result["failures"]] == [(["empty.nwb"], True)]
    notes = [note for event in told if isinstance(event, InputPlanned) for note in event.notes]
    assert [note for note in notes if "nothing to convert" in note]
    check(tmp_path / "out")
    again = convert_inputs([*sessions, empty], tmp_path / "out", mode="append")
    assert (again["new_failures"], again["total_samples"]) == ([], result["total_samples"])
    for mode in ("new", "append"):
        with pytest.raises(NothingToConvertError, match="empty.nwb"):
            convert_inputs([empty], tmp_path / mode if mode == "new" else tmp_path / "out", mode=mode)


def test_parts_know_which_sessions_are_empty(sessions, write_nwb, tmp_path):
    empty = write_nwb(add_nothing, "empty.nwb", session_id="empty", identifier="3")
    plan_parts([*sessions, empty], tmp_path / "out", ConversionConfig(windows={"overlap": 0.0}), parts=1)
    run_part(tmp_path / "out", Part(1, 1))
    result = commit_parts(tmp_path / "out")
    assert (len(result["failures"]), result["new_failures"]) == (1, [])


def add_two_probes(nwbfile):
    from pynwb.ecephys import ElectricalSeries

    device = nwbfile.create_device("d")
    group = nwbfile.create_electrode_group("g", description="", location="", device=device)
    for _ in range(2):
        nwbfile.add_electrode(group=group, location="CA1")
    for probe in range(2):
        region = nwbfile.create_electrode_table_region([probe], "")
        data = np.arange(20_000, dtype=np.int16)[:, None] + probe
        nwbfile.add_acquisition(
            ElectricalSeries(name=f"lfp_{probe}", data=data, electrodes=region, rate=1000.0, conversion=1e-6)
        )


def test_a_choice_between_probes_stops_no_others(sessions, write_nwb, tmp_path):
    def add_both(nwbfile):
        add_units(nwbfile)
        add_two_probes(nwbfile)

    both = write_nwb(add_both, "both.nwb", session_id="both", identifier="3")
    told = []
    inputs = [sessions[0], both]
    result = convert_inputs(inputs, tmp_path / "out", {"windows": {"overlap": 0.0}}, observer=told.append)
    assert result["failures"] == []
    notes = [note for event in told if isinstance(event, InputPlanned) for note in event.notes]
    assert [note for note in notes if "2 lfp series" in note and "lfp.path=PATH" in note]
    assert "lfp" not in result["modalities"]
    for named in ({"modalities": ["spikes", "lfp"]}, {"lfp": {"rate": 500.0}}):
        with pytest.raises(SourceError, match="2 lfp series"):
            convert_inputs([both], tmp_path / "named", {"windows": named})


def imaging(write_nwb, *names):
    from pynwb.ophys import DfOverF, Fluorescence, ImageSegmentation, OpticalChannel, RoiResponseSeries

    def add(nwbfile):
        channel = OpticalChannel(name="c", description="", emission_lambda=500.0)
        plane = nwbfile.create_imaging_plane(
            name="p", optical_channel=channel, description="", device=nwbfile.create_device("d"),
            excitation_lambda=600.0, indicator="GFP", location="V1",
        )  # fmt: skip
        module = nwbfile.create_processing_module("ophys", "synthetic")
        cells = ImageSegmentation()
        module.add(cells)
        rois = cells.create_plane_segmentation("cells", plane, name="PlaneSegmentation")
        for _ in range(3):
            rois.add_roi(image_mask=np.ones((2, 2)))
        for value, (container, name) in enumerate(names):
            kind = DfOverF if container == "DfOverF" else Fluorescence
            if container not in module.data_interfaces:
                module.add(kind(name=container))
            made = module.data_interfaces[container]
            region = rois.create_roi_table_region("all", region=[0, 1, 2])
            data = np.full((300, 3), float(value))
            made.add_roi_response_series(RoiResponseSeries(name=name, data=data, unit="n.a.", rois=region, rate=10.0))

    return write_nwb(add, f"imaging{len(names)}.nwb")


SUITE2P = (("Deconvolved", "Deconvolved"), ("Fluorescence", "Fluorescence"), ("Neuropil", "Neuropil"))


@pytest.mark.parametrize(("names", "taken"), [(SUITE2P, 1), ((*SUITE2P, ("DfOverF", "dff")), 3)])
def test_the_signal_of_regions_is_what_imaging_means(write_nwb, tmp_path, names, taken):
    path = imaging(write_nwb, *names)
    told = []
    convert_inputs([path], tmp_path / "out", observer=told.append)
    convert_inputs([path], tmp_path / "stored", {"layout": "recordings"})
    cut = ShardDataset(tmp_path / "stored", windows={})
    data = ShardDataset(tmp_path / "out")
    np.testing.assert_array_equal(cut[3]["ophys"], data[3]["ophys"])
    assert set(data[0]["ophys"].numpy().ravel()) == {float(taken)}
    notes = [note for event in told if isinstance(event, InputPlanned) for note in event.notes]
    assert [note for note in notes if f"of {len(names)} ophys series" in note and "ophys.path" in note]


def test_which_plane_is_meant_is_not_guessed(write_nwb, tmp_path):
    path = imaging(write_nwb, ("Fluorescence", "plane0"), ("Fluorescence", "plane1"), ("Neuropil", "plane0"))
    with pytest.raises(SourceError, match="3 ophys series"):
        convert_inputs([path], tmp_path / "out")


def test_an_option_that_fits_one_session_alone_is_told_with_the_rest(sessions, tmp_path):
    torn = tmp_path / "torn.nwb"
    torn.write_bytes(sessions[0].read_bytes()[:3000])
    options = {"windows": {"unit_filter": "depth > 3"}}
    with pytest.raises((ConfigError, SourceError), match="2 of 3 inputs cannot be converted") as caught:
        convert_inputs([*sessions, torn], tmp_path / "out", options)
    assert "depth" in str(caught.value)
    assert "torn.nwb" in str(caught.value)
    skipping = convert_inputs([*sessions, torn], tmp_path / "out", {**options, "on_error": "skip"})
    assert [failure["files"] for failure in skipping["new_failures"]] == [["units.nwb"], ["torn.nwb"]]
    with pytest.raises(ConfigError, match="depth"):
        convert_inputs([sessions[0]], tmp_path / "none", {**options, "on_error": "skip"})


def test_the_same_options_append_again(sessions, tmp_path):
    options = {"on_error": "skip", "windows": {"overlap": 0.0, "missing": "mask", "modalities": ["spikes", "behavior"]}}
    options["windows"]["behavior"] = [{"path": "speed"}]
    torn = tmp_path / "torn.nwb"
    torn.write_bytes(sessions[0].read_bytes()[:3000])
    first = convert_inputs([*sessions, torn], tmp_path / "out", options)
    again = convert_inputs([*sessions, torn], tmp_path / "out", options, mode="append")
    assert (len(first["new_failures"]), again["new_failures"]) == (1, [])
    assert again["total_samples"] == first["total_samples"]
    other = {**options, "windows": {**options["windows"], "behavior": [{"path": "speed", "at": "bin_mean"}]}}
    with pytest.raises(ConfigError, match="'bin_mean'.* and was .*'bin_center'"):
        convert_inputs(sessions, tmp_path / "out", other, mode="append")


def test_sessions_that_were_exported_again_are_dropped_first(sessions, tmp_path):
    options = {"windows": {"overlap": 0.0}}
    before = convert_inputs(sessions, tmp_path / "out", options)
    for path in sessions:
        with h5py.File(path, "r+") as file:
            file["scratch_"] = 1.0
    with pytest.raises(ConfigError, match="drop it first, then append") as caught:
        convert_inputs(sessions, tmp_path / "out", options, mode="append")
    where = str(caught.value).partition("--where '")[2].partition("'`")[0]
    assert "units" in where
    assert "running" in where
    with pytest.raises(ConfigError, match="drop it first, then append") as caught:
        convert_inputs(sessions[:1], tmp_path / "out", options, mode="append")
    drop_samples(tmp_path / "out", str(caught.value).partition("--where '")[2].partition("'`")[0])
    after = convert_inputs(sessions[:1], tmp_path / "out", options, mode="append")
    assert after["total_samples"] == before["total_samples"]
    drop_samples(tmp_path / "out", where.replace('"running"', '"other"'))
    assert {item["session_id"] for item in read_manifest(tmp_path / "out").sources} == {"running"}
