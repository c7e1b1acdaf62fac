"""Continuous series: scale, clock, channels, orientation, what is LFP and what is not, what is circular."""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest

from neurofm_shards.errors import SourceError
from neurofm_shards.recordings import WindowOptions, windowed
from neurofm_shards.streams import EventStream, IntervalStream, IrregularStream, RegularStream
from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.source import NwbSource

READERS = ("pynwb", "h5py")
COUNTS = np.arange(20, dtype=np.int16).reshape(10, 2)


def streams_of(path, reader="auto"):
    return {stream.path: stream for stream in NwbSource(NwbConfig(reader=reader)).open((str(path),)).streams}


def electrodes(nwbfile, count=2):
    device = nwbfile.create_device(name="probe")
    group = nwbfile.create_electrode_group("g", "d", "CA1", device)
    for row in range(count):
        nwbfile.add_electrode(id=100 + row, group=group, location=f"CA{row}")
    return nwbfile.create_electrode_table_region(list(range(count)), "all")


def electrical(nwbfile, name="lfp", rate=1000.0, region=None, **more):
    from pynwb.ecephys import ElectricalSeries

    clock = {} if "timestamps" in more else {"rate": rate, "starting_time": 2.0}
    return ElectricalSeries(
        name=name, data=more.pop("data", COUNTS), electrodes=region or electrodes(nwbfile), **clock, **more
    )


def spatial(name="heading", values=(0.1, 3.0, 6.2), unit="radians", **more):
    from pynwb.behavior import SpatialSeries

    clock = more or {"rate": 10.0}
    return SpatialSeries(name=name, data=np.asarray(values), reference_frame="room", unit=unit, **clock)


def series(name="signal", values=(1.0, 2.5, 2.0, 9.5), unit="a.u.", **clock):
    from pynwb import TimeSeries

    return TimeSeries(name=name, data=np.asarray(values), unit=unit, **clock)


@pytest.mark.parametrize("reader", READERS)
def test_physical_values_are_stored_times_both_conversions_plus_offset(write_nwb, reader):
    def fill(nwbfile):
        lfp = electrical(nwbfile, conversion=1e-6, channel_conversion=[2.0, 3.0], offset=0.5)
        nwbfile.add_acquisition(lfp)

    stream = streams_of(write_nwb(fill), reader)["acquisition/lfp"]
    assert isinstance(stream, RegularStream)
    assert (stream.rate, stream.t0, stream.unit, stream.calibrated) == (1000.0, 2.0, "V", True)
    assert stream.channels == ("100", "101")
    assert [row["location"] for row in stream.table] == ["CA0", "CA1"]
    assert np.array_equal(stream.read(3, 5), COUNTS[3:5])
    assert np.allclose(stream.read(0, 10) * stream.scale + stream.offset, COUNTS * [2e-6, 3e-6] + 0.5, rtol=1e-15)


@pytest.mark.parametrize("reader", READERS)
def test_files_from_before_offset_have_none(write_nwb, reader):
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(electrical(nwbfile)))
    with h5py.File(path, "r+") as file:
        del file["acquisition/lfp/data"].attrs["offset"]
    assert streams_of(path, reader)["acquisition/lfp"].offset == 0.0


def test_integers_without_a_conversion_are_reported_as_uncalibrated(write_nwb):
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(electrical(nwbfile)))
    with NwbSource().open((str(path),)) as recording:
        assert not next(iter(recording.streams)).calibrated
        assert any("uncalibrated" in problem.consequence for problem in recording.problems)


@pytest.mark.parametrize(
    ("name", "rate", "modality"),
    [
        ("ElectricalSeriesLF", 2500.0, "lfp"),
        ("lfp", 1000.0, "lfp"),
        ("ElectricalSeriesAP", 30000.0, "raw"),
        ("ElectricalSeriesAP", 2500.0, "raw"),
        ("LFP", 30000.0, "raw"),
        ("ElectricalSeries", 30000.0, "raw"),
        ("probe_1", 1250.0, "lfp"),
        ("raw_traces", 2000.0, "raw"),
    ],
)
def test_wide_band_is_never_taken_for_lfp(write_nwb, name, rate, modality):
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(electrical(nwbfile, name, rate)))
    assert streams_of(path)[f"acquisition/{name}"].modality == modality


@pytest.mark.parametrize("container", ["LFP", "FilteredEphys"])
@pytest.mark.parametrize(("rate", "modality"), [(1000.0, "lfp"), (30000.0, "raw")])
def test_containers_say_lfp_unless_the_rate_denies_it(write_nwb, container, rate, modality):
    from pynwb import ecephys

    def fill(nwbfile):
        holder = getattr(ecephys, container)()
        nwbfile.create_processing_module("ecephys", "d").add(holder)
        holder.add_electrical_series(electrical(nwbfile, "probe0", rate))

    assert streams_of(write_nwb(fill))[f"processing/ecephys/{container}/probe0"].modality == modality


@pytest.mark.parametrize("reader", READERS)
def test_time_stamps_may_be_linked_to_another_series(write_nwb, reader):
    times = np.array([0.0, 0.1, 0.5, 0.6])

    def fill(nwbfile):
        first = series("first", timestamps=times)
        nwbfile.add_acquisition(first)
        nwbfile.add_acquisition(series("second", timestamps=first))

    streams = streams_of(write_nwb(fill), reader)
    assert np.array_equal(streams["acquisition/second"].timestamps(), times)


@pytest.mark.parametrize("reader", READERS)
def test_data_and_time_stamps_of_different_lengths_are_an_error_for_those_who_want_them(write_nwb, reader):
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(series(timestamps=np.arange(4) / 10)))
    with h5py.File(path, "r+") as file:
        del file["acquisition/signal/timestamps"]
        file["acquisition/signal/timestamps"] = np.arange(3) / 10
        file["acquisition/signal/timestamps"].attrs.update({"interval": 1, "unit": "seconds"})
    stream = streams_of(path, reader)["acquisition/signal"]
    with pytest.raises(SourceError, match=r"signal has data of shape \(4,\) and 3 time stamps"):
        stream.timestamps()
    with pytest.raises(SourceError, match="synthetic.nwb"):
        stream.read(0, 3)


@pytest.mark.parametrize("rate", [0.0, float("nan"), -1.0])
def test_a_rate_that_is_no_rate_is_an_error(write_nwb, rate):
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(series(rate=10.0)))
    with h5py.File(path, "r+") as file:
        file["acquisition/signal/starting_time"].attrs["rate"] = rate
    with pytest.raises(SourceError, match="its times are unknown"):
        streams_of(path, "h5py")["acquisition/signal"].timestamps()


@pytest.mark.parametrize(
    ("unit", "values", "expected"),
    [
        ("radians", (0.1, 3.0, 6.2), (0.0, math.tau)),
        ("rad", (-3.0, 0.1, 3.0), (-math.pi, math.pi)),
        ("degrees", (10.0, 350.0, 1.0), (0.0, 360.0)),
        ("degrees", (-170.0, 10.0, 170.0), (-180.0, 180.0)),
        ("unknown", (0.1, 3.0, 6.2), (0.0, math.tau)),
        ("radians", (0.1, 30.0, 6.2), None),
        ("cm", (0.1, 3.0, 6.2), None),
    ],
)
def test_a_compass_direction_wraps_where_its_unit_and_values_say(write_nwb, unit, values, expected):
    from pynwb.behavior import CompassDirection

    path = write_nwb(
        lambda nwbfile: nwbfile.add_acquisition(CompassDirection(spatial_series=spatial("h", values, unit)))
    )
    assert streams_of(path)["acquisition/CompassDirection/h"].circular == expected


def test_positions_are_not_circular_and_have_named_axes(write_nwb):
    from pynwb.behavior import Position

    values = np.zeros((3, 2))
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(Position(spatial_series=spatial("xy", values, "m"))))
    stream = streams_of(path)["acquisition/Position/xy"]
    assert stream.circular is None
    assert stream.channels == ("x", "y")
    assert stream.modality == "behavior"


@pytest.mark.parametrize("kind", ["EyeTracking", "PupilTracking", "BehavioralTimeSeries"])
@pytest.mark.parametrize("reader", READERS)
def test_every_behaviour_container_is_found(write_nwb, kind, reader):
    from pynwb import behavior

    def fill(nwbfile):
        holder = getattr(behavior, kind)()
        item = spatial("value", [1.0, 2.0, 3.0], "cm") if kind == "EyeTracking" else series("value", rate=10.0)
        add = (
            holder.add_spatial_series
            if kind == "EyeTracking"
            else holder.add_timeseries
            if kind != "PupilTracking"
            else None
        )
        (add or holder.add_timeseries)(item)
        nwbfile.create_processing_module("behavior", "d").add(holder)

    stream = streams_of(write_nwb(fill), reader)[f"processing/behavior/{kind}/value"]
    assert stream.modality == "behavior"


def test_a_wheel_in_a_behaviour_module_is_a_signal_even_when_sampled_on_movement(write_nwb):
    times = np.cumsum(np.random.default_rng(0).exponential(1.0, 200))

    def fill(nwbfile):
        wheel = series("wheel", np.sin(times), "rad", timestamps=times)
        nwbfile.create_processing_module("behavior", "d").add(wheel)

    stream = streams_of(write_nwb(fill))["processing/behavior/wheel"]
    assert isinstance(stream, IrregularStream)
    assert stream.modality == "behavior"


@pytest.mark.parametrize("reader", READERS)
def test_licks_are_events_with_the_series_name(write_nwb, reader):
    times = np.cumsum(np.random.default_rng(0).exponential(1.0, 200))
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(series("licks", np.ones(200), timestamps=times)))
    stream = streams_of(path, reader)["acquisition/licks"]
    assert isinstance(stream, EventStream)
    assert stream.owners == ("licks",)
    found, owner = stream.read()
    assert np.array_equal(found, times)
    assert not owner.any()


def test_rhythmic_licks_are_events_too(write_nwb):
    steps = np.where(np.arange(200) % 20 == 0, 5.0, 0.14) * np.random.default_rng(0).uniform(0.6, 1.4, 200)

    def fill(nwbfile):
        licks = series("licks", np.ones(200), timestamps=np.cumsum(steps))
        nwbfile.create_processing_module("behavior", "d").add(licks)

    assert isinstance(streams_of(write_nwb(fill))["processing/behavior/licks"], EventStream)


@pytest.mark.filterwarnings("ignore:BehavioralEvents is deprecated")
def test_codes_of_behavioural_events_are_owners(write_nwb):
    from pynwb.behavior import BehavioralEvents

    codes = np.array([3, 1, 3], dtype=np.int32)
    item = series("ttl", codes, timestamps=np.array([0.5, 1.5, 1.6]))
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(BehavioralEvents(time_series=item)))
    stream = streams_of(path)["acquisition/BehavioralEvents/ttl"]
    assert stream.owners == ("1", "3")
    assert stream.read()[1].tolist() == [1, 0, 1]


@pytest.mark.filterwarnings("ignore:AnnotationSeries is deprecated")
@pytest.mark.parametrize("reader", READERS)
def test_annotations_are_events_by_their_text(write_nwb, reader):
    from pynwb.misc import AnnotationSeries

    notes = AnnotationSeries(name="notes", data=["start", "stop", "start"], timestamps=[0.0, 1.0, 2.0])
    stream = streams_of(write_nwb(lambda nwbfile: nwbfile.add_acquisition(notes)), reader)["acquisition/notes"]
    assert stream.owners == ("start", "stop")
    assert stream.read()[1].tolist() == [0, 1, 0]


@pytest.mark.parametrize("reader", READERS)
def test_an_events_table_gives_events_by_its_text_column(write_nwb, reader):
    event = pytest.importorskip("pynwb.event", reason="events tables came with pynwb 4")

    def fill(nwbfile):
        table = event.EventsTable(name="licks", description="d")
        table.add_column("side", "left or right")
        for time, side in ((0.5, "left"), (1.5, "right"), (1.6, "left")):
            table.add_row(timestamp=time, side=side)
        nwbfile.add_events_table(table)

    stream = streams_of(write_nwb(fill), reader)["events/licks"]
    assert stream.owners == ("left", "right")
    times, owner = stream.read()
    assert times.tolist() == [0.5, 1.5, 1.6]
    assert owner.tolist() == [0, 1, 0]


@pytest.mark.parametrize("reader", READERS)
def test_numbers_that_a_table_explains_are_the_codes_of_events(write_nwb, reader):
    event = pytest.importorskip("pynwb.event", reason="events tables came with pynwb 4")
    from hdmf.common import MeaningsTable

    def fill(nwbfile):
        table = event.EventsTable(name="ttl", description="d")
        table.add_column("trial", "number of the trial")
        table.add_column("pulse", "value of the pulse")
        for trial, pulse in enumerate((55, 1, 55)):
            table.add_row(timestamp=trial + 0.5, trial=trial, pulse=pulse)
        meanings = MeaningsTable(target=table["pulse"])
        meanings.add_row(value=55, meaning="start")
        meanings.add_row(value=1, meaning="stimulus")
        table.add_meanings_table(meanings)
        nwbfile.add_events_table(table)

    stream = streams_of(write_nwb(fill), reader)["events/ttl"]
    assert stream.owners == ("1", "55")
    assert stream.read()[1].tolist() == [1, 0, 1]


def test_an_interval_series_becomes_intervals(write_nwb):
    from pynwb.misc import IntervalSeries

    item = IntervalSeries(name="licking", data=[1, -1, 2, 1, -2], timestamps=[0.0, 1.0, 2.0, 3.0, 4.0])
    stream = streams_of(write_nwb(lambda nwbfile: nwbfile.add_acquisition(item)))["acquisition/licking"]
    assert isinstance(stream, IntervalStream)
    assert stream.start.tolist() == [0.0, 2.0, 3.0]
    assert stream.stop[:2].tolist() == [1.0, 4.0]
    assert math.isnan(stream.stop[2])
    assert stream.columns["type"] == [1, 2, 1]


def roi_series(nwbfile, data, rois=3, **clock):
    from pynwb.ophys import Fluorescence, ImageSegmentation, OpticalChannel, RoiResponseSeries

    device = nwbfile.create_device(name="scope")
    plane = nwbfile.create_imaging_plane(
        name="plane", optical_channel=OpticalChannel(name="c", description="d", emission_lambda=500.0), description="d",
        device=device, excitation_lambda=600.0, indicator="GCaMP", location="V1",
    )  # fmt: skip
    module = nwbfile.create_processing_module("ophys", "d")
    segmentation = ImageSegmentation()
    module.add(segmentation)
    table = segmentation.create_plane_segmentation(description="d", imaging_plane=plane, name="rois")
    for _ in range(rois):
        table.add_roi(image_mask=np.ones((2, 2)))
    module.add(Fluorescence())
    region = table.create_roi_table_region(description="all", region=list(range(rois)))
    item = RoiResponseSeries(name="f", data=data, rois=region, unit="lumens", **clock)
    module["Fluorescence"].add_roi_response_series(item)


@pytest.mark.filterwarnings("ignore:RoiResponseSeries")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("clock", [{"rate": 10.0}, {"timestamps": np.arange(7) / 10 + 1}])
@pytest.mark.parametrize("transposed", [False, True])
def test_roi_responses_are_read_as_time_by_roi_however_they_are_stored(write_nwb, reader, clock, transposed):
    data = np.arange(21, dtype=np.float32).reshape(7, 3)
    path = write_nwb(lambda nwbfile: roi_series(nwbfile, data, **clock))
    if transposed:  # pynwb no longer writes such files
        with h5py.File(path, "r+") as file:
            group, attributes = (
                file["processing/ophys/Fluorescence/f"],
                dict(file["processing/ophys/Fluorescence/f/data"].attrs),
            )
            del group["data"]
            group["data"] = np.ascontiguousarray(data.T)
            group["data"].attrs.update(attributes)
    with NwbSource(NwbConfig(reader=reader)).open((str(path),)) as recording:
        stream = recording.streams[-1]
        assert stream.modality == "ophys"
        assert stream.shape == (7, 3)
        assert np.array_equal(stream.read(2, 5), data[2:5])
        assert transposed == any("(ROI, time)" in problem.what for problem in recording.problems)


def test_movies_in_other_files_are_noted_and_left_out(write_nwb):
    from pynwb.image import ImageSeries

    def fill(nwbfile):
        movie = ImageSeries(name="movie", external_file=["m.avi"], format="external", timestamps=[0.0, 0.1])
        nwbfile.add_acquisition(movie)
        nwbfile.add_acquisition(series(rate=10.0))

    with NwbSource().open((str(write_nwb(fill)),)) as recording:
        assert [stream.path for stream in recording.streams] == ["acquisition/signal"]
        assert any(problem.where == "acquisition/movie" for problem in recording.problems)


def test_gaps_are_described_and_not_closed(write_nwb):
    times = np.concatenate([np.arange(50) / 10, np.arange(50) / 10 + 60])
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(series("p", np.sin(times), timestamps=times)))
    assert np.array_equal(streams_of(path)["acquisition/p"].timestamps(), times)
    leaves = NwbSource().inspect((str(path),)).tree["behavior"]["acquisition/p"]
    assert leaves["gaps"] == 1
    assert leaves["longest_gap_s"] == pytest.approx(55.0)


def test_reads_are_lazy_and_any_range_is_right(write_nwb, monkeypatch):
    from neurofm_shards_nwb.content import StoredArray

    data = np.random.default_rng(0).integers(-100, 100, (5000, 2), dtype=np.int16)
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(electrical(nwbfile, data=data, conversion=1e-6)))
    reads = []
    original = StoredArray.read
    monkeypatch.setattr(StoredArray, "read", lambda self, *a, **k: reads.append(self.where) or original(self, *a, **k))
    stream = streams_of(path)["acquisition/lfp"]
    assert not any(where.endswith("/data") and "lfp" in where for where in reads)
    for start, stop in ((0, 0), (0, 1), (4990, 5000), (17, 4111)):
        assert np.array_equal(stream.read(start, stop), data[start:stop])


def test_what_was_shown_stops_nobody_and_is_taken_when_named(write_nwb):
    from pynwb import TimeSeries

    shown = np.arange(1000.0) % 7

    def fill(nwbfile):
        nwbfile.add_stimulus(TimeSeries(name="grating", data=shown, unit="deg", rate=100.0))
        nwbfile.add_unit(spike_times=np.arange(1, 100) / 10)

    path = write_nwb(fill)
    with windowed(NwbSource().open((str(path),)), WindowOptions(overlap=0)) as samples:
        assert [spec.name for spec in samples.plan().columns] == ["spikes", "unit_ids"]
    named = WindowOptions(overlap=0, modalities=("lfp",), lfp={"path": "grating"})
    with windowed(NwbSource().open((str(path),)), named) as samples:
        assert np.array_equal(samples.read(0, 9).columns["lfp"].ravel(), shown[10:910])
