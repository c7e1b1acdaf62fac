"""Samples are withdrawn for good, and data sets are joined; nothing else changes."""

import json
import os

import numpy as np
import pytest

from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import ConfigError, OutputExistsError
from neurofm_shards.maintenance import drop as drop_module
from neurofm_shards.maintenance.drop import drop_samples
from neurofm_shards.maintenance.merge import merge
from neurofm_shards.reading.collection import ShardCollection

CONFIG = {"shard_size": 4}


def contents(folder):
    """Every sample by key: arrays and metadata without the places that shards give."""
    data = ShardCollection.open(folder)
    rows = np.arange(data.num_samples)
    places = ("shard_idx", "sample_idx_in_shard", "sample_id")
    return {
        key: (
            data.gather(np.array([i]))["x"][0].tobytes(),
            {name: value for name, value in metadata.items() if name not in places},
        )
        for i, (key, metadata) in enumerate(zip(data.keys(rows), data.metadata(rows), strict=True))
    }


def manifest(folder):
    return json.loads((folder / "dataset_metadata.json").read_text())


@pytest.mark.parametrize("compression", ["none", "gz"])
def test_dropping_rewrites_just_the_shards_concerned(toys, tmp_path, tree, compression):
    out = tmp_path / "out"
    convert_inputs(toys(a={"n": 9}, b={"n": 6, "units": 2}, c={"n": 5}), out, {**CONFIG, "compression": compression})
    before, files = contents(out), tree(out)
    report = drop_samples(out, 'session_id == "b"')
    suffix = "" if compression == "none" else ".gz"
    assert report["dropped"] == 6
    assert report["shards_rewritten"] == [f"shard_000002.tar{suffix}", f"shard_000003.tar{suffix}"]
    assert contents(out) == {key: value for key, value in before.items() if value[1]["session_id"] != "b"}
    after = tree(out)
    for name in (f"shard_{i:06d}.tar{suffix}" for i in (0, 1, 4)):
        assert after[name] == files[name]
    found = manifest(out)
    assert [source["session_id"] for source in found["sources"]] == ["a", "c"]
    assert sorted(found["statistics"]["sessions"]) == ["a", "c"]
    assert {c["name"]: c["shape"] for c in found["columns"]}["x"] == [5, 3]
    units = json.loads(after[".neurofm/tables/units.json"])
    assert [bool(row) for row in units] == [True] * 3 + [False] * 2 + [True] * 3
    assert b"b/0" not in b"".join(after.values())


def test_a_shard_without_samples_left_is_removed(toys, tmp_path):
    out = tmp_path / "out"
    convert_inputs(toys(a={"n": 12}), out, CONFIG)
    assert drop_samples(out, "row >= 4 and row < 8")["shards_removed"] == ["shard_000001.tar"]
    assert not (out / "shard_000001.tar").exists()
    assert not list((out / ".neurofm").glob("shard_000001*"))
    assert [m["row"] for m in ShardCollection.open(out).metadata(np.arange(8))] == [0, 1, 2, 3, 8, 9, 10, 11]


def test_statistics_after_a_drop_are_those_of_what_is_left(toys, toy, tmp_path):
    out = tmp_path / "out"
    convert_inputs(toys(a={"n": 12}), out, CONFIG)
    drop_samples(out, "row % 3 == 0")
    left = np.concatenate([toy.values(0, i, 3) for i in range(12) if i % 3]).astype(np.float64)
    np.testing.assert_allclose(manifest(out)["statistics"]["sessions"]["a"]["x"]["mean"], left.mean(axis=0), rtol=1e-12)


def test_nothing_chosen_everything_chosen_and_wrong_names(toys, tmp_path, tree):
    out = tmp_path / "out"
    convert_inputs(toys(a={"n": 5}), out, CONFIG)
    before = tree(out)
    assert drop_samples(out, "row > 99")["dropped"] == 0
    assert drop_samples(out, "row == 1", dry_run=True)["dropped"] == 1
    with pytest.raises(ConfigError, match="drop all 5 samples"):
        drop_samples(out, "row >= 0")
    with pytest.raises(ConfigError, match="no metadata 'subjct'"):
        drop_samples(out, 'subjct == "mouse"')
    with pytest.raises(ConfigError, match="no manifest"):
        drop_samples(tmp_path, "row == 1")
    assert tree(out) == before


@pytest.mark.parametrize("moment", ["before", "during"])
def test_an_interrupted_drop_is_undone_or_finished(toys, tmp_path, tree, monkeypatch, moment):
    paths = toys(a={"n": 12})
    for name in ("out", "whole"):
        convert_inputs(paths, tmp_path / name, CONFIG)
    before = tree(tmp_path / "out")
    drop_samples(tmp_path / "whole", "row == 1 or row == 5")

    class PowerCut(BaseException):
        pass

    calls = []
    rename = os.replace

    def failing(source, target, **folders):
        if "commit-" in f"{source}{target}" or calls:
            calls.append(target)
            if len(calls) == (1 if moment == "before" else 4):
                raise PowerCut
        rename(source, target, **folders)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(PowerCut):
            drop_module.drop_samples(tmp_path / "out", "row == 1 or row == 5")
    drop_samples(tmp_path / "out", "row > 99")  # any later run cleans up
    after = tree(tmp_path / "out")
    assert after == (before if moment == "before" else tree(tmp_path / "whole"))


def test_merging_joins_samples_tables_statistics_and_numbers(toys, toy, tmp_path):
    paths = toys(a={"n": 9}, b={"n": 6, "units": 2}, c={"n": 5})
    convert_inputs(paths[:1], tmp_path / "one", CONFIG)
    convert_inputs(paths[1:], tmp_path / "two", CONFIG)
    convert_inputs(paths, tmp_path / "all", CONFIG)
    result = merge([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    assert (result["total_samples"], result["total_shards"]) == (20, 6)
    assert contents(tmp_path / "out") == contents(tmp_path / "all")
    found, want = manifest(tmp_path / "out"), manifest(tmp_path / "all")
    for name in ("columns", "tables", "next_key", "config", "software"):
        assert found[name] == want[name]
    assert found["sources"] == want["sources"]
    tables = [(tmp_path / name / ".neurofm/tables/units.json").read_bytes() for name in ("out", "all")]
    assert tables[0] == tables[1]
    data = ShardCollection.open(tmp_path / "out")
    assert [data.gather(np.array([i]))["unit_ids"][0].tolist() for i in (0, 9, 15)] == [[0, 1, 2], [3, 4], [5, 6, 7]]
    np.testing.assert_allclose(
        found["statistics"]["sessions"]["b"]["x"]["std"], want["statistics"]["sessions"]["b"]["x"]["std"], rtol=1e-12
    )


def test_data_sets_that_do_not_go_together_are_refused(toys, tmp_path):
    paths = toys(a={"n": 3}, b={"n": 3})
    convert_inputs(paths[:1], tmp_path / "one", CONFIG)
    convert_inputs(paths[1:], tmp_path / "gz", {**CONFIG, "compression": "gz"})
    with pytest.raises(ConfigError, match="compression"):
        merge([tmp_path / "one", tmp_path / "gz"], tmp_path / "out")
    convert_inputs(paths[:1], tmp_path / "again", CONFIG)
    with pytest.raises(ConfigError, match="both hold session 'a'"):
        merge([tmp_path / "one", tmp_path / "again"], tmp_path / "out")
    with pytest.raises(ConfigError, match="two data sets or more"):
        merge([tmp_path / "one"], tmp_path / "out")
    with pytest.raises(ConfigError, match="name another output"):
        merge([tmp_path / "one", tmp_path / "gz"], tmp_path / "one")
    convert_inputs(paths[1:], tmp_path / "two", CONFIG)
    with pytest.raises(OutputExistsError):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "gz")
    assert merge([tmp_path / "one", tmp_path / "two"], tmp_path / "gz", overwrite=True)["total_samples"] == 6
    assert sorted(path.name for path in (tmp_path / "gz").glob("shard*")) == ["shard_000000.tar", "shard_000001.tar"]
