"""Data sets are joined as if all had been converted together."""

import numpy as np
import pytest

from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import ConfigError, OutputExistsError
from neurofm_shards.maintenance.merge import merge
from neurofm_shards.reading.collection import ShardCollection

CONFIG = {"shard_size": 4}


def test_merging_joins_samples_tables_statistics_and_numbers(toys, toy, tmp_path, contents, manifest):
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


def test_settings_that_differ_are_kept_with_the_inputs_they_were_used_for(toys, tmp_path, manifest):
    paths = toys(a={"n": 5}, b={"n": 5}, c={"n": 3}, d={"n": 3})
    configs = [
        {"shard_size": 4, "codec": "npy", "compression": "gz", "session_template": "{stem}"},
        {"shard_size": 3, "codec": "npy", "compression": "gz", "codecs": {"nothing": "pyd"}},
        {"shard_size": 4, "codec": "npy", "compression": "gz"},
    ]
    for name, path, config in zip("abc", paths, configs, strict=False):
        convert_inputs([path], tmp_path / name, config)
    before = {name: manifest(tmp_path / name)["config"] for name in "abc"}
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "ab")
    merge([tmp_path / "ab", tmp_path / "c"], tmp_path / "out")
    found = manifest(tmp_path / "out")
    assert {"codec": "npy", "compression": "gz", "format": before["a"]["format"]}.items() <= found["config"].items()
    assert not {"shard_size", "session_template"} & found["config"].keys()
    for source in found["sources"]:
        own = before[source["session_id"]]
        assert {**found["config"], **source["config"]} == own
        assert all(own[name] != found["config"].get(name) for name in source["config"])
    convert_inputs([paths[3]], tmp_path / "out", mode="append")
    assert {column["codec"] for column in manifest(tmp_path / "out")["columns"]} == {"npy"}


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
    with pytest.raises(OutputExistsError, match="holds a data set; replace it with overwrite=True, or choose"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "gz")
    assert merge([tmp_path / "one", tmp_path / "two"], tmp_path / "gz", overwrite=True)["total_samples"] == 6
    assert sorted(path.name for path in (tmp_path / "gz").glob("shard*")) == ["shard_000000.tar", "shard_000001.tar"]
