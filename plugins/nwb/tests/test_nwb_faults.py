"""Small files that are easily got wrong: recorded time, reachable series, held codes, events, confidence, orientation.

References are computed with h5py and numpy alone.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from neurofm_shards.recordings import BehaviorOptions, WindowOptions, windowed
from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.source import NwbSource

READERS = ("auto", "h5py")
SECOND = {"bin_size_ms": 10, "sequence_length": 100, "overlap": 0}


@pytest.fixture(scope="session")
def faults() -> Path:
    """The folder of small odd files (beside the real recordings, or ``../shared/faults``)."""
    data = Path(os.environ.get("NEUROFM_SHARDS_DATA", Path(__file__).resolve().parents[-4] / "shared" / "data"))
    folder = data.parent / "faults"
    if not folder.is_dir():
        pytest.skip(f"no folder of odd files at {folder}")
    return folder


def opened(path, reader="auto"):
    return NwbSource(NwbConfig(reader=reader)).open((str(path),))


def samples(path, reader="auto", **options):
    return windowed(opened(path, reader), WindowOptions(**{**SECOND, **options}))


def test_time_between_epochs_in_which_nothing_was_recorded_is_no_silence(faults):
    path = faults / "epochs_with_pause.nwb"
    with h5py.File(path) as file:
        epochs = np.c_[file["intervals/epochs/start_time"][:], file["intervals/epochs/stop_time"][:]]
        spikes = len(file["units/spike_times"])
        units = len(file["units/id"])
    recorded = float((epochs[:, 1] - epochs[:, 0]).sum())
    with samples(path) as found:
        plan = found.plan()
        block = found.read(0, plan.num_samples)
    assert plan.num_samples == recorded == 20
    starts = np.array([row["window_start_s"] for row in block.metadata])
    assert ((starts < 10) | (starts >= 30)).all()
    assert int(np.sum(block.columns["spikes"], dtype=np.int64)) == spikes
    assert plan.drops == {"not recorded": 20}
    rates = [row["firing_rate_hz"] for row in plan.tables["units"]]
    assert np.mean(rates) == pytest.approx(spikes / units / recorded)
    assert any("recorded" in problem.what for problem in plan.problems)


@pytest.mark.parametrize("named", [True, False])
def test_a_series_in_any_processing_module_is_behaviour_where_nothing_else_is(faults, named):
    path = faults / "timeseries_in_processing_running.nwb"
    more = {"behavior": (BehaviorOptions(path="processing/running/speed"),)} if named else {}
    with samples(path, **more) as found:
        assert found.plan().num_samples == 10
        block = found.read(0, 10)
    with h5py.File(path) as file:
        series = file["processing/running/speed"]
        times = np.arange(len(series["data"])) / series["starting_time"].attrs["rate"]
        want = np.interp(np.arange(1000) / 100 + 0.005, times, series["data"][:], right=np.nan)
    got = np.asarray(block.columns["behavior"]).reshape(1000)
    known = np.isfinite(got)
    assert known.mean() > 0.99
    assert np.allclose(got[known], want[known], rtol=1e-6)


@pytest.mark.parametrize("reader", READERS)
def test_a_linked_series_is_windowed_where_it_lies(faults, reader):
    path = faults / "linked_series_5_to_6_s.nwb"
    with samples(path, reader, behavior=(BehaviorOptions(path="aligned_voltage"),)) as found:
        plan = found.plan()
        block = found.read(0, plan.num_samples)
    assert plan.num_samples == 1
    assert block.metadata[0]["window_start_s"] == 5.0
    with h5py.File(path) as file:
        series = file["processing/time_alignment/aligned_voltage"]
        want = np.interp(5.005 + np.arange(100) / 100, series["timestamps"][:], series["data"][:])
    assert np.asarray(block.columns["behavior_valid"]).all()
    assert np.allclose(np.asarray(block.columns["behavior"])[0, :, 0], want, rtol=1e-6)


def test_events_of_the_first_ndx_events_are_events_with_their_labels(faults):
    with opened(faults / "ndx_events_0_2.nwb") as recording:
        streams = {stream.path: stream for stream in recording.streams}
        labelled = streams["acquisition/my_events"]
        times, owner = labelled.read()
        assert [labelled.owners[i] for i in owner] == ["event1", "event2", "event1"]
        assert times.tolist() == [0.0, 1.0, 2.0]
        annotated = streams["processing/events/my_annotated_events"]
        times, owner = annotated.read()
        assert [annotated.owners[i] for i in owner] == ["Reward"] * 3
        assert times.tolist() == [1.0, 2.0, 3.0]
    with opened(faults / "events_series_only.nwb") as recording:
        (stream,) = recording.streams
        times, owner = stream.read()
        assert (stream.owners, times.tolist(), owner.tolist()) == (("Events",), [0.0, 1.0, 2.0], [0, 0, 0])


def test_the_confidence_of_a_pose_is_a_feature_and_can_mask(faults):
    path = faults / "pose_confidence.nwb"
    name = "processing/behavior/PoseEstimation/front_left_paw"
    with h5py.File(path) as file:
        confidence, times = file[f"{name}/confidence"][:], file[f"{name}/timestamps"][:]
        data = file[f"{name}/data"][:]
    options = {"behavior": (BehaviorOptions(path=name, kind="instantaneous"),)}
    with samples(path, **options) as found:
        rows = [row["column"] for row in found.plan().tables["features"]]
        block = found.read(0, found.plan().num_samples)
        start = block.metadata[0]["window_start_s"]
    values = np.asarray(block.columns["behavior"]).reshape(-1, 3)
    at = np.floor((times - start) * 100 + 1e-6).astype(int)
    inside = at < len(values)
    assert rows == ["x", "y", "confidence"]
    assert np.allclose(values[at[inside], 2], confidence[inside])
    options = {"behavior": (BehaviorOptions(path=name, kind="instantaneous", min_confidence=0.1),)}
    with samples(path, **options) as found:
        block = found.read(0, found.plan().num_samples)
    values = np.asarray(block.columns["behavior"]).reshape(-1, 3)
    sure = confidence >= 0.1
    assert np.isnan(values[at[inside & ~sure], :2]).all()
    assert np.allclose(values[at[inside & sure], :2], data[inside & sure])


@pytest.mark.parametrize("reader", READERS)
def test_a_signal_stored_channels_by_time_is_turned_where_its_electrodes_say_so(faults, reader):
    path = faults / "matnwb_channels_by_time.nwb"
    with h5py.File(path) as file:
        data = file["acquisition/ECoG/data"][:]
    with opened(path, reader) as recording:
        for name in ("acquisition/ECoG", "acquisition/ECoG2"):
            stream = next(stream for stream in recording.streams if stream.path == name)
            assert stream.shape == (1000, 10)
            assert len(stream.channels) == 10
        assert np.array_equal(
            next(s for s in recording.streams if s.path == "acquisition/ECoG").read(3, 700), data.T[3:700]
        )
        assert any("stored as (channel, time)" in problem.what for problem in recording.problems)


@pytest.mark.parametrize("name", ["state_code", "state_empty", "state_na", "state_none", "licking"])
def test_integers_without_a_calibration_are_held(faults, name):
    path = faults / "integer_states.nwb"
    with h5py.File(path) as file:
        series = file[f"processing/behavior/{name}"]
        data, rate = series["data"][:].astype(float), series["starting_time"].attrs["rate"]
    with samples(path, behavior=(BehaviorOptions(path=f"behavior/{name}"),)) as found:
        block = found.read(0, found.plan().num_samples)
    got = np.asarray(block.columns["behavior"]).ravel()
    times = np.arange(len(data)) / rate
    want = data[np.searchsorted(times, np.arange(len(got)) / 100 + 0.005, side="right") - 1]
    known = np.isfinite(got)
    assert known.mean() > 0.9
    assert np.array_equal(got[known], want[known])
