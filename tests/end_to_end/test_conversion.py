"""Inputs become a data set: in order, with all their samples, whatever the workers."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import (
    ConfigError,
    InputNotFoundError,
    MissingPluginError,
    NothingToConvertError,
    OutputExistsError,
    SourceError,
)
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import Source
from neurofm_shards.plugins.registry import register_source
from neurofm_shards.reading.collection import ShardCollection


def manifest(folder):
    return json.loads((Path(folder) / "dataset_metadata.json").read_text())


def test_samples_come_in_the_order_of_inputs_and_shards_hold_several_inputs(toys, toy, tmp_path):
    paths = toys(a={"n": 7}, b={"n": 2}, c={"n": 9})
    summary = convert_inputs(paths, tmp_path / "out", {"shard_size": 5})
    assert (summary["total_samples"], summary["total_shards"]) == (18, 4)
    data = ShardCollection.open(tmp_path / "out")
    got = data.gather(np.arange(18))
    want = [toy.values(seed, row, 3) for seed, n in enumerate((7, 2, 9)) for row in range(n)]
    np.testing.assert_array_equal(got["x"], want)
    assert data.keys(np.arange(18)) == [f"sample_{i:09d}" for i in range(1, 19)]
    assert [m["row"] for m in data.metadata(np.arange(18))] == [*range(7), *range(2), *range(9)]
    assert manifest(tmp_path / "out")["next_key"] == 19


def test_rows_of_tables_become_rows_of_the_data_set(toys, tmp_path):
    convert_inputs(toys(a={"n": 2}, b={"n": 3, "units": 4}), tmp_path / "out", {"shard_size": 2})
    rows = json.loads((tmp_path / "out/.neurofm/tables/units.json").read_text())
    assert [row["id"] for row in rows] == ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2", "b/3"]
    data = ShardCollection.open(tmp_path / "out")
    ids = [data.gather(np.array([i]))["unit_ids"][0].tolist() for i in range(5)]
    assert ids == [[0, 1, 2]] * 2 + [[3, 4, 5, 6]] * 3
    columns = {column["name"]: column for column in manifest(tmp_path / "out")["columns"]}
    assert columns["x"]["shape"] == [5, None]
    assert columns["unit_ids"]["table"] == "units"


@pytest.mark.parametrize("executor", ["processes", "threads"])
def test_workers_change_no_byte(toys, tmp_path, tree, executor):
    paths = toys(a={"n": 17}, b={"n": 5, "units": 2}, c={"n": 11})
    config = {"shard_size": 4, "compression": "gz", "codec": "npy", "transforms": ["drop-odd"]}
    convert_inputs(paths, tmp_path / "one", config)
    convert_inputs(paths, tmp_path / "many", config, workers=4, executor=executor)
    assert tree(tmp_path / "one") == tree(tmp_path / "many")


def test_plain_tar_tools_read_the_shards(toys, tmp_path):
    convert_inputs(toys(a={"n": 3}), tmp_path / "out", {"shard_size": 2})
    with tarfile.open(tmp_path / "out/shard_000001.tar") as tar:
        assert tar.getnames() == [f"sample_000000003.{name}" for name in ("x.pyd", "unit_ids.pyd", "metadata.json")]


def test_dropped_samples_leave_gaps_and_empty_shards_are_absent(toys, toy, tmp_path):
    config = {"shard_size": 4, "transforms": [{"kind": "drop-below", "row": 6}, "drop-odd"]}
    convert_inputs(toys(a={"n": 12}), tmp_path / "out", config)
    found = manifest(tmp_path / "out")
    assert [shard["shard_idx"] for shard in found["shards"]] == [1, 2]
    assert ShardCollection.open(tmp_path / "out").keys(np.arange(3)) == [f"sample_{i:09d}" for i in (7, 9, 11)]
    assert found["sources"][0]["drops"] == {"too short": 2, "transform drop-below": 6, "transform drop-odd": 3}
    assert not (tmp_path / "out/shard_000000.tar").exists()


def test_statistics_are_those_of_numpy_per_session_and_channel(toys, toy, tmp_path):
    convert_inputs(toys(a={"n": 40}, b={"n": 30}), tmp_path / "out", {"shard_size": 9})
    found = manifest(tmp_path / "out")["statistics"]
    rows = {"a": [toy.values(0, i, 3) for i in range(40)], "b": [toy.values(1, i, 3) for i in range(30)]}
    for name, arrays in {**rows, "": rows["a"] + rows["b"]}.items():
        got = found["sessions"][name]["x"] if name else found["columns"]["x"]
        flat = np.concatenate(arrays).astype(np.float64)
        np.testing.assert_allclose(got["mean"], flat.mean(axis=0), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(got["std"], flat.std(axis=0), rtol=1e-12)
        assert got["min"] == flat.min(axis=0).tolist()
        assert got["max"] == flat.max(axis=0).tolist()
        assert got["count"] == [len(flat)] * 3
    assert "unit_ids" not in found["columns"]


def test_every_setting_and_source_is_in_the_manifest_and_no_path(toys, tmp_path):
    convert_inputs(toys(a={"n": 3}), tmp_path / "out", {"shard_size": 2, "source": {"scale": 2.0}})
    text = (tmp_path / "out/dataset_metadata.json").read_text()
    found = json.loads(text)
    assert found["config"]["source"] == {"scale": 2.0}
    assert found["config"]["windows"]["bin_size_ms"] == 10.0
    assert found["sources"][0]["files"] == ["a.toy"]
    assert found["sources"][0]["fingerprint"].startswith("xxh3-")
    assert str(tmp_path) not in text


def test_patterns_folders_and_files_named_twice(toys, tmp_path):
    paths = toys(b={"n": 2}, a={"n": 1}, c={"n": 3})
    folder = Path(paths[0]).parent
    for i, named in enumerate([[str(folder / "*.toy")], [folder], [paths[1], str(folder), paths[0]]]):
        convert_inputs(named, tmp_path / str(i))
        assert [source["files"] for source in manifest(tmp_path / str(i))["sources"]] == [
            ["a.toy"],
            ["b.toy"],
            ["c.toy"],
        ]


def test_wrong_inputs_are_explained(toys, tmp_path):
    (path,) = toys(a={"n": 2})
    (tmp_path / "x.nwb").write_text("")
    (tmp_path / "empty").mkdir()
    for named, error, message in [
        ([tmp_path / "absent.toy"], InputNotFoundError, "does not exist"),
        ([str(tmp_path / "*.zzz")], InputNotFoundError, "no file matches"),
        ([], InputNotFoundError, "no input"),
        ([tmp_path / "empty"], NothingToConvertError, "holds no file"),
    ]:
        with pytest.raises(error, match=message):
            convert_inputs(named, tmp_path / "out")
    with pytest.raises(MissingPluginError, match="no source named 'nope'"):
        convert_inputs([path], tmp_path / "out", {"format": "nope"})
    with pytest.raises(ConfigError, match="no such option"):
        convert_inputs([path], tmp_path / "out", {"source": {"scales": 1}})
    with pytest.raises(ConfigError, match="bin_size_ms cut windows"):
        convert_inputs([path], tmp_path / "out", {"windows": {"bin_size_ms": 5}})
    assert not (tmp_path / "out").exists()


class Empty(Source):
    """Finds nothing in any file."""

    def open(self, paths):
        raise NothingToConvertError(f"{paths[0]}: found metadata only")


def test_an_input_that_holds_nothing_is_told_once(toys, tmp_path, caplog):
    register_source(SourceEntry(name="empty", summary="empty", factory=Empty, suffixes=(".empty",)))
    (tmp_path / "a.empty").write_text("")
    with pytest.raises(NothingToConvertError, match="found metadata only"):
        convert_inputs([tmp_path / "a.empty"], tmp_path / "out")
    assert not caplog.messages
    assert convert_inputs([tmp_path / "a.empty", *toys(b={"n": 1})], tmp_path / "out")["total_samples"] == 1
    assert [message.endswith("a.empty: left out: found metadata only") for message in caplog.messages] == [True]


def test_inputs_that_no_source_reads_are_told_with_all_others_or_left_out(toys, tmp_path):
    good, bad = toys(good={"n": 3}, bad={"n": 3})
    Path(bad).write_text("{")
    (tmp_path / "notes.txt").write_text("none of a known format")
    (tmp_path / "nothing").mkdir()
    named = [tmp_path / "notes.txt", good, bad, tmp_path / "absent.toy", tmp_path / "nothing"]
    with pytest.raises(SourceError) as found:
        convert_inputs(named, tmp_path / "out")
    assert "3 of 5 inputs cannot be converted" in str(found.value)
    assert all(name in str(found.value) for name in ("notes.txt", "bad.toy", "absent.toy"))
    result = convert_inputs(named, tmp_path / "out", {"on_error": "skip"})
    assert result["total_samples"] == 3
    assert sorted(entry["files"][0] for entry in manifest(tmp_path / "out")["failures"] if not entry.get("empty")) == [
        "absent.toy", "bad.toy", "notes.txt",
    ]  # fmt: skip
    again = convert_inputs(named, tmp_path / "out", {"on_error": "skip"}, mode="append")
    assert (again["total_samples"], again["new_failures"]) == (3, [])
    with pytest.raises(MissingPluginError, match="no installed source reads .*notes.txt"):
        convert_inputs([tmp_path / "notes.txt", tmp_path / "notes.txt"], tmp_path / "other")
    with pytest.raises(InputNotFoundError, match=r"absent.toy does not exist\n.*gone.toy does not exist"):
        convert_inputs([tmp_path / "absent.toy", tmp_path / "gone.toy"], tmp_path / "other")


def test_a_data_set_inside_the_folder_of_its_inputs_is_none_of_them(toys, tmp_path):
    folder = Path(toys(a={"n": 3}, b={"n": 3})[0]).parent
    out = folder / "out"
    for mode in ("new", "append", "overwrite", "resume"):
        assert convert_inputs(folder, out, mode=mode)["total_samples"] == 6
    assert convert_inputs(sorted(folder.iterdir()), out, mode="append")["total_samples"] == 6
    assert convert_inputs(folder, tmp_path / "other")["total_samples"] == 6
    with pytest.raises(ConfigError, match="samples that are cut already"):
        convert_inputs(out, tmp_path / "third")


def test_equal_session_ids_are_refused_and_a_template_helps(toys, tmp_path):
    paths = toys(a={"n": 2, "session": "s"}, b={"n": 2, "session": "s"})
    with pytest.raises(ConfigError, match="session_template"):
        convert_inputs(paths, tmp_path / "out")
    convert_inputs(paths, tmp_path / "out", {"session_template": "{subject_id}_{stem}"})
    got = ShardCollection.open(tmp_path / "out").metadata(np.arange(4))
    assert [m["session_id"] for m in got] == ["mouse_a"] * 2 + ["mouse_b"] * 2


def test_an_output_that_holds_anything_is_refused(toys, tmp_path):
    paths = toys(a={"n": 2})
    convert_inputs(paths, tmp_path / "out")
    with pytest.raises(OutputExistsError, match="already holds a data set"):
        convert_inputs(paths, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    for mode in ("new", "overwrite", "resume", "append"):
        with pytest.raises(OutputExistsError, match=r"thesis\.txt"):
            convert_inputs(paths, tmp_path / "mine", mode=mode)
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_overwrite_deletes_the_data_set_and_nothing_else(toys, tmp_path, tree):
    convert_inputs(toys(a={"n": 9}), tmp_path / "out", {"shard_size": 2})
    (tmp_path / "out/notes.txt").write_text("keep")
    convert_inputs(toys(b={"n": 3}), tmp_path / "out", {"shard_size": 2}, mode="overwrite")
    convert_inputs(toys(b={"n": 3}), tmp_path / "fresh", {"shard_size": 2})
    assert tree(tmp_path / "out") == {**tree(tmp_path / "fresh"), "notes.txt": b"keep"}


def test_overwrite_keeps_the_old_data_set_when_the_new_inputs_fail(toys, tmp_path, tree):
    convert_inputs(toys(a={"n": 3}), tmp_path / "out")
    before = tree(tmp_path / "out")
    (tmp_path / "in/broken.toy").write_text("{")
    with pytest.raises(SourceError, match=r"broken\.toy"):
        convert_inputs([tmp_path / "in/broken.toy"], tmp_path / "out", mode="overwrite")
    assert tree(tmp_path / "out") == before


def test_columns_that_differ_are_refused_by_name(toy, toys, tmp_path, monkeypatch):
    paths = toys(a={"n": 2}, b={"n": 2})
    plan = toy.ToySamples.plan

    def other(self):
        found = plan(self)
        return found if self.said["seed"] == 0 else type(found)(2, found.columns[:1], found.fingerprint)

    monkeypatch.setattr(toy.ToySamples, "plan", other)
    with pytest.raises(ConfigError, match=r"b\.toy: it has no column 'unit_ids', which .*a\.toy has"):
        convert_inputs(paths, tmp_path / "out")


def test_numpy_alone_is_enough(toys, tmp_path, toy):
    paths = toys(a={"n": 2})
    code = (
        "import sys; from neurofm_shards.convert.session import convert_inputs;"
        f"convert_inputs({paths!r}, {str(tmp_path / 'out')!r});"
        "print([m for m in ('torch', 'pynwb', 'h5py') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_input_that_gives_nothing_for_a_reason_is_no_failure(toys, tmp_path):
    paths = toys(a={"n": 0}, b={"n": 3})
    assert convert_inputs(paths, tmp_path / "out")["failures"] == []
    found = manifest(tmp_path / "out")
    assert [(s["files"], s["num_samples"], s["drops"]) for s in found["sources"]] == [
        (["a.toy"], 0, {"too short": 2}),
        (["b.toy"], 3, {"too short": 2}),
    ]
    assert found["tables"]["units"]["rows"] == 3
    with pytest.raises(NothingToConvertError, match=r"a\.toy gives no samples \(dropped: 2 too short\)"):
        convert_inputs(paths[:1], tmp_path / "none")
    assert convert_inputs(toys(c={"n": 0}), tmp_path / "out", mode="append")["total_samples"] == 3
    assert len(manifest(tmp_path / "out")["sources"]) == 3


def test_samples_held_out_count_in_no_statistics(toy, toys, tmp_path, monkeypatch):
    read = toy.ToySamples.read

    def split(self, start, stop):
        block = read(self, start, stop)
        names = [{**item, "split": ("train", "val", "test")[item["row"] % 3]} for item in block.metadata]
        return type(block)(block.columns, names)

    monkeypatch.setattr(toy.ToySamples, "read", split)
    convert_inputs(toys(a={"n": 20}), tmp_path / "out", {"shard_size": 6})
    train = np.concatenate([toy.values(0, i, 3) for i in range(0, 20, 3)]).astype(np.float64)
    got = manifest(tmp_path / "out")["statistics"]["columns"]["x"]
    assert got["count"] == [len(train)] * 3
    np.testing.assert_allclose(got["mean"], train.mean(axis=0), rtol=1e-12)


def test_what_is_appended_is_written_with_the_settings_of_the_data_set(toys, tmp_path):
    """Also where they are left out, as they may be: codec, compression and transforms."""
    settings = {"codec": "npy", "compression": "gz", "transforms": ["drop-odd"], "shard_size": 4}
    convert_inputs(toys(a={"n": 6}), tmp_path / "out", settings)
    convert_inputs(toys(b={"n": 6}), tmp_path / "out", mode="append")
    shards = sorted((tmp_path / "out").glob("shard_*"))
    assert {path.suffix for path in shards} == {".gz"}
    names = []
    for path in shards:
        with tarfile.open(path) as archive:
            names += archive.getnames()
    assert {name.rsplit(".", 1)[-1] for name in names if ".x." in name} == {"npy"}
    assert [name for name in names if ".x." in name] == [f"sample_{key:09d}.x.npy" for key in (1, 3, 5, 7, 9, 11)]
