"""Archives of pynapple are recognised: values over ``t``, channels named by ``columns``, valid inside start to end."""

import os
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards.errors import SourceError
from neurofm_shards.plugins.registry import registry
from neurofm_shards.recordings import WindowOptions, windowed


@pytest.fixture
def faults():
    data = Path(os.environ.get("NEUROFM_SHARDS_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
    folder = data.parent / "faults"
    if not folder.is_dir():
        pytest.skip(f"no folder of odd files at {folder}")
    return folder


def opened(path, **options):
    return registry().sources.make({"kind": "npz", **options}).open((str(path),))


@pytest.mark.parametrize("name", ["pynapple_tsd.npz", "pynapple_tsdframe.npz"])
def test_values_are_windowed_over_their_times(faults, name):
    with np.load(faults / name) as saved:
        times, values = saved["t"], saved["d"].reshape(len(saved["t"]), -1)
        columns = [str(each) for each in saved["columns"]] if "columns" in saved else ["0"]
        end = float(saved["end"][0])
    options = WindowOptions(bin_size_ms=500, sequence_length=20, overlap=0)
    with windowed(opened(faults / name), options) as samples:
        plan = samples.plan()
        block = samples.read(0, plan.num_samples)
    assert plan.num_samples == int(end // 10)
    assert [row["column"] for row in plan.tables["features"]] == columns
    at = np.array([row["window_start_s"] for row in block.metadata])[:, None] + np.arange(20) * 0.5 + 0.25
    for channel in range(values.shape[1]):
        wanted = np.interp(at, times, values[:, channel])
        found = np.asarray(block.columns["behavior"])[:, :, channel]
        assert np.allclose(found[np.isfinite(found)], wanted[np.isfinite(found)], rtol=1e-5, atol=1e-6)
        assert np.isfinite(found).any() or np.isnan(values[:, channel]).all()


def test_a_group_of_times_is_spikes_and_its_support_leaves_pauses_out(tmp_path):
    random = np.random.default_rng(0)
    times = np.sort(np.concatenate([random.uniform(0, 10, 900), random.uniform(30, 40, 900)]))
    index = random.choice([3, 7], 1800)
    np.savez(
        tmp_path / "group.npz", t=times, index=index, keys=np.array([3, 7]), start=[0.0, 30.0], end=[10.0, 40.0],
        type=np.array(["TsGroup"]),
    )  # fmt: skip
    with windowed(opened(tmp_path / "group.npz"), WindowOptions(sequence_length=100, overlap=0)) as samples:
        plan = samples.plan()
        block = samples.read(0, plan.num_samples)
    assert (plan.num_samples, plan.drops) == (20, {"not recorded": 20})
    assert [row["unit"] for row in plan.tables["units"]] == ["3", "7"]
    total = np.asarray(block.columns["spikes"]).sum(axis=(0, 1), dtype=np.int64)
    assert total.tolist() == [int((index == 3).sum()), int((index == 7).sum())]


def test_integers_are_held_in_archives_too(tmp_path):
    states = np.repeat(np.array([0, 5, 2], np.int8), 30)
    np.savez(tmp_path / "a.npz", x=states)
    with windowed(opened(tmp_path / "a.npz", rate=30.0), WindowOptions(overlap=0)) as samples:
        values = np.asarray(samples.read(0, samples.plan().num_samples).columns["behavior"])
    assert set(np.unique(values[np.isfinite(values)]).tolist()) <= {0.0, 2.0, 5.0}


def test_time_stamps_of_text_and_complex_values_are_told_as_what_they_are(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3), t=np.array(["a", "b", "c"]))
    with pytest.raises(SourceError, match="not seconds"):
        opened(tmp_path / "a.npz", timestamps="t")
    np.savez(tmp_path / "b.npz", x=np.zeros(30, complex))
    with pytest.raises(SourceError, match="complex numbers"):
        opened(tmp_path / "b.npz", rate=10.0, arrays=("x",))
