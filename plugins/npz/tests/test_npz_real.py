"""Real archives, compared with what NumPy alone reads from them."""

import numpy as np
import pytest

from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import SourceError
from neurofm_shards.reading.collection import ShardCollection


def test_positions_at_bin_centres_are_those_of_linear_interpolation(shared_data, tmp_path):
    path = shared_data / "sargolini_positions.npz"
    with pytest.raises(SourceError, match="'timestamps': 't'"):
        convert_inputs(path, tmp_path / "out")
    config = {"source": {"timestamps": "t"}, "windows": {"bin_size_ms": 50, "overlap": 0.0}}
    summary = convert_inputs(path, tmp_path / "out", config)
    raw = np.load(path)
    t, pos = raw["t"], raw["pos"]
    assert summary["total_samples"] == int((t[-1] - t[0]) / 5.0)
    data = ShardCollection.open(tmp_path / "out")
    rows = np.arange(data.num_samples)
    got = data.gather(rows)
    starts = np.array([m["window_start_s"] for m in data.metadata(rows)])
    centres = starts[:, None] + (np.arange(100) + 0.5) * 0.05
    want = np.stack([np.interp(centres, t, pos[:, axis]) for axis in range(2)], axis=-1)
    valid = got["behavior_valid"]
    assert valid.mean() > 0.9
    np.testing.assert_allclose(got["behavior"][valid], want[valid], rtol=1e-5, atol=1e-7)


def test_an_eog_recording_becomes_windows_with_its_channels(shared_data, tmp_path):
    path = shared_data / "eog_rem_256hz.npz"
    with pytest.raises(SourceError, match="'time_axis': 1, 'rate': 'sf'"):
        convert_inputs(path, tmp_path / "out")
    source = {"time_axis": 1, "rate": "sf", "channels": "chan", "modality": {"data": "lfp"}}
    windows = {"bin_size_ms": 1000, "sequence_length": 10, "overlap": 0.0, "lfp": {"units": "raw"}}
    convert_inputs(path, tmp_path / "out", {"source": source, "windows": windows})
    raw = np.load(path)["data"]
    data = ShardCollection.open(tmp_path / "out")
    lfp = data.gather(np.arange(data.num_samples))["lfp"]
    assert lfp.shape == (raw.shape[1] // 2560, 2560, 2)
    np.testing.assert_allclose(lfp.reshape(-1, 2), raw.T[: lfp.shape[0] * 2560], rtol=1e-6)
    channels = (tmp_path / "out/.neurofm/tables/channels.json").read_text()
    for name in np.load(path)["chan"]:
        assert str(name) in channels
