"""Real arrays become one data set of as many samples as they have rows."""

import numpy as np

from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.reading.collection import ShardCollection


def test_fluorescence_and_cell_labels_are_one_data_set(shared_data, tmp_path):
    paths = [shared_data / "suite2p_F.npy", shared_data / "suite2p_iscell.npy"]
    assert convert_inputs(paths, tmp_path / "out", {"shard_size": 100})["total_samples"] == 219
    got = ShardCollection.open(tmp_path / "out").gather(np.arange(219))
    np.testing.assert_array_equal(got["suite2p_f"], np.load(paths[0]))
    np.testing.assert_array_equal(got["suite2p_iscell"], np.load(paths[1]))
