"""The converter for NWB files, with whichever source is called ``nwb``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import neurofm_shards
from neurofm_shards import NWBToWebDatasetConverter, ShardDataset, create_shards_from_arrays
from neurofm_shards.cli.main import run
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.session import ConversionSession, convert_inputs
from neurofm_shards.errors import (
    ConfigError,
    EncodeError,
    MissingPluginError,
    NothingToConvertError,
    OutputExistsError,
    SourceError,
)
from neurofm_shards.maintenance.validate import validate_dataset
from neurofm_shards.plugins.config import PluginConfig
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.host import NO_PLUGINS
from neurofm_shards.plugins.registry import registry
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.recordings.memory import InMemoryRecording, regular
from neurofm_shards.streams import EventStream


class StrangerConfig(PluginConfig):
    kind: str = "nwb"


class Stranger:
    """Somebody else's source of that name: JSON files that say how long a Poisson unit fired."""

    def __init__(self, config):
        self.config = config

    def group(self, paths):
        return [(path,) for path in paths]

    def open(self, paths):
        said = json.loads(Path(paths[0]).read_text())
        times = np.sort(np.random.default_rng(said["seed"]).uniform(0, said["seconds"], 20 * said["seconds"]))
        spikes = EventStream(
            path="units",
            modality="spikes",
            read=lambda: (times, np.zeros(len(times), np.int64)),
            owners=("u0",),
        )
        name = paths[0].rsplit("/", 1)[-1]
        speed = regular("speed", np.arange(10.0 * said["seconds"]), 10.0, modality="behavior")
        names = {"session_id": name, "subject_id": "m", "source_file": name, "fingerprint": Path(paths[0]).read_text()}
        return InMemoryRecording([spikes, speed] if "speed" in said else [spikes], **names)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Three sessions, and a stranger's source that reads them."""
    monkeypatch.setenv(NO_PLUGINS, "1")
    registry.cache_clear()
    registry().sources.register(
        SourceEntry(name="nwb", summary="a stranger's", factory=Stranger, config=StrangerConfig, suffixes=(".nwb",))
    )
    for i, seconds in enumerate((12, 7, 30)):
        (tmp_path / f"s{i}.nwb").write_text(json.dumps({"seed": i, "seconds": seconds}))
    yield [tmp_path / f"s{i}.nwb" for i in range(3)]
    registry.cache_clear()


def test_file_by_file_is_the_same_as_all_at_once(files, tmp_path, tree):
    converter = NWBToWebDatasetConverter(tmp_path / "one", shard_size=10)
    counts = [converter.convert_nwb_file(path) for path in files]
    assert (tmp_path / "one/shard_000001.tar").exists()  # full shards are written at once
    assert not (tmp_path / "one/dataset_metadata.json").exists()
    summary = converter.finalize()
    assert converter.finalize() == summary
    assert summary["total_samples"] == sum(counts)
    with NWBToWebDatasetConverter(tmp_path / "list", shard_size=10) as other:
        assert other.convert_nwb_files([str(path) for path in files]) == sum(counts)
    assert tree(tmp_path / "one") == tree(tmp_path / "list")
    convert_inputs(files, tmp_path / "call", {"format": "nwb", "shard_size": 10})
    shards = {name: data for name, data in tree(tmp_path / "one").items() if name != "dataset_metadata.json"}
    assert shards == {name: data for name, data in tree(tmp_path / "call").items() if name != "dataset_metadata.json"}


def test_the_defaults_are_those_of_the_quick_reference(files, tmp_path):
    with NWBToWebDatasetConverter(str(tmp_path / "out")) as converter:
        converter.convert_nwb_file(files[0])
    data = ShardCollection.open(tmp_path / "out")
    assert data.columns["spikes"].shape == (100, 1)
    starts = [m["window_start_s"] for m in data.metadata(np.arange(3))]
    np.testing.assert_allclose(np.diff(starts), 0.5, atol=1e-9)
    windows = converter.config.windows
    assert (windows.bin_size_ms, windows.sequence_length, windows.overlap, converter.config.shard_size) == (
        10.0,
        100,
        0.5,
        1000,
    )


def test_a_bad_file_leaves_the_others(files, tmp_path):
    (tmp_path / "bad.nwb").write_text("{")
    converter = NWBToWebDatasetConverter(tmp_path / "out", shard_size=10)
    converter.convert_nwb_file(files[0])
    with pytest.raises(neurofm_shards.errors.SourceError, match=r"bad\.nwb"):
        converter.convert_nwb_file(tmp_path / "bad.nwb")
    converter.convert_nwb_file(files[1])
    converter.finalize()
    with NWBToWebDatasetConverter(tmp_path / "want", shard_size=10) as other:
        other.convert_nwb_files(files[:2])
    assert ShardCollection.open(tmp_path / "out").fingerprint == ShardCollection.open(tmp_path / "want").fingerprint


def test_the_first_files_decide_the_columns_of_those_that_follow(files, tmp_path):
    for i in (1, 2):
        files[i].write_text(json.dumps({"seed": i, "seconds": 30, "speed": True}))
    files.append(tmp_path / "s3.nwb")
    files[3].write_text(json.dumps({"seed": 3, "seconds": 9}))
    with NWBToWebDatasetConverter(tmp_path / "out", shard_size=4, on_error="skip") as converter:
        counts = [converter.convert_nwb_file(path) for path in files]
    assert counts[1:3] == [0, 0]
    said = [sample["metadata"]["session_id"] for sample in ShardDataset(tmp_path / "out")[:]]
    assert said == ["s0.nwb"] * counts[0] + ["s3.nwb"] * counts[3]
    assert [failure["files"] for failure in converter.finalize()["failures"]] == [["s1.nwb"], ["s2.nwb"]]
    converter = NWBToWebDatasetConverter(tmp_path / "strict", shard_size=4)
    converter.convert_nwb_file(files[0])
    for path in files[1:3]:
        with pytest.raises(ConfigError, match=rf"has no column 'behavior', which .*{path.name} has"):
            converter.convert_nwb_file(path)
    converter.convert_nwb_file(files[3])
    assert converter.finalize()["total_samples"] == counts[0] + counts[3]


def test_a_file_that_lacks_what_the_first_has_is_masked_as_all_at_once(files, tmp_path):
    files[0].write_text(json.dumps({"seed": 0, "seconds": 12, "speed": True}))
    with NWBToWebDatasetConverter(tmp_path / "one", shard_size=10) as one:
        counts = [one.convert_nwb_file(path) for path in files]
    with NWBToWebDatasetConverter(tmp_path / "all", shard_size=10) as every:
        assert every.convert_nwb_files(files) == sum(counts)
    assert ShardCollection.open(tmp_path / "one").fingerprint == ShardCollection.open(tmp_path / "all").fingerprint


@pytest.mark.parametrize("held", [np.float64, np.int32, np.uint8])
def test_counts_that_are_added_to_arrays_have_the_type_that_is_there(files, tmp_path, held, caplog):
    create_shards_from_arrays(tmp_path / "out", {"spikes": np.ones((20, 5, 1), held)}, shard_size=8)
    converter = NWBToWebDatasetConverter(tmp_path / "out")
    with pytest.warns(UserWarning, match="already holds"):
        converter.convert_nwb_file(files[0])
    converter.convert_nwb_file(files[1])
    converter.finalize()
    convert_inputs(files[:2], tmp_path / "alone", {"format": "nwb"})
    both, alone = (ShardCollection.open(tmp_path / name) for name in ("out", "alone"))
    assert [column.dtype for column in both.manifest.columns if column.name == "spikes"] == [np.dtype(held).str]
    added, counts = both.gather(np.arange(20, len(both))), alone.gather(np.arange(len(alone)))
    assert {values.dtype for values in both.gather(np.arange(len(both)))["spikes"]} == {np.dtype(held)}
    np.testing.assert_array_equal(added["spikes"], counts["spikes"])
    told = f"spikes is stored as {np.dtype(held).name}, as the data set has it, not as uint8"
    assert (told in caplog.text) == (held is not np.uint8)
    assert "samples differ in their fields from those of the data set (unit_ids)" in caplog.text


def test_what_cannot_have_the_type_that_is_there_is_refused(files, tmp_path, tree):
    create_shards_from_arrays(tmp_path / "out", {"spikes": np.ones((20, 5, 1), bool)}, shard_size=8)
    before = tree(tmp_path / "out")
    with (
        pytest.raises(EncodeError, match=r"s0\.nwb, sample 0: field 'spikes' is uint8, and the samples .* hold bool"),
        pytest.warns(UserWarning, match="already holds"),
        NWBToWebDatasetConverter(tmp_path / "out") as converter,
    ):
        converter.convert_nwb_file(files[0])
    assert tree(tmp_path / "out") == before


def test_a_first_file_that_fails_leaves_nothing_behind(files, tmp_path):
    (tmp_path / "bad.nwb").write_text("{")
    converter = NWBToWebDatasetConverter(tmp_path / "out", shard_size=10)
    with pytest.raises(neurofm_shards.errors.SourceError, match=r"bad\.nwb"):
        converter.convert_nwb_file(tmp_path / "bad.nwb")
    assert not list((tmp_path / "out").rglob("*"))
    with pytest.raises(NothingToConvertError, match="no NWB file was given"):
        converter.finalize()
    converter.convert_nwb_file(files[0])
    assert converter.finalize()["total_samples"]


def test_a_session_that_was_closed_starts_a_new_executor(tmp_path):
    session = ConversionSession(tmp_path / "out", ConversionConfig(), workers=1)
    first = session.open().dispatcher
    session.close()
    assert session.open().dispatcher is not first
    session.close()


def test_an_exception_leaves_nothing_that_looks_whole(files, tmp_path):
    def interrupted():
        with NWBToWebDatasetConverter(tmp_path / "out", shard_size=5) as converter:
            converter.convert_nwb_files(files)
            assert list((tmp_path / "out").glob("*.tar"))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert not list((tmp_path / "out").rglob("*"))


def left_by_a_converter(files, out, ending):
    """Run a program that converts files and ends before it finalizes; return what it printed."""
    script = f"""
import gc, sys
from pathlib import Path
from neurofm_shards import NWBToWebDatasetConverter
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.registry import registry
from test_nwb import Stranger, StrangerConfig
registry().sources.register(
    SourceEntry(name="nwb", summary="s", factory=Stranger, config=StrangerConfig, suffixes=(".nwb",))
)
converter = NWBToWebDatasetConverter({str(out)!r}, shard_size=5)
converter.convert_nwb_files({[str(path) for path in files]!r})
print(len(list(Path({str(out)!r}).glob("*.tar"))), flush=True)
{ending}
"""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", script], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip


def test_what_a_killed_converter_left_is_replaced_as_the_message_says(files, tmp_path):
    left_by_a_converter(files, tmp_path / "out", "import os; os._exit(9)")
    assert list((tmp_path / "out").glob("*.tar"))
    again = NWBToWebDatasetConverter(tmp_path / "out", shard_size=5)
    with pytest.raises(OutputExistsError, match=r"written\); finish it .*, or start again with overwrite=True$"):
        again.convert_nwb_files(files)
    again = NWBToWebDatasetConverter(tmp_path / "out", shard_size=5, overwrite=True)
    assert again.convert_nwb_files(files) == again.finalize()["total_samples"]


@pytest.mark.parametrize("ending", ["del converter; gc.collect()", "sys.exit(1)", "raise RuntimeError"])
def test_a_converter_that_is_forgotten_leaves_nothing_behind(files, tmp_path, ending):
    done = left_by_a_converter(files, tmp_path / "out", ending)
    assert int(done.stdout) > 1, done.stderr
    assert not list((tmp_path / "out").rglob("*")), done.stderr
    assert "ResourceWarning" not in done.stderr


def test_what_a_manifest_lists_is_not_taken_back(files, tmp_path, monkeypatch):
    with NWBToWebDatasetConverter(tmp_path / "out", shard_size=5) as converter:
        converter.convert_nwb_file(files[0])
    added = NWBToWebDatasetConverter(tmp_path / "out", shard_size=5)
    with pytest.warns(UserWarning, match="already holds"):
        added.convert_nwb_file(files[1])

    def broken(*_):
        raise RuntimeError("a listener failed")

    monkeypatch.setattr(ConversionSession, "finished", broken)
    with pytest.raises(RuntimeError, match="a listener failed"):
        added.finalize()
    listed = json.loads((tmp_path / "out/dataset_metadata.json").read_text())["shards"]
    assert {shard["shard_name"] for shard in listed} == {path.name for path in (tmp_path / "out").glob("*.tar")}


def test_a_replacement_that_a_strange_file_holds_up_is_finished_by_resuming(files, tmp_path):
    with NWBToWebDatasetConverter(tmp_path / "out") as converter:
        converter.convert_nwb_file(files[0])
    stranger = tmp_path / "out/shard_000001.tar"
    stranger.write_text("mine")
    new = NWBToWebDatasetConverter(tmp_path / "out", shard_size=5, overwrite=True)
    new.convert_nwb_files(files)
    with pytest.raises(OutputExistsError, match="mode='resume'"):
        new.finalize()
    stranger.rename(tmp_path / "thesis.tar")
    result = convert_inputs(files, tmp_path / "out", new.config, mode="resume")
    assert result["total_shards"] > 1
    assert validate_dataset(tmp_path / "out").ok


def test_misuse_is_explained(files, tmp_path):
    with pytest.raises(NothingToConvertError, match="call convert_nwb_file first"):
        NWBToWebDatasetConverter(tmp_path / "out").finalize()
    with pytest.raises(ConfigError, match="modalities"):
        NWBToWebDatasetConverter(tmp_path / "out", modalities=["smell"])
    with pytest.raises(ConfigError, match="no such option"):
        NWBToWebDatasetConverter(tmp_path / "out", bin_size=5)
    converter = NWBToWebDatasetConverter(tmp_path / "out")
    converter.convert_nwb_file(files[0])
    converter.finalize()
    with pytest.raises(ConfigError, match="finished"):
        converter.convert_nwb_file(files[1])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"thesis\.txt"):
        NWBToWebDatasetConverter(tmp_path / "taken").convert_nwb_file(files[0])
    with NWBToWebDatasetConverter(tmp_path / "out", overwrite=True) as again:
        again.convert_nwb_file(files[1])


def test_without_the_plugin_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv(NO_PLUGINS, "1")
    registry.cache_clear()
    with pytest.raises(MissingPluginError, match=r"pip install 'neurofm-shards\[nwb\]'"):
        NWBToWebDatasetConverter(tmp_path / "out")
    (tmp_path / "a.nwb").write_bytes(b"")
    with pytest.raises(
        MissingPluginError, match=r"no installed source reads .*a\.nwb.*pip install 'neurofm-shards\[nwb\]'"
    ):
        convert_inputs([tmp_path / "a.nwb"], tmp_path / "out")
    registry.cache_clear()


@pytest.mark.plugins
def test_a_real_recording_keeps_all_its_spikes(shared_data, tmp_path):
    with NWBToWebDatasetConverter(tmp_path / "out", overlap=0.0, modalities=["spikes"], shard_size=500) as converter:
        converter.convert_nwb_file(shared_data / "A2929_head_direction.nwb")
    data = ShardCollection.open(tmp_path / "out")
    spikes = data.gather(np.arange(data.num_samples))["spikes"]
    assert spikes.shape == (1200, 100, 15)
    assert int(spikes.sum(dtype=np.int64)) == 98_794


def splits_in(folder):
    with ShardCollection.open(folder) as data:
        return [entry["split"] for entry in data.metadata(np.arange(data.num_samples))]


def test_splits_are_counted_and_empty_ones_named(files, tmp_path, capsys):
    def told(by, fractions, *more):
        split = json.dumps({"by": by, "fractions": fractions, "balanced": False})
        words = ["convert", "-i", *map(str, files), "--overlap", "0", "--split", split, "--executor", "serial", *more]
        assert run(words) == 0
        return capsys.readouterr()

    shares = {"train": 0.9, "val": 0.05, "test": 0.05, "never": 0.0}
    said = told("session", shares, "-o", str(tmp_path / "out"))
    found = splits_in(tmp_path / "out")
    counts = {name: found.count(name) for name in ("train", "val", "test")}
    shown = [f"{name} {count} ({count / len(found):.1%})" for name, count in counts.items() if count]
    assert sorted(said.out.partition("splits: ")[2].splitlines()[0].split(", ")) == sorted(shown)
    empty = ", ".join(name for name, count in counts.items() if not count)
    assert empty
    assert f"no samples for {empty}: " in said.err
    added = tmp_path / "new.nwb"
    added.write_text(json.dumps({"seed": 9, "seconds": 5}))
    files.append(added)
    said = told("session", shares, "-o", str(tmp_path / "out"), "--append")
    (name, *others) = splits_in(tmp_path / "out")[len(found) :]
    assert set(others) == {name}
    assert f"{name} {found.count(name) + 1 + len(others)} (" in said.out
    assert "no samples" not in said.err
    divided = told("time", {"train": 0.6, "test": 0.4}, "--dry-run", "--json")
    splits = json.loads(divided.out)["splits"]
    assert list(splits) == ["train", "test"]
    assert min(splits.values()) > 0
    assert "no samples" not in told("time", {"train": 0.6, "test": 0.4}, "--dry-run").out


def test_recordings_are_stored_file_by_file_as_all_at_once(files, tmp_path, tree):
    with NWBToWebDatasetConverter(tmp_path / "one", layout="recordings") as converter:
        for path in files:
            assert converter.convert_nwb_file(path) == 1
            assert len(list((tmp_path / "one").glob("*.tar"))) == files.index(path) + 1
    convert_inputs(files, tmp_path / "all", {"format": "nwb", "layout": "recordings"})
    assert tree(tmp_path / "one") == tree(tmp_path / "all")
    with pytest.raises(ConfigError, match="choose them when"):
        NWBToWebDatasetConverter(tmp_path / "two", layout="recordings", stride=3)


@pytest.fixture
def sessions(tmp_path):
    write_demo_session = pytest.importorskip("neurofm_shards_nwb.demo").write_demo_session
    for number in (1, 2):
        write_demo_session(tmp_path / f"day{number}.nwb", seconds=15.0, seed=number)
    (tmp_path / "broken.nwb").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    return tmp_path


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.mark.plugins
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


@pytest.mark.plugins
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


@pytest.mark.plugins
def test_an_exception_leaves_the_data_set_as_it_was(sessions):
    out = sessions / "shards"
    create_shards_from_arrays(out, {"x": np.ones((20, 5))}, shard_size=8)
    before = files_of(out)
    with pytest.raises(SourceError, match=r"broken\.nwb"), NWBToWebDatasetConverter(out, shard_size=5) as converter:  # noqa: PT012
        with pytest.warns(UserWarning, match="already holds"):
            converter.convert_nwb_file(sessions / "day1.nwb")
        converter.convert_nwb_file(sessions / "broken.nwb")
    assert files_of(out) == before


@pytest.mark.plugins
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
