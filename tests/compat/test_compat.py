"""What earlier versions wrote is opened, validated, appended to, resumed and loaded exactly: see README.md."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))
from compat_data import (
    BINS,
    SAMPLES,
    TRIALS,
    UNITS,
    WRITTEN,
    arrays,
    lines,
    loaders,
    loading_columns,
    ragged,
    rows_of,
    set_times,
    single_sample,
    trials,
)

from neurofm_shards import (
    ShardDataset,
    ShardedDatasetInfo,
    WebDatasetWriter,
    create_shards_from_arrays,
    create_webdataset_dataloader,
)
from neurofm_shards.errors import NeurofmShardsError
from neurofm_shards.loading.splits import split

HERE = Path(__file__).parent

VERSIONS = sorted(HERE.glob("made_by_*"))
PLUGIN_OF = {"zstd": "neurofm_shards_compression", "lz4": "neurofm_shards_compression"}
NPZ, NWB = "neurofm_shards_npz", "neurofm_shards_nwb"


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def made(request):
    """The folder of what one version made."""
    return request.param


def needs(*modules):
    """Skip without a plugin; where ``tox`` installs all of them, nothing is skipped."""
    for module in modules:
        pytest.importorskip(module)


@pytest.fixture
def copied(made, tmp_path):
    """Copy a fixture, and return its folder."""

    def copy(*names):
        return Path(shutil.copytree(made.joinpath(*names), tmp_path / names[-1]))

    return copy


@pytest.fixture
def inputs(copied):
    """The inputs of conversions, as old as they were; version control keeps no times."""
    folder = copied("inputs")
    set_times(folder)
    return folder


def run(*words, wheel=None, code=0):
    """Run a command of the command line."""
    environment = os.environ | ({"PYTHONPATH": str(wheel)} if wheel else {})
    command = [sys.executable, "-m", "neurofm_shards", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/", timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def tree(folder):
    """Return the bytes of all files."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def contents(folder):
    """Return the bytes of all shards, and the manifest without versions of software and options."""
    files = {path.name: path.read_bytes() for path in folder.glob("shard_*")}
    manifest = json.loads((folder / "dataset_metadata.json").read_text(encoding="utf-8"))
    return files, {key: value for key, value in manifest.items() if key not in {"software", "config"}}


def check_samples(folder, count, columns=None):
    """Compare samples, read one by one and as batches, with arithmetic."""
    expected, metadata = arrays(0, count) if columns is None else (columns, [{}] * count)
    dataset = ShardDataset(folder, verify=True, counts="stored")
    assert len(dataset) == count
    for row in range(count):
        sample = dataset[row]
        for name, values in expected.items():
            check_value(sample.get(name), values[row])
        assert sample["metadata"].items() >= metadata[row].items()
    batch = next(iter(create_webdataset_dataloader(folder, count, 0, shuffle=False, counts="stored")))
    for name, values in expected.items():
        for row in range(count):
            check_value(batch[name][row], values[row])


def check_value(found, value):
    if isinstance(value, (dict, type(None))):
        assert found == value
        return
    assert np.array_equal(np.asarray(found), value)
    assert np.asarray(found).dtype == np.asarray(value).dtype


@pytest.mark.parametrize("name", [*WRITTEN, "single samples", "splits"])
def test_a_data_set_opens_validates_and_holds_its_values(copied, name):
    needs(*([PLUGIN_OF[name]] if name in PLUGIN_OF else []))
    folder = copied("data_sets", name)
    before = tree(folder)
    check_samples(folder, SAMPLES)
    assert ShardedDatasetInfo(folder).get_summary()["total_samples"] == SAMPLES
    run("validate", folder)
    assert {path: data for path, data in tree(folder).items() if path.name != "lock"} == before


@pytest.mark.parametrize("name", WRITTEN)
def test_arrays_are_appended(copied, name):
    needs(*([PLUGIN_OF[name]] if name in PLUGIN_OF else []))
    folder = copied("data_sets", name)
    before = {path.name: path.read_bytes() for path in folder.glob("shard_*")}
    columns, metadata = arrays(SAMPLES, SAMPLES + 7)
    with pytest.warns(UserWarning, match="new samples are added"):
        create_shards_from_arrays(folder, columns, 3, metadata, **WRITTEN[name])
    check_samples(folder, SAMPLES + 7)
    run("validate", folder)
    assert {path.name: path.read_bytes() for path in folder.glob("shard_*")}.items() >= before.items()


def test_single_samples_keep_their_ids_and_gaps_and_are_appended(copied):
    folder = copied("data_sets", "single samples")
    with pytest.warns(UserWarning, match="new samples are added"):
        writer = WebDatasetWriter(folder)
    for row in range(SAMPLES, SAMPLES + 4):
        sample, metadata = single_sample(row)
        writer.write_sample({**sample, "extra": np.arange(row, dtype="i4")}, metadata=metadata)
    writer.finalize()
    check_samples(folder, SAMPLES + 4)
    (batch,) = create_webdataset_dataloader(folder, SAMPLES + 4, 0, shuffle=False)
    for row, value in enumerate(batch["extra"]):
        assert (value is None) if row % 3 and row < SAMPLES else np.array_equal(value, np.arange(row))
    ids = [said["sample_id"] for said in batch["metadata"]]
    assert ids[1:SAMPLES:2] == [f"M1/day {row}" for row in range(1, SAMPLES, 2)]
    assert len(set(ShardDataset(folder).keys())) == SAMPLES + 4


def test_ragged_columns_open_and_are_appended(copied):
    folder = copied("data_sets", "ragged")
    check_samples(folder, SAMPLES, ragged(0, SAMPLES))
    with pytest.warns(UserWarning, match="new samples are added"):
        create_shards_from_arrays(folder, ragged(SAMPLES, SAMPLES + 6), 4)
    check_samples(folder, SAMPLES + 6, ragged(0, SAMPLES + 6))
    run("validate", folder)


def test_saved_splits_mean_the_same_samples(copied, made):
    folder = copied("data_sets", "splits")
    expected = json.loads((made / "expected.json").read_text(encoding="utf-8"))["splits"]
    notes = [note["row"] for note in arrays(0, SAMPLES)[0]["note"]]
    for name, rows in expected.items():
        dataset = ShardDataset(folder, split=name)
        assert [dataset[i]["note"]["row"] for i in range(len(dataset))] == [notes[row] for row in rows]


def test_subjects_that_the_first_release_may_have_made_up_are_a_warning(copied, caplog):
    folder = copied("data_sets", "tables")
    split(folder, by="subject", fractions={"train": 1.0})
    assert "the subject of 1 of 1 sessions is called like the session or its file" in caplog.text
    caplog.clear()
    split(folder, by="session", fractions={"train": 1.0})
    assert not caplog.text


def check_recording(folder, names):
    """Compare windows of 10 bins of recordings with the bins that each unit fires in."""
    dataset, row, first = ShardDataset(folder, counts="stored"), 0, 0
    for name in names:
        bins = np.arange(BINS)[:, None]
        counts = (bins % (np.arange(UNITS[name]) + 1) == 0).astype("u2")
        while row < len(dataset) and dataset[row]["metadata"]["session_id"] == name:
            sample = dataset[row]
            start = round(sample["metadata"]["window_start_s"] * 10 - 0.5)
            assert np.array_equal(sample["spikes"].numpy(), counts[start : start + 10])
            table = [dataset.table("units")[unit]["id"] for unit in sample["unit_ids"].tolist()]
            assert table == [f"{name}/units/{unit}" for unit in range(UNITS[name])]
            assert sample["unit_ids"].tolist() == list(range(first, first + UNITS[name]))
            row += 1
        first += UNITS[name]
        assert row
    assert row == len(dataset)


def test_side_tables_open_and_recordings_are_appended(copied, inputs):
    needs(NWB)
    folder = copied("data_sets", "tables")
    check_recording(folder, ["session_a"])
    run("convert", "-i", inputs / "session_b.nwb", "-o", folder, "--append", "--validate")
    check_recording(folder, ["session_a", "session_b"])


def archives(inputs, letters):
    return [inputs / f"trials_{letter}.npz" for letter in letters]


def check_trials(folder, letters):
    """Compare the samples of archives with arithmetic."""
    expected = [trials(TRIALS[f"trials_{letter}"]) for letter in letters]
    found = ShardDataset(folder, verify=True, counts="stored")
    for name in ("spikes", "behavior"):
        values = np.concatenate([columns[name] for columns in expected])
        assert np.array_equal(np.stack([found[i][name].numpy() for i in range(len(found))]), values)


def test_a_finished_conversion_is_known_as_such(copied, inputs):
    needs(NWB)
    folder = copied("data_sets", "tables")
    before = tree(folder)
    settings = ("--bin-size-ms", "100", "--sequence-length", "10", "--overlap", "0", "--shard-size", "4")
    run("convert", "-i", inputs / "session_a.nwb", "-o", folder, *settings, "--resume")
    assert {path: data for path, data in tree(folder).items() if path.name != "lock"} == before


@pytest.mark.parametrize(
    ("name", "letters", "option"),
    [
        ("conversion", "abc", "--resume"),
        ("append", "abcd", "--append"),
        ("overwrite", "cd", "--resume"),
        ("deletion", "c", "--overwrite"),
    ],
)
def test_a_killed_conversion_goes_on_to_what_an_undisturbed_one_gives(copied, inputs, tmp_path, name, letters, option):
    needs(NPZ)
    folder = copied("unfinished", name)
    shards = {path.name: path.stat().st_mtime_ns for path in folder.rglob("shard_*.tar")}
    run("convert", "-i", *archives(inputs, letters), "-o", folder, "--shard-size", 3, option, "--validate")
    check_trials(folder, letters)
    if name in {"conversion", "append"}:
        kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard_*.tar")}
        assert kept.items() >= shards.items(), "shards that were finished are written again"
    first = "ab" if name == "append" else letters
    run("convert", "-i", *archives(inputs, first), "-o", tmp_path / "fresh", "--shard-size", 3)
    if name == "append":
        run("convert", "-i", *archives(inputs, letters), "-o", tmp_path / "fresh", "--append")
    assert contents(folder) == contents(tmp_path / "fresh")


def test_what_is_being_overwritten_is_whole_until_then(copied):
    check_trials(copied("unfinished", "overwrite"), "ab")


@pytest.mark.parametrize("name", ["conversion", "deletion", "writer"])
def test_what_is_unfinished_is_refused(copied, name):
    with pytest.raises(NeurofmShardsError, match="unfinished"):
        ShardDataset(copied("unfinished", name))


def test_a_killed_drop_is_finished(copied):
    needs(NPZ)
    folder = copied("unfinished", "drop")
    run("repair", folder)
    run("validate", folder)
    check_trials(folder, "b")


def test_what_a_killed_writer_left_is_repaired(copied):
    folder = copied("unfinished", "writer")
    run("repair", folder)
    columns, _ = arrays(0, 6)
    check_samples(folder, 6, columns)


def states():
    return [
        pytest.param(made, entry, id=f"{made.name}-{entry['loader']}-{entry['delivered']}")
        for made in VERSIONS
        for entry in json.loads((made / "expected.json").read_text(encoding="utf-8"))["states"]
    ]


@pytest.fixture(scope="module")
def loading_folders(tmp_path_factory):
    """Copy the data sets that states belong to, once per version."""
    scratch = tmp_path_factory.mktemp("loading")
    for made in VERSIONS:
        for name in ("loading", "loading, other"):
            shutil.copytree(made / "data_sets" / name, scratch / made.name / name)
    return scratch


@pytest.mark.parametrize(("version", "entry"), states())
def test_a_state_continues_with_exactly_what_followed(version, entry, loading_folders, tmp_path):
    folder, checkpoint = loading_folders / version.name, tmp_path / "checkpoint.json"
    make = loaders(folder / "loading", folder / "loading, other", checkpoint)[entry["loader"]]
    loader = make()
    loader.load_state_dict(entry["state"])
    assert loader.state_dict() == entry["state"]
    # A state at the end of an epoch says that the next one begins.
    for expected in filter(None, (entry["rest"], entry["next"])):
        assert [rows_of(item) for item in loader] == expected
    if "checkpoint" in entry:
        checkpoint.write_text(entry["checkpoint"], encoding="utf-8")
        first = entry["rest"] or entry["next"]
        assert [rows_of(item) for item in islice(make(), len(first))] == first


def test_rows_of_the_data_sets_that_states_belong_to(copied):
    for name, bounds in (("loading", (0, 30)), ("loading, other", (30, 40))):
        check_samples(copied("data_sets", name), bounds[1] - bounds[0], loading_columns(*bounds)[0])


USE_PLUGIN = """
import json, sys
from neurofm_shards import ShardDataset, create_webdataset_dataloader
lines = ShardDataset(sys.argv[1])
stamps = ShardDataset(sys.argv[2])
batch = next(iter(create_webdataset_dataloader(sys.argv[1], 99, 0, shuffle=False, transforms="scale")))
print(json.dumps([[lines[i]["x"].tolist() for i in range(len(lines))], batch["x"].tolist(),
    [lines[i]["metadata"]["label"] for i in range(len(lines))],
    [stamps[i]["note"].text for i in range(len(stamps))]]))
"""


def test_a_third_partys_wheel_still_works(copied, inputs, tmp_path):
    folder = copied("third_party")
    (wheel,) = folder.glob("*.whl")
    run("validate", folder / "lines", wheel=wheel)
    run("convert", "-i", inputs / "second.jsonl", "-o", folder / "lines", "--append", "--validate", wheel=wheel)
    listed = json.loads(run("plugins", "list", "--json", wheel=wheel).stdout)
    theirs = {(each["kind"], each["name"]) for each in listed["plugins"] if each["distribution"] == "stranger-compat"}
    assert theirs == {("source", "lines"), ("codec", "stamp"), ("compression", "deflate"), ("transform", "scale")}
    command = [sys.executable, "-c", USE_PLUGIN, str(folder / "lines"), str(folder / "stamps")]
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    used = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
    x, scaled, labels, notes = json.loads(used.stdout)
    expected = (np.array([row["x"] for row in lines(0, 10)], "f4") + np.float32(0.5)) * 2
    assert np.array_equal(x, expected)
    assert np.array_equal(scaled, expected * 2)
    assert labels == [row["label"] for row in lines(0, 10)]
    assert notes == ["note 0", "note 1", "note 2"]


def test_without_the_plugin_the_message_names_its_distribution(copied):
    with pytest.raises(NeurofmShardsError, match="stranger-compat"):
        ShardDataset(copied("third_party") / "lines")[0]


#: Names that plugins and training scripts of release 0.1.0 import, by module.
PUBLIC = {
    "plugins.entries": "CodecEntry CompressionEntry Entry ExecutorEntry SourceEntry TransformEntry",
    "plugins.hookspecs": "ENTRY_POINT_GROUP hookimpl hookspec",
    "plugins.interfaces": "Assembler Codec Compression Inspection Samples SampleSequence Source Transform",
    "plugins.registry": "registry",
    "plugins.config": "PluginConfig",
    "plugins.toolkit": "field_name file_fingerprint",
    "recordings": "AnyStream BehaviorOptions EventStream InMemoryRecording IntervalStream IrregularStream Recording "
    "RegularStream SeriesOptions SplitOptions Stream WindowOptions windowed",
    "testing": "CodecConformance CompressionConformance SourceConformance TransformConformance",
    "loading.batching": "Balanced OneSession TokenBudget column_lengths",
    "errors": "ConfigError EncodeError FormatError NeurofmShardsError SourceError",
    "types": "Block ColumnSpec Ragged SourcePlan",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_import_paths_stay(name):
    module = importlib.import_module(f"neurofm_shards.{name}")
    assert [each for each in PUBLIC[name].split() if not hasattr(module, each)] == []


def test_plain_tar_still_reads_what_was_written(made):
    with tarfile.open(made / "data_sets" / "npy" / "shard_000000.tar") as archive:
        assert [member.name for member in archive][:2] == [
            "sample_000000001.spikes.npy",
            "sample_000000001.behavior.npy",
        ]
