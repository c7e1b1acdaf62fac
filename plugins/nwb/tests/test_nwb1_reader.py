"""Files of NWB 1.x, written with h5py: units, clusters, epochs and their names, however numbers and text are stored."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from neurofm_shards.errors import NothingToConvertError, SourceError
from neurofm_shards.recordings import WindowOptions, windowed
from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.source import NwbSource

EPOCHS = ((0.0, 10.0), (30.0, 40.0))


def opened(path):
    return NwbSource(NwbConfig(reader="auto")).open((str(path),))


@pytest.fixture
def write(tmp_path):
    """Write units (or clusters) and epochs; ``number`` and ``text`` say how single values are stored."""

    def written(fill, version="NWB-1.0.3", number=float, text=str):
        path = tmp_path / "old.nwb"
        with h5py.File(path, "w") as file:
            file["nwb_version"], file["identifier"] = text(version), text("SYNTHETIC")
            module = file.create_group("processing/m")
            fill(module)
            for i, (start, stop) in enumerate(EPOCHS):
                epoch = file.create_group(f"epochs/epoch_{i}")
                epoch["start_time"], epoch["stop_time"] = number(start), number(stop)
                epoch["tags"] = np.array([b"light" if i else b"dark"])
        return path

    return written


def trains(seed=0):
    random = np.random.default_rng(seed)
    return [np.sort(np.concatenate([random.uniform(a, b, 400) for a, b in EPOCHS])) for _ in range(3)]


def units(module):
    group = module.create_group("UnitTimes")
    group["unit_list"] = np.array([b"u_0", b"u_1", b"u_2"])
    for i, times in enumerate(trains()):
        group.create_group(f"u_{i}")["times"] = times


def clusters(module):
    group = module.create_group("Clustering")
    times = np.concatenate(trains())
    order = np.argsort(times)
    group["times"], group["num"] = times[order], np.repeat([0, 3, 7], 800)[order]


@pytest.mark.parametrize("version", ["NWB-1.0.2", "1.0.5", "NWB-1.0.6"])
@pytest.mark.parametrize("number", [float, lambda value: np.array([value])], ids=["scalar", "array"])
@pytest.mark.parametrize("text", [str, np.bytes_], ids=["text", "bytes"])
def test_units_and_epochs_are_read_however_single_values_are_stored(write, version, number, text):
    samples = windowed(opened(write(units, version, number, text)), WindowOptions(sequence_length=100, overlap=0))
    plan = samples.plan()
    assert (plan.num_samples, plan.drops) == (20, {"not recorded": 20})
    assert int(np.sum(samples.read(0, 20).columns["spikes"])) == 2400
    assert [row["firing_rate_hz"] for row in plan.tables["units"]] == [40.0] * 3


@pytest.mark.parametrize("tag", ["light", "epoch_1"])
def test_tags_and_names_choose_epochs(write, tag):
    plan = windowed(opened(write(units)), WindowOptions(sequence_length=100, overlap=0, epochs=(tag,))).plan()
    assert (plan.num_samples, plan.drops) == (10, {"outside the chosen epochs": 30})


def test_clusters_are_units_where_there_are_no_others(write):
    with opened(write(clusters)) as recording:
        spikes = recording.streams[0]
        times, owner = spikes.read()
        assert spikes.owners == ("0", "3", "7")
        for i, wanted in enumerate(trains()):
            assert np.array_equal(np.sort(times[owner == i]), wanted)

    def both(module):
        units(module)
        clusters(module)

    with opened(write(both)) as recording:
        assert [stream.path for stream in recording.streams] == ["processing/m/UnitTimes", "epochs"]


def test_clusters_whose_numbers_do_not_fit_their_times_are_refused(write):
    def fill(module):
        clusters(module)
        del module["Clustering/num"]
        module["Clustering/num"] = np.zeros(5, dtype=int)

    with opened(write(fill)) as recording, pytest.raises(SourceError, match="2400 times for the 5 cluster numbers"):
        recording.streams[0].read()


def test_a_unit_may_have_a_single_time_and_none(write):
    def fill(module):
        group = module.create_group("UnitTimes")
        group.create_group("a")["times"] = 12.5
        group.create_group("b")["times"] = np.zeros(0)

    with opened(write(fill)) as recording:
        times, owner = recording.streams[0].read()
        assert (times.tolist(), owner.tolist()) == ([12.5], [0])


def test_a_file_with_nothing_that_is_read_says_what_was_looked_for(write, tmp_path):
    path = tmp_path / "old.nwb"
    with h5py.File(path, "w") as file:
        file["nwb_version"] = "1.0.5"
    with pytest.raises(NothingToConvertError, match="looked for UnitTimes and Clustering in processing, and epochs"):
        opened(path)
