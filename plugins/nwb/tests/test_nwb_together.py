"""Sessions that differ are converted together: what one lacks is empty and masked, and the report says so."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.inputs import find_inputs
from neurofm_shards.convert.parts import Part, commit_parts, plan_parts, run_part
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.events import ModalityMasked
from neurofm_shards.loading.datasets import ShardDataset


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
