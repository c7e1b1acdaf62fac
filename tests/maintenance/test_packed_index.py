"""Whatever changes a data set, its packed index is of the shards that the manifest lists."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm_shards import create_shards_from_arrays
from neurofm_shards.format import packed_index
from neurofm_shards.format.manifest import read_manifest
from neurofm_shards.format.packed_index import PACK_NAME, read_packed_index
from neurofm_shards.maintenance.compact import compact
from neurofm_shards.maintenance.drop import drop_samples
from neurofm_shards.maintenance.merge import merge
from neurofm_shards.maintenance.repair import repair
from neurofm_shards.reading import catalog
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.writing.output_folder import OutputFolder


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch):
    monkeypatch.setattr(packed_index, "LEAST_SHARDS", 2)


def write(folder, start=0, stop=8, **options):
    values = np.arange(start, stop, dtype=np.float64)[:, None] * np.ones(4)
    create_shards_from_arrays(folder, {"x": values}, 1, [{"i": i} for i in range(start, stop)], **options)
    return folder


def check(folder, expected, monkeypatch):
    """Check that all samples are found by the packed index alone."""
    assert read_packed_index(folder, read_manifest(folder)) is not None
    with monkeypatch.context() as patched, ShardCollection.open(folder) as collection:
        patched.setattr(catalog, "load_index", None)
        found = collection.gather(np.arange(len(collection)))["x"][:, 0]
    assert found.tolist() == list(expected)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "data")


def test_appending(folder, monkeypatch):
    with pytest.warns(UserWarning, match="already holds"):
        write(folder, 8, 11)
    check(folder, range(11), monkeypatch)


def test_overwriting(folder, monkeypatch):
    write(folder, 20, 26, overwrite=True)
    check(folder, range(20, 26), monkeypatch)


def test_dropping(folder, monkeypatch):
    drop_samples(folder, "i == 3 or i > 5")
    check(folder, [0, 1, 2, 4, 5], monkeypatch)


def test_compacting_into_fewer_shards(folder, monkeypatch):
    create_shards_from_arrays(folder, {"x": np.arange(16.0).reshape(16, 1) * np.ones(4)}, 4, overwrite=True)
    drop_samples(folder, "sample_idx_in_shard > 1")
    compact(folder)
    assert read_manifest(folder).total_shards == 2
    check(folder, [0, 1, 4, 5, 8, 9, 12, 13], monkeypatch)


def test_what_is_not_worth_one_any_more_has_none(folder, monkeypatch):
    monkeypatch.setattr(packed_index, "LEAST_SHARDS", 8)
    drop_samples(folder, "i == 3")
    assert not (folder / ".neurofm" / PACK_NAME).exists()


def test_merging(folder, tmp_path, monkeypatch):
    merge([folder, write(tmp_path / "other", 8, 13)], tmp_path / "both")
    check(tmp_path / "both", range(13), monkeypatch)


def test_repairing(folder, monkeypatch):
    (folder / "shard_000003.tar").unlink()
    assert not repair(folder).ok
    check(folder, [0, 1, 2, 4, 5, 6, 7], monkeypatch)


@pytest.mark.parametrize("damage", [None, b"junk"])
def test_repairing_makes_one_where_it_alone_is_gone(folder, monkeypatch, damage):
    place = folder / ".neurofm" / PACK_NAME
    whole = place.read_bytes()
    place.unlink() if damage is None else place.write_bytes(damage)
    report = repair(folder)
    assert report.ok
    assert [finding.what for finding in report.findings] == ["the packed index was missing, or of other shards"]
    assert place.read_bytes() == whole
    assert not repair(folder).findings
    check(folder, range(8), monkeypatch)


def test_one_that_a_killed_writer_left_alone_is_in_nobodys_way(folder, tmp_path, monkeypatch):
    (tmp_path / "new" / ".neurofm").mkdir(parents=True)
    (folder / ".neurofm" / PACK_NAME).rename(tmp_path / "new" / ".neurofm" / PACK_NAME)
    OutputFolder(tmp_path / "new").check_free()
    check(write(tmp_path / "new", 5, 9), range(5, 9), monkeypatch)
