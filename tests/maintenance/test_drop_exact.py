"""Samples are withdrawn by exact identifiers, whatever else stands beside them."""

from __future__ import annotations

import numpy as np

from neurofm_shards import WebDatasetWriter
from neurofm_shards.maintenance.drop import drop_samples
from neurofm_shards.reading.collection import ShardCollection

LARGE = 864691135567721507


def test_one_of_many_neighbouring_identifiers_is_dropped_and_no_other(tmp_path):
    ids = [LARGE + i for i in range(-10, 10)]
    writer = WebDatasetWriter(tmp_path / "out", shard_size=8)
    for number in ids:
        writer.write_sample({"x": np.zeros(2, np.float32)}, metadata={"root_id": number})
    writer.write_sample({"x": np.zeros(2, np.float32)}, metadata={})
    writer.finalize()
    report = drop_samples(tmp_path / "out", f"root_id == {LARGE}")
    assert (report["dropped"], report["total_samples"]) == (1, 20)
    with ShardCollection.open(tmp_path / "out") as collection:
        left = collection.metadata_table().values("root_id").tolist()
    assert left == [number for number in ids if number != LARGE] + [None]
