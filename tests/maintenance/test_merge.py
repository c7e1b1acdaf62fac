"""Data sets are joined as if all had been converted together."""

import re
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards import ShardDataset, create_shards_from_arrays, save_splits
from neurofm_shards.cli.main import run
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import ConfigError, NoShardsError, OutputExistsError
from neurofm_shards.format.manifest import read_manifest
from neurofm_shards.maintenance.merge import merge
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import Source
from neurofm_shards.plugins.registry import register_source
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.recordings import InMemoryRecording
from neurofm_shards.recordings.memory import events, regular

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


def test_saved_splits_stay_behind_and_that_is_told(toys, tmp_path, caplog):
    paths = toys(a={"n": 9}, b={"n": 6})
    for name, path in zip("ab", paths, strict=True):
        convert_inputs([path], tmp_path / name, CONFIG)
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "plain")
    assert not caplog.messages
    save_splits(tmp_path / "b", {"train": [0, 1], "test": [2]})
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    (message,) = caplog.messages
    assert message.startswith(f"splits that were saved with {tmp_path / 'b'} are not those of {tmp_path / 'out'}: ")
    with pytest.raises(ConfigError, match="train"):
        ShardDataset(tmp_path / "out", split="train")


def test_settings_that_differ_are_kept_with_the_inputs_they_were_used_for(toys, tmp_path, manifest):
    paths = toys(a={"n": 5}, b={"n": 5}, c={"n": 3}, d={"n": 3})
    configs = [
        {"shard_size": 4, "codec": "npy", "compression": "gz", "session_template": "{stem}"},
        {"shard_size": 3, "codec": "npy", "compression": "gz", "codecs": {"unit_ids": "npy"}},
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
    (tmp_path / "link").symlink_to(tmp_path / "one")
    for folder in ("one", "link"):
        with pytest.raises(ConfigError, match="is named twice: its samples would be there twice"):
            merge([tmp_path / "one", tmp_path / folder], tmp_path / "out")
    convert_inputs(paths[1:], tmp_path / "two", CONFIG)
    with pytest.raises(OutputExistsError, match="holds a data set; replace it with overwrite=True, or choose"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "gz")
    assert merge([tmp_path / "one", tmp_path / "two"], tmp_path / "gz", overwrite=True)["total_samples"] == 6
    assert sorted(path.name for path in (tmp_path / "gz").glob("shard*")) == ["shard_000000.tar", "shard_000001.tar"]


class Waves(Source):
    """A file ``NAME.waves`` holds 4 s of a field potential at the rate that is its text, and one unit."""

    def open(self, paths):
        path = Path(paths[0])
        rate = float(path.read_text())
        wave = np.arange(int(4 * rate), dtype=np.float64)[:, None]
        names = {"session_id": path.stem, "subject_id": "m", "source_file": path.name, "fingerprint": path.stem}
        streams = [events("units", {"a": np.arange(0.01, 4, 0.05)}), regular("wave", wave, rate, modality="lfp")]
        return InMemoryRecording(streams, **names)


@pytest.fixture
def waves(tmp_path):
    register_source(SourceEntry(name="waves", summary="waves", factory=Waves, suffixes=(".waves",)))

    def made(name, rate=100, **windows):
        path = tmp_path / f"{name}.waves"
        path.write_text(str(rate))
        convert_inputs([path], tmp_path / f"of_{name}", {"windows": {"overlap": 0.0, **windows}})
        return tmp_path / f"of_{name}"

    return made


@pytest.mark.parametrize(
    ("rate", "windows", "says"),
    [
        (100, {"bin_size_ms": 20, "sequence_length": 50}, "ms per bin: 10 in {one}, 20 in {two}"),
        (100, {"sequence_length": 50}, "bins in a window: 100 in {one}, 50 in {two}"),
        (200, {}, "samples of lfp per second: 100 in {one}, 200 in {two}"),
    ],
)
def test_other_bins_and_rates_are_refused_before_anything_is_written(waves, tmp_path, rate, windows, says, capsys):
    one, two, out = waves("one"), waves("two", rate, **windows), tmp_path / "out"
    with pytest.raises(ConfigError, match=re.escape(says.format(one=one, two=two))):
        merge([one, two], out)
    assert run(["merge", "-i", str(one), str(two), "-o", str(out)]) == 2
    assert "or say --on-different allow to join them" in capsys.readouterr().err.replace("\n", " ")
    assert not out.exists()
    with pytest.raises(ConfigError, match="on_different='no'; choose 'error' or 'allow'"):
        merge([one, two], out, on_different="no")
    assert run(["merge", "-i", str(one), str(two), "-o", str(out), "--on-different", "allow"]) == 0
    joined = ShardCollection.open(out)
    parts = [ShardCollection.open(folder) for folder in (one, two)]
    assert joined.num_samples == sum(part.num_samples for part in parts)
    assert {what for what, values in joined.timing().items() if len(values) > 1} >= {says.partition(":")[0]}


def test_equal_bins_and_rates_are_joined(waves, tmp_path):
    assert merge([waves("one"), waves("two")], tmp_path / "out")["total_samples"] == 8


def test_subjects_that_were_kept_apart_are_not_joined_in_two_splits(waves, tmp_path):
    fractions = {"train": 0.5, "test": 0.5}

    def part(name, split):
        return waves(name, split={"by": "subject", "fractions": fractions, "named": {split: ["m"]}})

    parts = [part("one", "train"), part("two", "test")]
    with pytest.raises(ConfigError, match=r"1 subject would be in .*: m \(train in of_one, test in of_two\)"):
        merge(parts, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge(parts, tmp_path / "out", on_different="allow")
    assert {shard.split for shard in read_manifest(tmp_path / "out").shards} == {"train", "test"}
    assert merge([parts[0], part("three", "train")], tmp_path / "other")["total_samples"] == 8
    by_session = [waves(name, split={"by": "session", "fractions": fractions}) for name in ("four", "five")]
    assert merge(by_session, tmp_path / "sessions")["total_samples"] == 8


def test_columns_that_differ_are_told_with_what_to_do_about_data_sets(tmp_path):
    values = np.zeros((3, 2), np.float32)
    create_shards_from_arrays(tmp_path / "one", {"x": values})
    create_shards_from_arrays(tmp_path / "two", {"x": values.astype(np.float64)})
    with pytest.raises(ConfigError, match=r"'x' is <f4 in .*one but <f8 in .*two; convert one of them anew"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    with pytest.raises(NoShardsError, match="three is not a folder"):
        merge([tmp_path / "one", tmp_path / "three"], tmp_path / "out")
