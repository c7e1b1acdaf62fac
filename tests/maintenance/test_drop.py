"""Samples are withdrawn for good; nothing else changes."""

import json
import os

import numpy as np
import pytest

from neurofm_shards import WebDatasetWriter
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import ConfigError
from neurofm_shards.maintenance import drop as drop_module
from neurofm_shards.maintenance.drop import drop_samples
from neurofm_shards.reading.collection import ShardCollection

CONFIG = {"shard_size": 4}
#: An identifier beyond 2**53.
LARGE = 864691135567721507


@pytest.mark.parametrize("compression", ["none", "gz"])
def test_dropping_rewrites_just_the_shards_concerned(toys, tmp_path, tree, compression, contents, manifest):
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


def test_statistics_after_a_drop_are_those_of_what_is_left(toys, toy, tmp_path, manifest):
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
    with pytest.raises(ConfigError, match="no metadata column 'subjct' .did you mean 'subject_id'"):
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
