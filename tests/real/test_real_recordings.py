"""Real recordings stored as they are give the windows that the original files give: cut again, and at load."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm_shards import convert_inputs, open_windows
from neurofm_shards.reading.collection import ShardCollection

NAMES = {
    "A2929_head_direction.nwb": {},
    "A8604_three_units.nwb": {},
    "aind_689514_behavior_only.nwb": {},
    "anm00239123_photostim_trials.nwb": {"label_columns": ("*",)},
    "anm372793_unsorted_spikes.nwb": {},
    "neuropixels_lf_int16.nwb": {},
    "retina_R1_nwb_1.0.6.nwb": {},
    "suite2p_transposed_rois.nwb": {"ophys": {"path": "Fluorescence"}},
    "sargolini_positions.npz": {},
    "eog_rem_256hz.npz": {"lfp": {"path": "data"}},
}
SOURCES = {
    "sargolini_positions.npz": {"kind": "npz", "timestamps": "t"},
    "eog_rem_256hz.npz": {"kind": "npz", "time_axis": 1, "rate": "sf"},
}


def shards(folder):
    return [path.read_bytes() for path in sorted(folder.glob("*.tar"))]


@pytest.mark.parametrize("name", NAMES)
def test_windows_of_a_stored_recording_are_those_of_its_file(shared_data, tmp_path, name):
    options = {"bin_size_ms": 20.0, "sequence_length": 50, "limit_windows": 200, **NAMES[name]}
    source = {"source": SOURCES[name]} if name in SOURCES else {}
    convert_inputs(shared_data / name, tmp_path / "windows", {"windows": options, **source})
    convert_inputs(shared_data / name, tmp_path / "recorded", {"layout": "recordings", **source})
    convert_inputs(tmp_path / "recorded", tmp_path / "again", {"windows": options})
    assert shards(tmp_path / "again") == shards(tmp_path / "windows")
    with (
        open_windows(tmp_path / "recorded", options) as windows,
        ShardCollection.open(tmp_path / "windows") as stored,
    ):
        rows = np.random.default_rng(0).permutation(stored.num_samples)
        found, expected = windows.gather(rows), stored.gather(rows)
        assert windows.num_samples == stored.num_samples
        assert set(found) == set(expected)
        for column, values in expected.items():
            for one, other in zip(found[column], values, strict=True):
                assert np.asarray(one).tobytes() == np.asarray(other).tobytes(), column
