"""Series whose parts do not go together: read as they must be meant, or refused for those who want them.

Broken on purpose, each of these is caught here: only ROI responses transposed, channel_conversion left out where its
shape is not that of the second axis.
"""

from __future__ import annotations

import re

import h5py
import numpy as np
import pytest

from neurofm_shards.errors import SourceError
from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.source import NwbSource

READERS = ("pynwb", "h5py")
COUNTS = np.arange(3 * 50, dtype=np.int16).reshape(50, 3)


def opened(path, reader="auto"):
    return NwbSource(NwbConfig(reader=reader)).open((str(path),))


def lfp(data, channels, **more):
    """Return what adds an LFP of these counts to a file."""
    from pynwb.ecephys import ElectricalSeries

    def fill(nwbfile):
        group = nwbfile.create_electrode_group("g", "d", "CA1", nwbfile.create_device(name="probe"))
        for row in range(channels):
            nwbfile.add_electrode(id=100 + row, group=group, location=f"CA{row}")
        region = nwbfile.create_electrode_table_region(list(range(channels)), "all")
        nwbfile.add_acquisition(ElectricalSeries(name="lfp", data=data, electrodes=region, rate=1000.0, **more))

    return fill


@pytest.mark.filterwarnings("ignore:ElectricalSeries")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("stamped", [False, True])
def test_an_electrical_series_stored_channel_by_time_is_read_as_time_by_channel(write_nwb, reader, stamped):
    path = write_nwb(lfp(COUNTS.T.copy(), 3, conversion=1e-6, channel_conversion=[1.0, 2.0, 3.0]))
    if stamped:
        with h5py.File(path, "r+") as file:
            del file["acquisition/lfp/starting_time"]
            file["acquisition/lfp/timestamps"] = np.arange(50) / 1000
            file["acquisition/lfp/timestamps"].attrs.update(unit="seconds", interval=1)
    with opened(path, reader) as recording:
        stream = recording.streams[0]
        assert (stream.shape, stream.channels) == ((50, 3), ("100", "101", "102"))
        assert np.array_equal(stream.read(7, 31), COUNTS[7:31])
        assert np.asarray(stream.scale).tolist() == [1e-6, 2e-6, 3e-6]
        assert any("stored as (channel, time)" in problem.what for problem in recording.problems)


@pytest.mark.parametrize("reader", READERS)
def test_one_channel_without_an_axis_of_its_own_has_its_channel_conversion(write_nwb, reader):
    path = write_nwb(lfp(COUNTS[:, 0].copy(), 1, conversion=1e-6, channel_conversion=[2.5], offset=0.5))
    with opened(path, reader) as recording:
        stream = recording.streams[0]
        assert np.allclose(stream.read(0, 50) * stream.scale + stream.offset, COUNTS[:, 0] * 2.5e-6 + 0.5, rtol=1e-15)


@pytest.mark.parametrize("reader", READERS)
def test_a_channel_conversion_for_other_channels_is_refused_and_never_left_out(write_nwb, reader):
    path = write_nwb(lfp(COUNTS, 3, conversion=1e-6, channel_conversion=[2.5, 1.0]))
    with opened(path, reader) as recording:
        with pytest.raises(SourceError, match="2 factors in channel_conversion for 3 channels"):
            recording.streams[0].read(0, 1)
        assert any(problem.severity == "error" for problem in recording.problems)


def spoil(path, place, name):
    """Put a dataset that holds nothing, not even a shape, in the place of another one."""
    with h5py.File(path, "r+") as file:
        attributes = dict(file[place][name].attrs)
        del file[place][name]
        file[place].create_dataset(name, data=h5py.Empty("f8")).attrs.update(attributes)


def test_a_series_without_any_values_stops_those_who_want_it_and_nobody_else(write_nwb):
    def fill(nwbfile):
        lfp(COUNTS, 3)(nwbfile)
        nwbfile.add_unit(spike_times=[0.5, 1.5])

    path = write_nwb(fill)
    spoil(path, "acquisition/lfp", "data")
    with opened(path) as recording:
        streams = {stream.path: stream for stream in recording.streams}
        assert streams["units"].read()[0].tolist() == [0.5, 1.5]
        with pytest.raises(SourceError, match="acquisition/lfp has no data"):
            streams["acquisition/lfp"].read(0, 1)


def test_an_interval_series_without_time_stamps_stops_those_who_want_it_and_nobody_else(write_nwb):
    from pynwb.misc import IntervalSeries

    def fill(nwbfile):
        nwbfile.add_unit(spike_times=[0.5, 1.5])
        nwbfile.add_acquisition(IntervalSeries(name="lights", data=np.int8([1, -1]), timestamps=[0.0, 1.0]))

    path = write_nwb(fill)
    with h5py.File(path, "r+") as file:
        del file["acquisition/lights/timestamps"]
        file["acquisition/lights/starting_time"] = 0.0
        file["acquisition/lights/starting_time"].attrs["rate"] = 10.0
    with opened(path) as recording:
        assert next(stream for stream in recording.streams if stream.path == "units").read()[0].tolist() == [0.5, 1.5]
        assert any("IntervalSeries without time stamps" in problem.what for problem in recording.problems)


@pytest.mark.parametrize("attribute", [{"conversion": 0.0}, {"conversion": np.nan}, {"offset": np.inf}])
@pytest.mark.parametrize("reader", READERS)
def test_a_conversion_that_is_no_number_is_refused(write_nwb, reader, attribute):
    path = write_nwb(lfp(COUNTS, 3))
    with h5py.File(path, "r+") as file:
        file["acquisition/lfp/data"].attrs.update(attribute)
    with opened(path, reader) as recording, pytest.raises(SourceError, match="conversion that is zero or not a number"):
        recording.streams[0].read(0, 1)


def store_as(path, place, values):
    """Store other values in the place of a dataset of a file."""
    with h5py.File(path, "r+") as file:
        attributes = dict(file[place].attrs)
        del file[place]
        file[place] = values
        file[place].attrs.update(attributes)


def with_everything(nwbfile):
    from pynwb import TimeSeries

    nwbfile.add_unit(spike_times=[0.5, 1.5])
    nwbfile.add_acquisition(TimeSeries(name="wheel", data=np.arange(4.0), unit="m", timestamps=[0.1, 0.2, 0.3, 0.4]))
    for start in range(4):
        nwbfile.add_trial(start_time=start + 0.0, stop_time=start + 1.0)


@pytest.mark.parametrize(
    ("place", "values", "message"),
    [
        ("units/spike_times", [[0.5], [1.5]], r"units/spike_times is of shape \(2, 1\)"),
        ("units/spike_times", [b"a", b"b"], "units/spike_times is of shape .* not one number for each spike"),
        ("acquisition/wheel/timestamps", [[0.1], [0.2], [0.3], [0.4]], r"time stamps of shape \(4, 1\)"),
        ("intervals/trials/stop_time", [1.0, 2.0, 3.0], r"stop_time is of shape \(3,\)"),
        ("intervals/trials/start_time", [b"a", b"b", b"c", b"d"], "start_time is of shape .* type bytes"),
    ],
)
def test_times_of_another_shape_or_type_stop_those_who_want_them_and_inspect_says_so(write_nwb, place, values, message):
    path = write_nwb(with_everything)
    store_as(path, place, np.array(values))
    inspection = NwbSource().inspect((str(path),))
    assert [problem for problem in inspection.problems if re.search(message, problem.what)]
    with opened(path) as recording:
        paths = {stream.path for stream in recording.streams}
    assert {"units", "acquisition/wheel", "intervals/trials"} - paths <= {"intervals/trials"}


def test_an_electrode_that_is_not_in_its_table_is_named_and_channels_are_numbered(write_nwb):
    path = write_nwb(lfp(COUNTS, 3))
    with h5py.File(path, "r+") as file:
        file["acquisition/lfp/electrodes"][2] = 50
    with opened(path) as recording:
        assert recording.streams[0].channels == ()
        assert any("among them row 50 of 3" in problem.what for problem in recording.problems)


@pytest.mark.parametrize("reader", READERS)
def test_an_empty_series_is_not_taken_for_one_stored_feature_by_time(write_nwb, reader):
    from pynwb import TimeSeries

    path = write_nwb(
        lambda nwbfile: nwbfile.add_acquisition(TimeSeries(name="p", data=np.ones((5, 2)), rate=9.0, unit="m"))
    )
    with h5py.File(path, "r+") as file:
        del file["acquisition/p/data"]
        file["acquisition/p/data"] = np.zeros((0, 2))
        file["acquisition/p/data"].attrs.update(unit="m", conversion=1.0, resolution=-1.0)
    with opened(path, reader) as recording:
        assert recording.streams[0].shape == (0, 2)
        assert not any("stored as" in problem.what for problem in recording.problems)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("clock", ["stamps", "rate"])
@pytest.mark.parametrize("features", [1, 3, 100])
def test_a_plain_series_stored_feature_by_time_is_turned(write_nwb, reader, clock, features):
    from pynwb import TimeSeries

    values = np.random.default_rng(0).normal(size=(3000, features))
    when = {"timestamps": np.arange(3000) / 100} if clock == "stamps" else {"rate": 100.0}
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(TimeSeries(name="p", data=values, unit="m", **when)))
    with h5py.File(path, "r+") as file:
        said = dict(file["acquisition/p/data"].attrs)
        del file["acquisition/p/data"]
        file["acquisition/p/data"] = values.T
        file["acquisition/p/data"].attrs.update(said)
    with opened(path, reader) as recording:
        (stream,) = recording.streams
        assert stream.shape == (3000, features)
        assert np.array_equal(stream.read(7, 31), values[7:31])
        assert any("stored as (feature, time)" in problem.what for problem in recording.problems)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("shape", "turned"), [
    ((300, 4000), True), ((2, 12), True), ((3, 13), True), ((4, 30), False), ((20, 100), False), ((2, 2), False),
    ((1, 2), False), ((2500, 300), False), ((0, 30), False),
])  # fmt: skip
def test_only_shapes_that_are_hardly_samples_by_features_are_turned(write_nwb, reader, shape, turned):
    from pynwb import TimeSeries

    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(TimeSeries(name="p", data=np.ones(9), rate=9.0, unit="m")))
    values = np.arange(float(np.prod(shape))).reshape(shape)
    with h5py.File(path, "r+") as file:
        said = dict(file["acquisition/p/data"].attrs)
        del file["acquisition/p/data"]
        file["acquisition/p/data"] = values
        file["acquisition/p/data"].attrs.update(said)
    with opened(path, reader) as recording:
        (stream,) = recording.streams
        wanted = values.T if turned else values
        assert np.array_equal(np.asarray(stream.read(0, len(wanted))), wanted)
        assert any("stored as (feature, time)" in problem.what for problem in recording.problems) == turned


@pytest.mark.filterwarnings("ignore:SpatialSeries")
@pytest.mark.parametrize("reader", READERS)
def test_a_place_has_no_more_than_three_axes(write_nwb, reader):
    from pynwb.behavior import Position, SpatialSeries

    place = SpatialSeries(name="p", data=np.ones((4, 2)), reference_frame="f", rate=5.0)
    path = write_nwb(
        lambda nwbfile: nwbfile.create_processing_module("behavior", "d").add(Position(spatial_series=place))
    )
    with h5py.File(path, "r+") as file:
        said = dict(file["processing/behavior/Position/p/data"].attrs)
        del file["processing/behavior/Position/p/data"]
        file["processing/behavior/Position/p/data"] = np.ones((2, 4))
        file["processing/behavior/Position/p/data"].attrs.update(said)
    with opened(path, reader) as recording:
        (stream,) = recording.streams
        assert (stream.shape, stream.channels) == ((4, 2), ("x", "y"))
        assert [problem.severity for problem in recording.problems] == ["warning", "info"]


@pytest.mark.filterwarnings("ignore:ElectricalSeries")
def test_a_signal_with_electrodes_of_neither_axis_is_turned_by_its_shape(write_nwb):
    values = np.arange(4 * 60, dtype=np.int16).reshape(60, 4)
    path = write_nwb(lfp(values.T.copy(), 3, conversion=1e-6))
    with opened(path) as recording:
        assert np.array_equal(recording.streams[0].read(0, 60), values)
        assert any("3 rows of" in problem.what and "4 channels" in problem.what for problem in recording.problems)


@pytest.mark.parametrize("reader", READERS)
def test_a_starting_time_in_milliseconds_is_converted_and_a_second_clock_is_told(write_nwb, reader):
    from pynwb import TimeSeries

    def fill(nwbfile):
        for name in ("late", "twice"):
            nwbfile.add_acquisition(TimeSeries(name=name, data=np.arange(90.0), rate=9.0, starting_time=0.0, unit="m"))

    path = write_nwb(fill)
    with h5py.File(path, "r+") as file:
        file["acquisition/late/starting_time"][()] = 2500.0
        file["acquisition/late/starting_time"].attrs["unit"] = "ms"
        file["acquisition/twice/timestamps"] = np.arange(90) / 3
    with opened(path, reader) as recording:
        late, twice = recording.streams
        assert (late.t0, late.rate) == (2.5, 9.0)
        assert np.array_equal(twice.timestamps(), np.arange(90) / 3)
        said = {problem.where: problem.what for problem in recording.problems if problem.severity == "warning"}
    assert said == {
        "acquisition/late": "starting time in ms, where the schema has seconds",
        "acquisition/twice": "a rate of 9 Hz, and time stamps at 3 Hz",
    }


@pytest.mark.filterwarnings("ignore:ElectricalSeries")
def test_a_signal_without_electrodes_stored_channels_by_time_is_turned(write_nwb):
    values = np.arange(3 * 50, dtype=np.int16).reshape(50, 3)
    path = write_nwb(lfp(values.T.copy(), 3, conversion=1e-6))
    with h5py.File(path, "r+") as file:
        del file["acquisition/lfp/electrodes"]
    with opened(path) as recording:
        assert np.array_equal(recording.streams[0].read(0, 50), values)


@pytest.mark.parametrize("reader", READERS)
def test_times_of_events_in_milliseconds_are_converted(write_nwb, reader):
    from pynwb import TimeSeries
    from pynwb.misc import IntervalSeries

    def fill(nwbfile):
        nwbfile.add_acquisition(TimeSeries(name="licks", data=np.ones(4), timestamps=[1.0, 2.0, 3.5, 50.0], unit="n"))
        marks = IntervalSeries(name="bouts", data=np.array([1, -1], dtype=np.int8), timestamps=[2.0, 4.0])
        nwbfile.add_acquisition(marks)

    path = write_nwb(fill)
    with h5py.File(path, "r+") as file:
        for name in ("licks", "bouts"):
            stamps = file[f"acquisition/{name}/timestamps"]
            stamps[...] *= 1000
            stamps.attrs["unit"] = "milliseconds"
    with opened(path, reader) as recording:
        found = {stream.path: stream for stream in recording.streams}
        assert found["acquisition/licks"].read()[0].tolist() == [1.0, 2.0, 3.5, 50.0]
        assert (found["acquisition/bouts"].start[0], found["acquisition/bouts"].stop[0]) == (2.0, 4.0)
        assert [problem.consequence for problem in recording.problems].count("converted to seconds") == 2
