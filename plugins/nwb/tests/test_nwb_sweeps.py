"""Patch-clamp files of all ages give one window per sweep; the values are compared with h5py."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from neurofm_shards.errors import SourceError
from neurofm_shards.recordings import WindowOptions, windowed
from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.source import NwbSource

LFP = ({"path": "response"}, {"path": "stimulus"})


def series_of(nwbfile, sweeps, **more):
    """Make responses and stimuli of some sweeps, each with a conversion of its own."""
    from pynwb.icephys import CurrentClampSeries, CurrentClampStimulusSeries

    rng = np.random.default_rng(0)
    electrode = nwbfile.create_icephys_electrode(name="pip", device=nwbfile.create_device(name="d"), description="x")
    made = []
    for i in range(sweeps):
        common = {"electrode": electrode, "gain": 1.0, "rate": 20000.0, "starting_time": 0.0}
        common |= {name: kind(i) for name, kind in more.items()}
        response = rng.integers(-999, 999, 2000 + 10 * i).astype(np.int16)
        made.append(
            (
                CurrentClampSeries(name=f"response{i}", data=response, conversion=1e-4 * (i + 1), **common),
                CurrentClampStimulusSeries(name=f"stimulus{i}", data=rng.normal(size=2000), **common),
            )
        )
    return electrode, made


def untabled(nwbfile, **more):
    _, made = series_of(nwbfile, 11, **more)
    for response, stimulus in made:
        nwbfile.add_acquisition(response)
        nwbfile.add_stimulus(stimulus)


def tabled(nwbfile, *, simultaneous):
    electrode, made = series_of(nwbfile, 4)
    rows = [
        nwbfile.add_intracellular_recording(
            electrode=electrode,
            response=response,
            response_start_index=100 * i,
            response_index_count=1500,
            stimulus=stimulus,
            stimulus_start_index=0,
            stimulus_index_count=1500,
        )
        for i, (response, stimulus) in enumerate(made)
    ]
    if simultaneous:
        sweeps = [nwbfile.add_icephys_simultaneous_recording(recordings=[row]) for row in reversed(rows)]
        nwbfile.add_icephys_sequential_recording(simultaneous_recordings=sweeps[:3], stimulus_type="ramp")
        nwbfile.add_icephys_sequential_recording(simultaneous_recordings=sweeps[3:], stimulus_type="step")


def windows_of(path, reader="auto", **options):
    chosen = WindowOptions(sampling="sweep", align_range_ms=(0, 110), **{"lfp": LFP, **options})
    with windowed(NwbSource(NwbConfig(reader=reader)).open((str(path),)), chosen) as samples:
        plan = samples.plan()
        return plan, samples.read(0, plan.num_samples)


def physical(file, path, first=0, count=None):
    data = file[f"{path}/data"]
    values = data[first : None if count is None else first + count].astype(np.float64)
    return (values * data.attrs["conversion"]).astype(np.float32)


def assert_is_sweep(window, response, stimulus):
    for channel, wanted in enumerate((response, stimulus)):
        assert np.array_equal(window[: len(wanted), channel], wanted)
        assert np.isnan(window[len(wanted) :, channel]).all()


@pytest.mark.parametrize("reader", ["pynwb", "h5py"])
def test_series_of_one_sweep_number_are_a_sweep(write_nwb, reader):
    path = write_nwb(lambda nwbfile: untabled(nwbfile, sweep_number=np.uint64))
    plan, block = windows_of(path, reader, label_columns=("sweep_number", "electrode"))
    assert plan.num_samples == 11
    with h5py.File(path) as file:
        for window, said in zip(block.columns["lfp"], block.metadata, strict=True):
            i = said["sweep_number"]
            response, stimulus = f"acquisition/response{i}", f"stimulus/presentation/stimulus{i}"
            assert_is_sweep(window, physical(file, response), physical(file, stimulus))
            assert said["electrode"] == "pip"


def test_without_numbers_every_series_is_a_sweep(write_nwb):
    path = write_nwb(untabled)
    plan, block = windows_of(path, lfp={})
    assert plan.num_samples == 11
    with h5py.File(path) as file:
        for i, window in enumerate(block.columns["lfp"]):
            wanted = physical(file, f"acquisition/response{i}")
            assert np.array_equal(window[: len(wanted), 0], wanted)


@pytest.mark.parametrize("reader", ["pynwb", "h5py"])
@pytest.mark.parametrize("simultaneous", [True, False])
def test_rows_of_the_tables_are_sweeps(write_nwb, reader, simultaneous):
    path = write_nwb(lambda nwbfile: tabled(nwbfile, simultaneous=simultaneous))
    labels = ("stimulus_type",) if simultaneous else ()
    plan, block = windows_of(path, reader, label_columns=labels)
    assert plan.num_samples == 4
    with h5py.File(path) as file:
        for at, window in enumerate(block.columns["lfp"]):
            i = 3 - at if simultaneous else at
            response = physical(file, f"acquisition/response{i}", 100 * i, 1500)
            assert_is_sweep(window, response, physical(file, f"stimulus/presentation/stimulus{i}", 0, 1500))
    if simultaneous:
        assert [said["stimulus_type"] for said in block.metadata] == ["ramp", "ramp", "ramp", "step"]


@pytest.mark.parametrize("reader", ["pynwb", "h5py"])
def test_a_row_without_a_response_moves_no_other(write_nwb, reader):
    def fill(nwbfile):
        electrode, made = series_of(nwbfile, 3)
        for i, (response, stimulus) in enumerate(made):
            answer = {} if i == 1 else {"response": response}
            nwbfile.add_intracellular_recording(electrode=electrode, stimulus=stimulus, **answer)
        nwbfile.intracellular_recordings.add_column("drug", "d", data=["none", "TTX", "4AP"])

    path = write_nwb(fill)
    _, block = windows_of(path, reader, label_columns=("drug", "sweep_number"))
    assert [(said["drug"], said["sweep_number"]) for said in block.metadata] == [("none", 0), ("4AP", 2)]
    with h5py.File(path) as file:
        for i, window in zip((0, 2), block.columns["lfp"], strict=True):
            wanted = physical(file, f"acquisition/response{i}")
            assert np.array_equal(window[: len(wanted), 0], wanted[: len(window)])


def test_a_table_of_sweeps_that_was_never_written_is_an_error(write_nwb):
    path = write_nwb(lambda nwbfile: tabled(nwbfile, simultaneous=True))
    with h5py.File(path, "r+") as file:
        table = file["general/intracellular_ephys/simultaneous_recordings"]
        attributes = dict(table["recordings"].attrs)
        del table["recordings"]
        table.create_dataset("recordings", (4,), "i8").attrs.update(attributes)
    with pytest.raises(SourceError, match="simultaneous_recordings/recordings: its values were never written"):
        windows_of(path, "h5py")


def test_the_sweep_table_of_older_files_is_read(write_nwb):
    path = write_nwb(untabled)
    with h5py.File(path, "r+") as file:
        table = file.create_group("general/intracellular_ephys/sweep_table")
        table.attrs.update(
            {"neurodata_type": "SweepTable", "namespace": "core", "colnames": ["series", "sweep_number"]}
        )
        places = [f"acquisition/response{i}" for i in (2, 5)] + [f"stimulus/presentation/stimulus{i}" for i in (2, 5)]
        references = np.array([file[place].ref for place in places], dtype=h5py.ref_dtype)
        table.create_dataset("series", data=references, dtype=h5py.ref_dtype)
        table["series_index"] = np.arange(1, 5, dtype=np.uint8)
        table["sweep_number"] = np.array([30, 31, 30, 31], dtype=np.uint64)
        table["id"] = np.arange(4)
    _, block = windows_of(path, label_columns=("sweep_number",))
    assert [said["sweep_number"] for said in block.metadata] == [30, 31]
    with h5py.File(path) as file:
        for i, window in zip((2, 5), block.columns["lfp"], strict=True):
            response, stimulus = f"acquisition/response{i}", f"stimulus/presentation/stimulus{i}"
            assert_is_sweep(window, physical(file, response), physical(file, stimulus))


@pytest.mark.parametrize("reader", ["pynwb", "h5py"])
def test_sweeps_with_time_stamps_are_taken_where_these_are_even(write_nwb, reader):
    path = write_nwb(lambda nwbfile: untabled(nwbfile, sweep_number=np.uint64))
    with h5py.File(path, "r+") as file:
        for i in range(11):
            for place in (f"acquisition/response{i}", f"stimulus/presentation/stimulus{i}"):
                group = file[place]
                del group["starting_time"]
                times = 2.5 * i + np.arange(len(group["data"])) / 20000
                group["timestamps"] = times**2 if place == "acquisition/response4" else times
                group["timestamps"].attrs.update(interval=1, unit="seconds")
    plan, block = windows_of(path, reader, label_columns=("sweep_number", "sweep_start_s"))
    said = {row["sweep_number"]: row["sweep_start_s"] for row in block.metadata}
    assert said == {i: 2.5 * i for i in range(11) if i != 4}
    assert any(
        "1 of 11 sweeps have no response of one constant rate (1: its time stamps" in p.what for p in plan.problems
    )
    with h5py.File(path) as file:
        for window, row in zip(block.columns["lfp"], block.metadata, strict=True):
            i = row["sweep_number"]
            response, stimulus = f"acquisition/response{i}", f"stimulus/presentation/stimulus{i}"
            assert_is_sweep(window, physical(file, response), physical(file, stimulus))
