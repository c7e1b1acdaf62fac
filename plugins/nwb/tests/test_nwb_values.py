"""What a file says counts: its units, its hidden columns, what was never written, and what kind of thing a series is.

References are computed with h5py and numpy alone.
"""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from neurofm_shards.errors import SourceError
from neurofm_shards.recordings import BehaviorOptions, WindowOptions, windowed
from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.source import NwbSource


def series(name, data, **more):
    from pynwb import TimeSeries

    return TimeSeries(name=name, data=data, unit=more.pop("unit", "a.u."), **more)


def streams_of(path, reader="auto"):
    with NwbSource(NwbConfig(reader=reader)).open((str(path),)) as recording:
        return {stream.path: stream for stream in recording.streams}, recording.problems


@pytest.mark.parametrize("reader", ["pynwb", "h5py"])
def test_columns_that_a_table_does_not_list_are_read_with_a_problem(write_nwb, reader):
    def fill(nwbfile):
        for start in (0.0, 1.0, 2.0):
            nwbfile.add_trial(start_time=start, stop_time=start + 0.5)

    path = write_nwb(fill)
    with h5py.File(path, "r+") as file:
        dataset = file["intervals/trials"].create_dataset("response_time", data=[0.1, 0.2, 0.3])
        dataset.attrs["neurodata_type"] = "VectorData"
        ragged = file["intervals/trials"].create_dataset("licks", data=[1.0, 2.0, 3.0])
        ragged.attrs["neurodata_type"] = "VectorData"
        file["intervals/trials"].create_dataset("licks_index", data=np.array([2, 2, 3], dtype=np.uint8))
    streams, problems = streams_of(path, reader)
    assert streams["intervals/trials"].columns["response_time"] == [0.1, 0.2, 0.3]
    assert streams["intervals/trials"].columns["licks"] == [[1.0, 2.0], [], [3.0]]
    assert any("response_time" in problem.what and "licks" in problem.what for problem in problems)


@pytest.mark.parametrize("reader", ["pynwb", "h5py"])
def test_electrodes_that_a_units_table_does_not_list_are_found_in_their_own_table(write_nwb, reader):
    def fill(nwbfile):
        group = nwbfile.create_electrode_group("g", "d", "CA1", nwbfile.create_device(name="probe"))
        for row in range(3):
            nwbfile.add_electrode(group=group, location=f"L{row}", id=10 + row)
        nwbfile.add_unit(spike_times=[1.0, 2.0], electrodes=[2, 0])

    path = write_nwb(fill)
    with h5py.File(path, "r+") as file:
        names = [name for name in file["units"].attrs["colnames"] if name != "electrodes"]
        file["units"].attrs["colnames"] = np.array(names, dtype=h5py.string_dtype())
    streams, _ = streams_of(path, reader)
    assert streams["units"].table[0]["electrodes"] == ["12", "10"]
    assert streams["units"].table[0]["electrode_location"] == ["L2", "L0"]


@pytest.mark.parametrize("reader", ["pynwb", "h5py"])
def test_the_unit_is_the_files_own_and_not_the_schemas(write_nwb, reader):
    from pynwb.icephys import VoltageClampSeries

    def fill(nwbfile):
        electrode = nwbfile.create_icephys_electrode(name="e", device=nwbfile.create_device(name="d"), description="x")
        made = VoltageClampSeries(name="clamp", data=np.arange(10.0), electrode=electrode, gain=1.0, rate=100.0)
        nwbfile.add_acquisition(made)

    path = write_nwb(fill)
    with h5py.File(path, "r+") as file:
        file["acquisition/clamp/data"].attrs["unit"] = "volts"
    streams, _ = streams_of(path, reader)
    assert streams["acquisition/clamp"].unit == "V"


def test_chunks_that_were_never_written_are_an_error_and_no_zeros(write_nwb):
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(series("p", np.zeros(10), rate=10.0)))
    with h5py.File(path, "r+") as file:
        del file["acquisition/p/data"]
        dataset = file["acquisition/p"].create_dataset("data", (1000,), "f4", chunks=(100,))
        dataset.attrs.update(unit="m", conversion=1.0)
        dataset[:500] = 1.0
    streams, _ = streams_of(path)
    with NwbSource().open((str(path),)) as recording, pytest.raises(SourceError, match="5 of its 10 chunks were never"):
        recording.streams[0].read(0, 10)
    assert streams["acquisition/p"].shape == (1000,)
    with h5py.File(path, "r+") as file:
        del file["acquisition/p/data"]
        dataset = file["acquisition/p"].create_dataset("data", (1000,), "f4", chunks=(100,), fillvalue=np.nan)
        dataset.attrs.update(unit="m", conversion=1.0)
        dataset[:500] = 1.0
    with NwbSource().open((str(path),)) as recording:
        assert np.isnan(recording.streams[0].read(0, 1000)).sum() == 500


def test_values_that_lie_in_a_file_that_is_gone_are_an_error(write_nwb, tmp_path):
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(series("p", np.zeros(10), rate=10.0)))
    layout = h5py.VirtualLayout((100,), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "gone.h5"), "v", (100,))
    with h5py.File(path, "r+") as file:
        del file["acquisition/p/data"]
        file["acquisition/p"].create_virtual_dataset("data", layout)
        file["acquisition/p/data"].attrs.update(unit="m", conversion=1.0)
    with NwbSource().open((str(path),)) as recording, pytest.raises(SourceError, match=r"gone\.h5 cannot be found"):
        recording.streams[0].read(0, 10)


def put_together(path, place, folder, how):
    """Make a dataset virtual: of a whole source, of half of one, or of one that is not whole itself."""
    with h5py.File(path, "r+") as file:
        values, attributes = file[place][()], dict(file[place].attrs)
        with h5py.File(folder / "source.h5", "w") as other:
            if how in {"whole", "half"}:
                other["v"] = values
            elif how == "unwritten":
                other.create_dataset("v", values.shape, values.dtype, chunks=(5,))[:5] = values[:5]
            elif how == "nested":
                layout = h5py.VirtualLayout(values.shape, values.dtype)
                layout[:] = h5py.VirtualSource("gone.h5", "v", values.shape)
                other.create_virtual_dataset("v", layout)
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        taken = len(values) // 2 if how == "half" else len(values)
        layout[:taken] = h5py.VirtualSource("source.h5", "v", values.shape)[:taken]
        del file[place]
        file.create_virtual_dataset(place, layout)
        file[place].attrs.update(attributes)


@pytest.mark.parametrize("reader", ["pynwb", "h5py"])
@pytest.mark.parametrize("name", ["data", "timestamps"])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("whole", ""),
        ("half", "20 of its 40 values come from none"),
        ("nameless", r"of v in source\.h5: there is no such dataset"),
        ("unwritten", "7 of its 8 chunks were never written"),
        ("nested", r"gone\.h5 cannot be found"),
    ],
)
def test_a_virtual_dataset_is_whole_or_stops_those_who_want_it(write_nwb, tmp_path, reader, name, how, message):
    def fill(nwbfile):
        nwbfile.add_acquisition(series("p", np.arange(40.0) ** 2, timestamps=np.arange(40) / 4))
        nwbfile.add_unit(spike_times=[0.5, 9.5])

    path = write_nwb(fill)
    put_together(path, f"acquisition/p/{name}", tmp_path, how)
    with NwbSource(NwbConfig(reader=reader)).open((str(path),)) as recording:
        streams = {stream.path: stream for stream in recording.streams}
        assert streams["units"].read()[0].tolist() == [0.5, 9.5]
        stream = streams["acquisition/p"]
        if not message:
            assert np.array_equal(stream.read(0, 40), np.arange(40.0) ** 2)
            assert np.array_equal(stream.timestamps(), np.arange(40) / 4)
            return
        with pytest.raises(SourceError, match=message):
            (stream.read if name == "data" else stream.timestamps)(0, 40)


@pytest.mark.parametrize("how", ["jitter", 2, 4])
@pytest.mark.parametrize("counts", [False, True])
def test_photometry_whose_stamps_jitter_or_repeat_is_a_series(write_nwb, how, counts):
    random = np.random.default_rng(0)
    times = np.arange(2000) / 20
    times = np.sort(times + random.normal(0, 0.04, 2000)) if how == "jitter" else np.repeat(times[::how], how)
    values = random.normal(2000, 20, 2000)
    values = values.astype(np.uint16) if counts else values
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(series("fip", values, timestamps=times)))
    streams, _ = streams_of(path)
    assert (streams["acquisition/fip"].modality, streams["acquisition/fip"].shape) == ("behavior", (2000,))
    with windowed(NwbSource().open((str(path),)), WindowOptions(overlap=0)) as samples:
        block = samples.read(0, samples.plan().num_samples)
    assert block.columns["behavior_valid"].mean() > 0.9


def test_events_of_one_fractional_value_are_events(write_nwb):
    times = np.cumsum(np.random.default_rng(0).exponential(3.0, 200))
    reward = series("reward_ml", np.full(200, 0.003), timestamps=times)
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(reward))
    with NwbSource().open((str(path),)) as recording:
        assert recording.streams[0].owners == ("reward_ml",)
        assert np.array_equal(recording.streams[0].read()[0], times)


def test_pulses_of_a_frame_clock_and_measured_events_are_events(write_nwb):
    random = np.random.default_rng(0)
    scattered = np.sort(random.uniform(0, 100, 2000))

    def fill(nwbfile):
        nwbfile.add_acquisition(series("frames", np.ones(300), timestamps=np.arange(300) / 30))
        nwbfile.add_acquisition(series("drops", random.normal(size=2000), timestamps=scattered))

    streams, _ = streams_of(write_nwb(fill))
    assert streams["acquisition/frames"].owners == ("frames",)
    assert streams["acquisition/drops"].modality == "events"


CLOCKS = {
    "jitter": lambda random, n: np.sort(np.arange(n) / 30 + random.normal(0, 0.01, n)),
    "out of order": lambda random, n: np.arange(n) / 30 + random.normal(0, 0.03, n),
    "free running": lambda random, n: np.cumsum(random.uniform(0.6, 1.4, n)) / 30,
    "paused": lambda random, n: np.sort(np.arange(n) / 30 + random.normal(0, 0.01, n) + 50 * (np.arange(n) > n / 2)),
    "blocks": lambda random, n: np.repeat(np.arange(n / 20) / 3 + random.normal(0, 0.1, n // 20), 20),
}
CONSTANT = {
    "zeros": np.zeros,
    "float": lambda n: np.full(n, 3.25),
    "integer": lambda n: np.full(n, 512, dtype=np.uint16),
    "boolean": lambda n: np.zeros(n, dtype=bool),
    "gaps": lambda n: np.where(np.arange(n) % 7 == 0, np.nan, 2.0),
    "nothing known": lambda n: np.full(n, np.nan),
    "channels": lambda n: np.full((n, 3), -1.5),
}


@pytest.mark.parametrize("reader", ["h5py", "pynwb"])
@pytest.mark.parametrize("stamps", CLOCKS)
@pytest.mark.parametrize("samples", [60, 1200])
def test_a_dead_channel_is_a_series_whatever_its_value_and_clock(write_nwb, reader, stamps, samples):
    times = CLOCKS[stamps](np.random.default_rng(0), samples)

    def fill(nwbfile):
        module = nwbfile.create_processing_module("behavior", "d")
        for name, value in CONSTANT.items():
            nwbfile.add_acquisition(series(name, value(samples), timestamps=times))
            module.add(series(name, value(samples), timestamps=times))

    with NwbSource(NwbConfig(reader=reader)).open((str(write_nwb(fill)),)) as recording:
        kinds = {stream.path: (type(stream).__name__, stream.modality) for stream in recording.streams}
    assert len(kinds) == 2 * len(CONSTANT)
    assert set(kinds.values()) == {("IrregularStream", "behavior")}


HAPPENED = {
    "chance": lambda random: np.cumsum(random.exponential(0.5, 300)),
    "bouts": lambda random: np.cumsum(np.where(np.arange(300) % 12 == 0, 6.0, 0.14) + random.normal(0, 0.01, 300)),
    "each trial": lambda random: np.cumsum(random.uniform(3, 6, 300)),
    "few": lambda random: np.sort(random.uniform(0, 60, 12)),
}


@pytest.mark.parametrize("stamps", HAPPENED)
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)], ids=["flat", "a column"])
def test_constant_values_at_times_that_no_clock_gives_are_events(write_nwb, stamps, shape):
    times = HAPPENED[stamps](np.random.default_rng(0))

    def fill(nwbfile):
        for name, value in (("amount", 4.5), ("zero", 0.0), ("port", 3)):
            values = np.full(len(times), value).reshape(shape)
            nwbfile.add_acquisition(series(name, values, timestamps=times))

    with NwbSource().open((str(write_nwb(fill)),)) as recording:
        assert [stream.owners for stream in recording.streams] == [("amount",), ("port",), ("zero",)]
        assert all(np.array_equal(stream.read()[0], times) for stream in recording.streams)


def test_a_line_that_is_high_in_blocks_at_one_time_is_no_train_of_pulses(write_nwb):
    times = np.repeat(np.arange(60) / 3, 20)
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(series("line", np.ones(1200), timestamps=times)))
    streams, _ = streams_of(path)
    assert streams["acquisition/line"].shape == (1200,)


def test_a_series_of_any_kind_is_reached_by_its_path_and_what_is_left_out_is_said(write_nwb):
    def fill(nwbfile):
        module = nwbfile.create_processing_module("signals", "d")
        module.add(series("odd", np.arange(1000.0), rate=100.0))
        nwbfile.add_acquisition(series("speed", np.arange(1000.0), rate=100.0))

    path = write_nwb(fill)
    chosen = WindowOptions(lfp={"path": "signals/odd"}, modalities=("lfp",), sequence_length=100, overlap=0)
    with windowed(NwbSource().open((str(path),)), chosen) as samples:
        assert np.asarray(samples.read(0, 10).columns["lfp"]).ravel().tolist() == list(range(1000))
    with windowed(NwbSource().open((str(path),)), WindowOptions()) as samples:
        told = [problem for problem in samples.plan().problems if "processing/signals/odd" in problem.what]
    assert "behavior=[{'path': PATH}]" in told[0].consequence


def test_an_empty_series_is_masked(write_nwb):
    def fill(nwbfile):
        nwbfile.add_acquisition(series("none", np.zeros(0), timestamps=np.zeros(0)))
        nwbfile.add_acquisition(series("speed", np.arange(1000.0), rate=100.0))

    with windowed(NwbSource().open((str(write_nwb(fill)),)), WindowOptions(overlap=0)) as samples:
        plan, block = samples.plan(), samples.read(0, 9)
    row = [row["path"] for row in plan.tables["features"]].index("acquisition/none")
    assert not np.asarray(block.columns["behavior_valid"])[:, :, row].any()


def test_floats_that_take_few_whole_values_are_reported(write_nwb):
    states = np.repeat([0.0, 1.0, 2.0, 1.0], 100)
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(series("state", states, rate=100.0)))
    with windowed(NwbSource().open((str(path),)), WindowOptions(overlap=0)) as samples:
        assert any("kind=step" in problem.consequence for problem in samples.plan().problems)
    held = WindowOptions(overlap=0, behavior=(BehaviorOptions(path="acquisition/state", kind="step"),))
    with windowed(NwbSource().open((str(path),)), held) as samples:
        assert not any("kind=step" in problem.consequence for problem in samples.plan().problems)


def test_what_the_electrodes_table_says_reaches_the_units_and_a_table_of_its_own(write_nwb):
    def fill(nwbfile):
        group = nwbfile.create_electrode_group("shank", "d", "CA1", nwbfile.create_device(name="probe"))
        nwbfile.add_electrode_column("impedance", "ohm")
        for row in range(4):
            nwbfile.add_electrode(
                id=10 + row, group=group, location=f"CA{row}", x=1.0 * row, y=2.0, z=3.0, impedance=100 + row
            )
        for electrodes in ([2], [0, 3]):
            nwbfile.add_unit(spike_times=np.arange(1, 50) / 7, electrodes=electrodes)

    path = write_nwb(fill)
    with h5py.File(path) as file:
        table = file["general/extracellular_ephys/electrodes"]
        x, ids = table["x"][:], table["id"][:]
    with windowed(NwbSource().open((str(path),)), WindowOptions()) as samples:
        tables = samples.plan().tables
    first, second = tables["units"]
    assert (first["electrode_x"], first["electrode_impedance"], first["electrode_location"]) == (x[2], 102, "CA2")
    assert (second["electrode_x"], second["electrode_group_name"]) == ([x[0], x[3]], ["shank", "shank"])
    assert [row["id"] for row in tables["electrodes"]] == [f"s1/electrodes/{ids[row]}" for row in (0, 2, 3)]
    assert [row["impedance"] for row in tables["electrodes"]] == [100, 102, 103]


def two_planes(nwbfile):
    """Two imaging planes, and for each a plane segmentation with F and spks."""
    from pynwb.ophys import DfOverF, Fluorescence, ImageSegmentation, OpticalChannel, RoiResponseSeries

    rng = np.random.default_rng(0)
    module = nwbfile.create_processing_module("ophys", "d")
    segmentation = ImageSegmentation()
    module.add(segmentation)
    device = nwbfile.create_device(name="scope")
    f, spks = Fluorescence(name="F"), DfOverF(name="spks")
    module.add(f)
    module.add(spks)
    for i, place in enumerate(("V1", "M2")):
        plane = nwbfile.create_imaging_plane(
            name=f"plane{i}",
            optical_channel=OpticalChannel(name="green", description="d", emission_lambda=510.0 + i),
            description="d",
            device=device,
            excitation_lambda=920.0,
            imaging_rate=10.0 + i,
            indicator="GCaMP6f",
            location=place,
            grid_spacing=[0.5, 0.5 + i],
        )
        table = segmentation.create_plane_segmentation(description="d", imaging_plane=plane, name=f"rois{i}")
        for _ in range(4):
            table.add_roi(image_mask=np.zeros((3, 3)))
        table.add_column(name="iscell", description="d", data=[[1.0, 0.9], [0.0, 0.2], [1.0, 0.8], [1.0, 0.7]])
        for container, name in ((f, "F"), (spks, "spks")):
            region = table.create_roi_table_region(description="d", region=[0, 1, 2, 3])
            more = {"rois": region, "unit": "lumens", "rate": 10.0}
            container.add_roi_response_series(
                RoiResponseSeries(name=f"{name}{i}", data=rng.normal(size=(100, 4)), **more)
            )


@pytest.mark.parametrize("reader", ["pynwb", "h5py"])
def test_what_a_file_says_of_imaging_planes_reaches_the_rois_and_a_table_of_its_own(write_nwb, reader):
    path = write_nwb(two_planes)
    with h5py.File(path) as file:
        said = {
            name: {key: group[key][()] for key in ("location", "indicator", "imaging_rate", "excitation_lambda")}
            | {"emission_lambda": group["green/emission_lambda"][()], "grid_spacing": group["grid_spacing"][:].tolist()}
            for name, group in file["general/optophysiology"].items()
        }
        data = [file[f"processing/ophys/{at}/data"][:] for at in ("F/F0", "spks/spks1")]
        cells = [file[f"processing/ophys/ImageSegmentation/rois{i}/iscell"][:, 0] == 1 for i in range(2)]
    chosen = tuple({"path": at, "filter": "iscell == 1"} for at in ("F/F0", "spks/spks1"))
    options = WindowOptions(ophys=chosen, overlap=0)
    with windowed(NwbSource(NwbConfig(reader=reader)).open((str(path),)), options) as samples:
        tables, block = samples.plan().tables, samples.read(0, 10)
    assert [row["plane_name"] for row in tables["rois"]] == ["plane0"] * 3 + ["plane1"] * 3
    assert [row["id"] for row in tables["planes"]] == ["s1/planes/plane0", "s1/planes/plane1"]
    for row in tables["planes"]:
        for key, value in said[row["name"]].items():
            assert row[key] == (value.decode() if isinstance(value, bytes) else value), key
        assert row["device"] == "scope"
    for row in tables["rois"]:
        assert row["plane_location"] == said[row["plane_name"]]["location"].decode()
    wanted = np.concatenate([values[:, good] for values, good in zip(data, cells, strict=True)], axis=1)
    assert np.array_equal(block.columns["ophys"].reshape(100, 6), wanted.astype(np.float32))


def test_lfp_of_two_probes_is_one_modality(write_nwb):
    from pynwb.ecephys import LFP, ElectricalSeries

    rng = np.random.default_rng(0)

    def fill(nwbfile):
        module = nwbfile.create_processing_module("ecephys", "d")
        group = nwbfile.create_electrode_group("shank", "d", "CA1", nwbfile.create_device(name="probe"))
        for row in range(5):
            nwbfile.add_electrode(group=group, location="CA1" if row < 2 else "V1", x=float(row))
        for name, rows in (("probe0", [0, 1]), ("probe1", [2, 3, 4])):
            probe = LFP(name=name)
            module.add(probe)
            region = nwbfile.create_electrode_table_region(region=rows, description="d")
            data = rng.integers(-99, 99, (2000, len(rows))).astype(np.int16)
            made = ElectricalSeries(name="lfp", data=data, electrodes=region, rate=1000.0, conversion=1e-6)
            probe.add_electrical_series(made)

    path = write_nwb(fill)
    with h5py.File(path) as file:
        data = [file[f"processing/ecephys/probe{i}/lfp/data"][:] for i in range(2)]
        x = file["general/extracellular_ephys/electrodes/x"][:]
    options = WindowOptions(lfp=({"path": "probe0/lfp"}, {"path": "probe1/lfp", "filter": "x > 2"}), overlap=0)
    with windowed(NwbSource().open((str(path),)), options) as samples:
        tables, block = samples.plan().tables, samples.read(0, 2)
    wanted = np.concatenate([data[0], data[1][:, 1:]], axis=1) * 1e-6
    assert np.allclose(block.columns["lfp"].reshape(2000, 4), wanted, rtol=1e-6, atol=0)
    assert [row["x"] for row in tables["channels"]] == x[[0, 1, 3, 4]].tolist()
    with pytest.raises(SourceError, match=r"probe0.*probe1"):
        windowed(NwbSource().open((str(path),)), WindowOptions())


@pytest.mark.parametrize("reader", ["pynwb", "h5py"])
@pytest.mark.parametrize(("unit", "seconds"), [("milliseconds", 1e-3), ("Minutes", 60.0), ("frames", 1.0)])
def test_time_stamps_whose_unit_is_said_are_converted_or_reported(write_nwb, reader, unit, seconds):
    times = np.arange(1000) * 10.5
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(series("p", np.arange(1000.0), timestamps=times)))
    with h5py.File(path, "r+") as file:
        file["acquisition/p/timestamps"].attrs["unit"] = unit
    with NwbSource(NwbConfig(reader=reader)).open((str(path),)) as recording:
        assert np.allclose(recording.streams[0].timestamps(), times * seconds)
        assert any(unit in problem.what for problem in recording.problems)


def test_features_by_time_are_turned_with_a_problem(write_nwb):
    data = np.random.default_rng(0).normal(size=(6, 900))
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(series("p", data, rate=30.0)))
    with NwbSource().open((str(path),)) as recording:
        assert recording.streams[0].shape == (900, 6)
        assert np.array_equal(recording.streams[0].read(10, 500), data.T[10:500])
        assert any("stored as (feature, time)" in problem.what for problem in recording.problems)


@pytest.mark.parametrize("shape", [(40,), (40, 1), (39,)])
def test_the_confidence_of_a_pose_is_a_feature_or_is_said_to_be_left_out(write_nwb, shape):
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(series("nose", np.ones((40, 2)), rate=10.0)))
    sure = np.linspace(0, 1, np.prod(shape)).reshape(shape)
    with h5py.File(path, "r+") as file:
        file["acquisition/nose"].attrs.update(neurodata_type="PoseEstimationSeries", namespace="ndx-pose")
        file["acquisition/nose/confidence"] = sure
    with NwbSource().open((str(path),)) as recording:
        (stream,) = recording.streams
        left_out = [problem for problem in recording.problems if "confidence of shape (39,)" in problem.what]
        if shape == (39,):
            assert (stream.shape, len(left_out)) == ((40, 2), 1)
            return
        assert (stream.modality, stream.shape, stream.confidence) == ("behavior", (40, 3), "confidence")
        assert np.array_equal(stream.read(0, 40)[:, 2], sure.ravel())


def test_a_pose_stored_axis_by_time_is_turned(write_nwb):
    values = np.arange(80.0).reshape(2, 40)
    path = write_nwb(lambda nwbfile: nwbfile.add_acquisition(series("nose", values, rate=10.0)))
    with h5py.File(path, "r+") as file:
        file["acquisition/nose"].attrs.update(neurodata_type="PoseEstimationSeries", namespace="ndx-pose")
    with NwbSource().open((str(path),)) as recording:
        assert np.array_equal(recording.streams[0].read(0, 40), values.T)
