"""What convert writes about the real recordings, read back with tarfile and numpy, equals the references."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference_files import regular_series, series, spike_trains, to_ns, trial_table
from reference_recordings import expected
from reference_shards import column, read_samples
from reference_windows import (
    centres,
    circular_distance,
    counts,
    interpolated,
    samples_of_windows,
    trials_around,
)

pytestmark = pytest.mark.plugins
pytest.importorskip("neurofm_shards_nwb")

SPIKING = (
    "A2929_head_direction.nwb",
    "A8604_three_units.nwb",
    "anm00239123_photostim_trials.nwb",
    "retina_R1_nwb_1.0.6.nwb",
)


@pytest.fixture
def converted(shared_data, tmp_path):
    """Convert real recordings, and return the samples as plain tools read them, with the summary."""

    def convert(names, **windows):
        from neurofm_shards.convert.session import convert_inputs

        config = {"codec": "npy", "windows": windows, "durable": False, "shard_size": 500}
        done = convert_inputs([shared_data / name for name in names], tmp_path / "out", config)
        return read_samples(tmp_path / "out"), done

    return convert


def test_counts_of_several_sessions_in_one_data_set(shared_data, converted):
    samples, done = converted(SPIKING, modalities=("spikes",), overlap=0.0)
    by_file = {name: [s for s in samples if s["metadata"]["source_file"] == name] for name in SPIKING}
    seen = 0
    for name in SPIKING:
        ids, trains = spike_trains(shared_data / name)
        starts = expected(shared_data / name, stride=100)[1]
        found = by_file[name]
        assert [sample["metadata"]["window_start_s"] for sample in found] == (starts / 1e9).tolist()
        assert np.array_equal(column(found, "spikes"), counts(trains, starts, 10_000_000, 100))
        assert np.array_equal(column(found, "unit_ids")[0], seen + np.arange(len(ids)))
        seen += len(ids)
    assert done["total_samples"] == len(samples)


def test_a2929_with_its_behaviour(shared_data, converted):
    path = shared_data / "A2929_head_direction.nwb"
    samples, _ = converted([path.name], overlap=0.0)
    starts = to_ns([sample["metadata"]["window_start_s"] for sample in samples])
    assert np.array_equal(starts, np.arange(1200) * 1_000_000_000)
    assert int(column(samples, "spikes").astype(np.int64).sum()) == 98_794
    values, valid = column(samples, "behavior"), column(samples, "behavior_valid")
    at = centres(starts, 10_000_000, 100)
    names = [f"CompassDirection/{name}" for name in ("rx", "ry", "rz")] + [f"Position/{name}" for name in "xyz"]
    for number, name in enumerate(names):
        period = math.tau if name.startswith("Compass") else None
        wanted, known = interpolated(*series(path, f"acquisition/{name}"), at, period)
        assert np.array_equal(valid[:, :, number], known)
        found = values[:, :, number][known].astype(np.float64)
        if period is None:
            assert np.allclose(found, wanted[known], rtol=1e-6, atol=1e-9)
        else:
            assert circular_distance(found, wanted[known], period).max() < 2e-6
            assert found.min() >= 0
            assert found.max() < period
    assert not valid[at < 670.6].any()


def test_lfp_in_volts(shared_data, converted):
    samples, _ = converted(["neuropixels_lf_int16.nwb"])
    stored, first, rate, factor = regular_series(
        shared_data / "neuropixels_lf_int16.nwb", "acquisition/ElectricalSeriesLF"
    )
    starts = np.arange(9, dtype=np.int64) * 500_000_000
    wanted = samples_of_windows(stored, first, rate, starts, 2500).astype(np.float64) * factor
    assert np.allclose(column(samples, "lfp"), wanted, rtol=1e-6, atol=0)


def test_trial_labels(shared_data, converted):
    name = "anm00239123_photostim_trials.nwb"
    samples, _ = converted([name], modalities=("spikes",), label_columns=("type", "is_good"), overlap=0.0)
    table = trial_table(shared_data / name)
    said = [sample["metadata"] for sample in samples]
    starts, stops = (to_ns([entry[f"window_{edge}_s"] for entry in said]) for edge in ("start", "stop"))
    rows = trials_around(to_ns(table["start_time"]), to_ns(table["stop_time"]), starts, stops)
    assert [entry["trial"] for entry in said] == rows
    assert [entry["type"] for entry in said] == [table["type"][row] if row >= 0 else "" for row in rows]
    assert [entry["is_good"] for entry in said] == [table["is_good"][row] if row >= 0 else None for row in rows]


def test_files_that_are_refused_lose_no_others(shared_data, tmp_path):
    from neurofm_shards.convert.session import convert_inputs

    torn = tmp_path / "torn.nwb"
    torn.write_bytes((shared_data / "A8604_three_units.nwb").read_bytes()[:5000])
    config = {"codec": "npy", "durable": False, "on_error": "skip", "windows": {"overlap": 0.0}}
    paths = [*(shared_data / name for name in ("A8604_three_units.nwb", "metadata_only.nwb")), torn]
    done = convert_inputs(paths, tmp_path / "out", config)
    assert len(read_samples(tmp_path / "out")) == done["total_samples"] == 1087
    assert [failure["files"] for failure in done["new_failures"]] == [["torn.nwb"]]
    assert "nothing to convert" in " ".join(str(failure) for failure in done["failures"])
