"""Units tables: ids, indexes of every width, observed intervals, several tables, electrodes."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from neurofm_shards.errors import SourceError
from neurofm_shards.streams import EventStream
from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.source import NwbSource

READERS = ("pynwb", "h5py")


def units_of(path, reader="auto", place="units"):
    recording = NwbSource(NwbConfig(reader=reader)).open((str(path),))
    return next(stream for stream in recording.streams if stream.path == place)


def add_units(nwbfile, trains=((0.5, 1.0), (), (0.25,)), ids=(6, 191, 206), **columns):
    for name in columns:
        nwbfile.add_unit_column(name, "a property")
    for row, (times, unit) in enumerate(zip(trains, ids, strict=True)):
        properties = {name: values[row] for name, values in columns.items()}
        nwbfile.add_unit(spike_times=np.array(times, dtype=float), id=unit, **properties)


@pytest.mark.parametrize("reader", READERS)
def test_ids_are_the_files_own_and_every_spike_has_its_unit(write_nwb, reader):
    units = units_of(write_nwb(add_units), reader)
    times, owner = units.read()
    assert units.owners == ("6", "191", "206")
    assert times.tolist() == [0.5, 1.0, 0.25]
    assert times.dtype == np.float64
    assert owner.tolist() == [0, 0, 2]
    assert owner.dtype == np.int64


@pytest.mark.parametrize("width", ["u1", "u2", "u4", "i8"])
def test_the_index_may_be_of_any_width(write_nwb, width):
    trains = [np.arange(100) / 10, np.arange(120) / 10, np.arange(30) / 10]
    path = write_nwb(lambda nwbfile: add_units(nwbfile, trains))
    replace_index(path, np.array([100, 220, 250]).astype(width))
    times, owner = units_of(path).read()
    assert np.bincount(owner).tolist() == [100, 120, 30]
    assert np.array_equal(times, np.concatenate(trains))


@pytest.mark.parametrize(("ends", "message"), [([2, 1, 3], "decreases at row 1"), ([2, 2, 9], "value 9 of 3")])
def test_a_damaged_index_is_an_error(write_nwb, ends, message):
    path = write_nwb(add_units)
    with h5py.File(path, "r+") as file:
        file["units/spike_times_index"][:] = ends
    with pytest.raises(SourceError, match=message):
        units_of(path).read()


def replace_index(path, ends):
    with h5py.File(path, "r+") as file:
        attributes = dict(file["units/spike_times_index"].attrs)
        del file["units/spike_times_index"]
        file["units/spike_times_index"] = ends
        file["units/spike_times_index"].attrs.update(attributes)


@pytest.mark.parametrize("reader", READERS)
def test_an_index_that_wrapped_around_is_an_error_even_where_it_never_decreases(write_nwb, reader):
    path = write_nwb(lambda nwbfile: add_units(nwbfile, [np.arange(100) / 10, np.arange(300) / 10], (0, 1)))
    replace_index(path, np.array([100, 400]).astype(np.uint8))  # 100, 144
    with pytest.raises(SourceError, match="stored as uint8, which cannot count the 400 values"):
        units_of(path, reader).read()


def test_spike_times_behind_the_last_unit_are_left_out_and_reported(write_nwb):
    path = write_nwb(add_units)
    replace_index(path, np.array([1, 2, 2]))
    with NwbSource().open((str(path),)) as recording:
        assert recording.streams[0].read()[0].tolist() == [0.5, 1.0]
        assert [problem.where for problem in recording.problems if "1 of 3" in problem.what] == ["units/spike_times"]


def test_an_id_that_comes_twice_is_refused_when_spikes_are_read_and_not_before(write_nwb):
    path = write_nwb(lambda nwbfile: add_units(nwbfile, ids=(6, 6, 7)))
    units = units_of(path)
    assert len(set(units.owners)) == 3
    with pytest.raises(SourceError, match=r"units/id has unit ids more than once \(6\)"):
        units.read()
    problems = NwbSource().inspect((str(path),)).problems
    assert any("more than once" in problem.what and problem.severity == "error" for problem in problems)


@pytest.mark.parametrize("reader", READERS)
def test_observed_intervals_belong_to_their_unit(write_nwb, reader):
    def fill(nwbfile):
        nwbfile.add_unit(spike_times=[0.5], obs_intervals=[[0.0, 1.0], [2.0, 3.0]])
        nwbfile.add_unit(spike_times=[0.6], obs_intervals=[[0.0, 5.0]])

    observed = units_of(write_nwb(fill), reader).observed()
    assert [rows.tolist() for rows in observed] == [[[0.0, 1.0], [2.0, 3.0]], [[0.0, 5.0]]]


def test_without_observed_intervals_nothing_is_said(write_nwb):
    assert units_of(write_nwb(add_units)).observed is None


@pytest.mark.parametrize("reader", READERS)
def test_properties_come_along_and_data_do_not(write_nwb, reader):
    def fill(nwbfile):
        nwbfile.add_unit_column("quality", "how good")
        nwbfile.add_unit_column("waveform", "many values")
        nwbfile.add_unit_column("tags", "words", index=True)
        for row in range(2):
            tags = ["a", "b"][: row + 1]
            nwbfile.add_unit(spike_times=[0.1], quality=("good", "noise")[row], waveform=np.zeros(50), tags=tags)

    table = units_of(write_nwb(fill), reader).table
    assert [row["quality"] for row in table] == ["good", "noise"]
    assert [row["tags"] for row in table] == [["a"], ["a", "b"]]
    assert "waveform" not in table[0]
    assert "spike_times" not in table[0]


@pytest.mark.parametrize("reader", READERS)
def test_ragged_electrodes_are_resolved_to_ids_and_places(write_nwb, reader):
    def fill(nwbfile):
        device = nwbfile.create_device(name="probe")
        group = nwbfile.create_electrode_group("g", "d", "CA1", device)
        for row, place in enumerate(("CA1", "CA1", "CA3")):
            nwbfile.add_electrode(id=10 + row, group=group, location=place)
        nwbfile.add_unit(spike_times=[0.1], electrodes=[0, 2])
        nwbfile.add_unit(spike_times=[0.2], electrodes=[1])

    table = units_of(write_nwb(fill), reader).table
    assert [row["electrodes"] for row in table] == [["10", "12"], ["11"]]
    assert [row["location"] for row in table] == ["CA1, CA3", "CA1"]


@pytest.mark.parametrize("reader", READERS)
def test_a_second_units_table_in_processing_is_another_stream(write_nwb, reader):
    from pynwb.misc import Units

    def fill(nwbfile):
        add_units(nwbfile)
        other = Units(name="curated", description="kept units")
        other.add_unit(spike_times=[9.0], id=77)
        nwbfile.create_processing_module("ecephys", "sorted").add(other)

    path = write_nwb(fill)
    assert units_of(path, reader).owners == ("6", "191", "206")
    assert units_of(path, reader, "processing/ecephys/curated").owners == ("77",)


def test_a_units_table_without_spikes_is_noted_and_gives_no_stream(write_nwb):
    def fill(nwbfile):
        nwbfile.add_unit_column("quality", "how good")
        nwbfile.add_unit(quality="good")
        nwbfile.add_trial(start_time=0.0, stop_time=1.0)

    with NwbSource().open((str(write_nwb(fill)),)) as recording:
        assert not any(isinstance(stream, EventStream) for stream in recording.streams)
        assert any("without spike times" in problem.what for problem in recording.problems)


@pytest.mark.parametrize("reader", READERS)
def test_a_unit_of_time_that_the_file_says_counts_for_spikes(write_nwb, reader):
    path = write_nwb(lambda nwbfile: nwbfile.add_unit(spike_times=[500.5, 1500.0], obs_intervals=[[0.0, 2000.0]]))
    with h5py.File(path, "r+") as file:
        file["units/spike_times"].attrs["unit"] = "milliseconds"
        file["units/obs_intervals"].attrs["unit"] = "milliseconds"
    with NwbSource(NwbConfig(reader=reader)).open((str(path),)) as recording:
        (stream,) = recording.streams
        assert np.allclose(stream.read()[0], [0.5005, 1.5], rtol=1e-12)
        assert stream.observed()[0].tolist() == [[0.0, 2.0]]
        assert any("time stamps in milliseconds" in problem.what for problem in recording.problems)


@pytest.mark.parametrize("reader", ["pynwb", "h5py"])
def test_observed_time_without_a_stop_lasts_until_the_end_and_is_reported(write_nwb, reader):
    def fill(nwbfile):
        times = np.concatenate([np.arange(0.05, 20, 0.1), np.arange(40.05, 60, 0.1)])
        nwbfile.add_unit(spike_times=times, obs_intervals=np.array([[0.0, 20.0], [40.0, np.nan]]))

    with NwbSource(NwbConfig(reader=reader)).open((str(write_nwb(fill)),)) as recording:
        (stream,) = recording.streams
        assert [spans.tolist() for spans in stream.observed()] == [[[0.0, 20.0], [40.0, np.inf]]]
        found = {problem.where: problem.what for problem in recording.problems}
    assert found["units/obs_intervals"] == "1 of 2 rows have no stop time (the first: row 1)"
