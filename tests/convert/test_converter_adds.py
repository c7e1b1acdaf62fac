"""The converter adds to a data set that is there, and leaves it as it was when something goes wrong."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm_shards import NWBToWebDatasetConverter, ShardDataset, create_shards_from_arrays
from neurofm_shards.errors import SourceError
from neurofm_shards.maintenance.validate import validate_dataset

pytestmark = pytest.mark.plugins


@pytest.fixture
def sessions(tmp_path):
    write_demo_session = pytest.importorskip("neurofm_shards_nwb.demo").write_demo_session
    for number in (1, 2):
        write_demo_session(tmp_path / f"day{number}.nwb", seconds=15.0, seed=number)
    (tmp_path / "broken.nwb").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    return tmp_path


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_files_are_added_once_and_the_first_ones_stay(sessions):
    out = sessions / "shards"
    with NWBToWebDatasetConverter(out, shard_size=10) as converter:
        converter.convert_nwb_file(sessions / "day1.nwb")
    before = files_of(out)
    converter = NWBToWebDatasetConverter(out, shard_size=10)
    with pytest.warns(UserWarning, match="already holds a data set of 29 samples"):
        converter.convert_nwb_files([sessions / "day1.nwb", sessions / "day2.nwb"])
    summary = converter.finalize()
    assert summary["total_samples"] == 58
    after = files_of(out)
    assert all(after[name] == content for name, content in before.items() if name.startswith("shard_"))
    assert validate_dataset(out).ok
    assert {sample["metadata"]["session_id"] for sample in ShardDataset(out)[:]} == {"demo-1", "demo-2"}


def test_files_are_added_to_arrays_with_other_columns(sessions):
    out = sessions / "shards"
    create_shards_from_arrays(out, {"spikes": np.ones((20, 5, 3))}, shard_size=8)
    converter = NWBToWebDatasetConverter(out)
    with pytest.warns(UserWarning, match="already holds a data set of 20 samples"):
        converter.convert_nwb_file(sessions / "day1.nwb")
    assert converter.finalize()["total_samples"] == 49
    assert validate_dataset(out).ok
    assert ShardDataset(out)[0]["spikes"].shape == (5, 3)
    assert ShardDataset(out)[20]["spikes"].shape == (100, 40)


def test_an_exception_leaves_the_data_set_as_it_was(sessions):
    out = sessions / "shards"
    create_shards_from_arrays(out, {"x": np.ones((20, 5))}, shard_size=8)
    before = files_of(out)
    with pytest.raises(SourceError, match=r"broken\.nwb"), NWBToWebDatasetConverter(out, shard_size=5) as converter:  # noqa: PT012
        with pytest.warns(UserWarning, match="already holds"):
            converter.convert_nwb_file(sessions / "day1.nwb")
        converter.convert_nwb_file(sessions / "broken.nwb")
    assert files_of(out) == before


def test_overwrite_replaces(sessions):
    out = sessions / "shards"
    create_shards_from_arrays(out, {"x": np.ones((20, 5))}, shard_size=8)
    before = files_of(out)
    with pytest.raises(SourceError, match=r"broken\.nwb"), NWBToWebDatasetConverter(out, overwrite=True) as converter:  # noqa: PT012
        converter.convert_nwb_file(sessions / "day1.nwb")
        converter.convert_nwb_file(sessions / "broken.nwb")
    assert files_of(out) == before
    converter = NWBToWebDatasetConverter(out, overwrite=True)
    converter.convert_nwb_file(sessions / "day1.nwb")
    assert ShardDataset(out)[0]["x"].shape == (5,)
    assert converter.finalize()["total_samples"] == 29
