"""Shards hold one split each, however they came about, and manifest, card and other programs know which."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards import create_webdataset_dataloader, save_splits, split
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.parts import Part, commit_parts, plan_parts, run_part
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.convert.tasks import by_split, cut
from neurofm_shards.errors import ConfigError
from neurofm_shards.format.card import claimed_splits
from neurofm_shards.format.manifest import read_manifest
from neurofm_shards.maintenance.compact import compact
from neurofm_shards.maintenance.drop import drop_samples
from neurofm_shards.maintenance.merge import merge
from neurofm_shards.maintenance.repair import repair
from neurofm_shards.maintenance.validate import validate_dataset
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import Source
from neurofm_shards.plugins.registry import register_source
from neurofm_shards.recordings import InMemoryRecording
from neurofm_shards.recordings.memory import events, intervals

THIRDS = {"train": 0.5, "val": 0.25, "test": 0.25}


class Sessions(Source):
    """A file ``NAME.sess`` is a session of that name: its text is the seconds that it lasts."""

    def open(self, paths):
        path = Path(paths[0])
        seconds = float(path.read_text())
        rng = np.random.default_rng(len(path.stem) + int(seconds))
        starts = np.arange(0, seconds - 3, 4.0)
        streams = [
            events("units", {f"u{i}": np.sort(rng.uniform(0, seconds, int(20 * seconds))) for i in range(3)}),
            intervals("intervals/trials", starts, starts + 3),
        ]
        names = {"session_id": path.stem, "subject_id": path.stem[0], "fingerprint": f"{path.stem} {seconds}"}
        return InMemoryRecording(streams, **names, source_file=path.name)


@pytest.fixture
def sessions(tmp_path):
    register_source(SourceEntry(name="sess", summary="sessions", factory=Sessions, suffixes=(".sess",)))

    def make(**seconds):
        for name, length in seconds.items():
            (tmp_path / f"{name}.sess").write_text(str(length))
        return [tmp_path / f"{name}.sess" for name in seconds]

    return make


def config(by="session", size=7, **windows):
    return {"shard_size": size, "windows": {"overlap": 0.0, "split": {"by": by, "fractions": THIRDS}, **windows}}


def content(folder):
    """Return each shard's name and the splits, keys and sessions of its samples, read with tarfile alone."""
    found = {}
    for path in sorted(Path(folder).glob("shard_*.tar")):
        with tarfile.open(path) as tar:
            members = [m for m in tar if m.name.endswith(".metadata.json")]
            found[path.name] = [json.load(tar.extractfile(m)) for m in members]
    return found


def listed(folder):
    text = json.loads((Path(folder) / "dataset_metadata.json").read_text())
    return {entry["shard_name"]: entry.get("split") for entry in text["shards"]}


def assert_one_split_each(folder):
    samples = content(folder)
    splits = {name: {said["split"] for said in rows} for name, rows in samples.items()}
    assert all(len(names) == 1 for names in splits.values())
    assert listed(folder) == {name: next(iter(names)) for name, names in splits.items()}
    return list(listed(folder).values())


MANY = {f"{subject}{i}": 30 + 7 * i for i, subject in enumerate("abcdefgh")}


@pytest.mark.parametrize("by", ["session", "subject", "trial", "time"])
@pytest.mark.parametrize("sampling", ["fixed", "trial"])
def test_each_shard_holds_one_split_and_they_follow_one_another(sessions, tmp_path, by, sampling):
    plain = convert_inputs(sessions(**MANY), tmp_path / "plain", {"windows": config(by, sampling=sampling)["windows"]})
    convert_inputs(sessions(**MANY), tmp_path / "out", config(by, sampling=sampling))
    splits = assert_one_split_each(tmp_path / "out")
    assert splits == sorted(splits, key=list(THIRDS).index)
    samples = [said for rows in content(tmp_path / "out").values() for said in rows]
    assert len(samples) == plain["total_samples"]
    assert [said["sample_id"] for said in samples] == [f"sample_{i + 1:09d}" for i in range(len(samples))]
    sizes = [entry.num_samples for entry in read_manifest(tmp_path / "out").shards]
    last = [i for i, name in enumerate(splits) if splits[i + 1 : i + 2] != [name]]
    assert all(size == 7 for i, size in enumerate(sizes) if i not in last)


def test_workers_parts_and_single_files_give_the_same_bytes(sessions, tmp_path):
    from neurofm_shards.convert.session import ConversionSession, IncrementalConversion

    files = sessions(**MANY)
    convert_inputs(files, tmp_path / "one", config("trial"))
    convert_inputs(files, tmp_path / "two", config("trial"), workers=2, executor="threads")
    plan_parts(files, tmp_path / "parts", ConversionConfig.of(config("trial")), parts=3)
    for k in (3, 1, 2):
        run_part(tmp_path / "parts", Part(k, 3))
    commit_parts(tmp_path / "parts")
    with ConversionSession(tmp_path / "each", config("trial")) as session:
        conversion = IncrementalConversion(session, overwrite=False)
        for file in files:
            conversion.add([file])
        conversion.finish()
    expected = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir() if path.is_file()}
    assert len(expected) > 5
    for other in ("two", "parts", "each"):
        found = {path.name: path.read_bytes() for path in (tmp_path / other).iterdir() if path.is_file()}
        assert found == expected, other


def test_what_is_added_has_shards_of_its_own_for_each_split(sessions, tmp_path):
    first, second = sessions(a=40, b=45), sessions(c=50, d=35)
    convert_inputs(first, tmp_path / "out", config("time"))
    before = list(listed(tmp_path / "out").items())
    convert_inputs(second, tmp_path / "out", config("time"), mode="append")
    splits = assert_one_split_each(tmp_path / "out")
    assert list(listed(tmp_path / "out").items())[: len(before)] == before
    runs = [name for i, name in enumerate(splits) if splits[i - 1 : i] != [name]]
    assert runs == [*THIRDS, *THIRDS]


def test_commands_that_rewrite_keep_splits_apart(sessions, tmp_path):
    convert_inputs(sessions(a=40, b=45), tmp_path / "one", config("time"))
    for name in ("c", "d", "e"):
        convert_inputs(sessions(**{name: 50}), tmp_path / "two", config("time"), mode="append")
    merge([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    assert_one_split_each(tmp_path / "out")
    compact(tmp_path / "out")
    assert_one_split_each(tmp_path / "out")
    drop_samples(tmp_path / "out", "session_id == 'd' or window_start_s < 1")
    assert_one_split_each(tmp_path / "out")
    (tmp_path / "out" / "dataset_metadata.json").unlink()
    repair(tmp_path / "out")
    assert_one_split_each(tmp_path / "out")


def test_neighbours_of_one_split_become_one_shard(sessions, tmp_path):
    split = {"fractions": {"train": 1.0}}
    for name in ("a", "b", "c"):
        options = {"shard_size": 90, "windows": {"overlap": 0.0, "split": split}}
        convert_inputs(sessions(**{name: 20}), tmp_path / "out", options, mode="append")
    assert compact(tmp_path / "out")["shards_after"] == 1
    assert assert_one_split_each(tmp_path / "out") == ["train"]


def test_a_conversion_that_an_earlier_release_began_is_not_gone_on_with(sessions, tmp_path, monkeypatch):
    from neurofm_shards.convert import identity as identities
    from neurofm_shards.convert import session as sessions_module

    def as_before(plan, base=""):
        found = identities.identity(plan, base)
        found.pop("shards")
        return found

    class StoppedError(Exception):
        pass

    def stop(event):
        if type(event).__name__ == "ShardCommitted":
            raise StoppedError

    files = sessions(**MANY)
    with monkeypatch.context() as patch:
        patch.setattr(sessions_module, "identity", as_before)
        with pytest.raises(StoppedError):
            convert_inputs(files, tmp_path / "out", config(), observer=stop)
    with pytest.raises(ConfigError, match="whose shards hold several splits.*mode='overwrite'"):
        convert_inputs(files, tmp_path / "out", config(), mode="resume")


def test_a_stopped_conversion_is_gone_on_with(sessions, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(event):
        if type(event).__name__ == "ShardCommitted" and event.shard_idx == 2:
            raise StoppedError

    files = sessions(**MANY)
    with pytest.raises(StoppedError):
        convert_inputs(files, tmp_path / "out", config("time"), observer=stop)
    convert_inputs(files, tmp_path / "out", config("time"), mode="resume")
    convert_inputs(files, tmp_path / "whole", config("time"))
    for path in (tmp_path / "whole").glob("[!.]*"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def hugging_face(folder, scratch, monkeypatch):
    """Return the keys of the samples of each split, as `datasets` finds them without the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(scratch / "home"))
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(scratch / "cache"))
    return {name: [said["sample_id"] for said in part["metadata.json"]] for name, part in loaded.items()}


def loader_keys(folder, name):
    loader = create_webdataset_dataloader(folder, 16, 0, split=name, shuffle=False, pin_memory=False)
    return [said["sample_id"] for batch in loader for said in batch["metadata"]]


@pytest.mark.plugins
@pytest.mark.filterwarnings("default")
def test_hugging_face_finds_the_splits(sessions, tmp_path, monkeypatch):
    convert_inputs(sessions(a=40, b=45), tmp_path / "out", {**config("time"), "codec": "npy"})
    convert_inputs(sessions(c=50), tmp_path / "out", mode="append")
    found = hugging_face(tmp_path / "out", tmp_path, monkeypatch)
    assert list(found) == list(THIRDS)
    for name, keys in found.items():
        assert keys == loader_keys(tmp_path / "out", name)


@pytest.mark.plugins
@pytest.mark.filterwarnings("default")
def test_saved_splits_are_told_where_the_shards_allow_it(sessions, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    options = {"shard_size": 10, "codec": "npy", "windows": {"overlap": 0.0}}
    for name in ("a", "b", "c", "d"):
        convert_inputs(sessions(**{name: 20}), folder, options, mode="append")
    assert "split:" not in (folder / "README.md").read_text()
    assert set(listed(folder).values()) == {None}
    save_splits(folder, split(folder, "session", {"train": 0.5, "test": 0.5}))
    found = hugging_face(folder, tmp_path, monkeypatch)
    assert {name: len(keys) for name, keys in found.items()} == read_manifest(folder).splits
    for name, keys in found.items():
        assert keys == loader_keys(folder, name)
    save_splits(folder, {"train": np.arange(15), "test": np.arange(15, 76)})
    assert list(hugging_face(folder, tmp_path / "again", monkeypatch)) == ["unsplit"]
    assert "several splits" in (folder / "README.md").read_text()
    save_splits(folder, {})
    assert set(listed(folder).values()) == {None}
    assert "split:" not in (folder / "README.md").read_text()


def test_what_is_added_after_splits_were_saved_is_in_none(sessions, tmp_path):
    convert_inputs(sessions(a=40, b=45), tmp_path / "out", config("time"))
    save_splits(tmp_path / "out", {"train": np.arange(20)})
    convert_inputs(sessions(c=50), tmp_path / "out", mode="append")
    manifest = read_manifest(tmp_path / "out")
    assert manifest.shards[-1].split is None
    assert claimed_splits(manifest) == {}


def test_stored_recordings_claim_no_split(sessions, tmp_path):
    convert_inputs(sessions(a=20), tmp_path / "out", {"layout": "recordings"})
    assert listed(tmp_path / "out") == {"shard_000000.tar": None}
    assert "split:" not in (tmp_path / "out" / "README.md").read_text()


def test_names_that_would_meet_claim_nothing(sessions, tmp_path):
    split = {"by": "time", "fractions": {"held-out": 0.5, "held_out": 0.5}}
    convert_inputs(sessions(a=40), tmp_path / "out", {"windows": {"split": split}})
    assert claimed_splits(read_manifest(tmp_path / "out")) == {}


def test_samples_keep_their_order_within_a_split():
    splits = {0: [("b", 2), ("a", 3)], 2: [("a", 1)]}
    groups = by_split([(0, 1, 4), (1, 0, 2), (2, 0, 1)], splits, ["a", "b"])
    assert groups == [[(0, 2, 4), (2, 0, 1)], [(0, 1, 2)], [(1, 0, 2)]]
    assert [len(cut(group, 2)) for group in groups] == [2, 1, 1]


def test_a_shard_that_is_listed_under_another_split_is_found(sessions, tmp_path):
    convert_inputs(sessions(a=40), tmp_path / "out", config("time"))
    assert validate_dataset(tmp_path / "out").ok
    path = tmp_path / "out" / "dataset_metadata.json"
    path.write_text(path.read_text().replace('"split": "val",\n      "samples"', '"split": "train",\n      "samples"'))
    found = validate_dataset(tmp_path / "out").findings
    assert {finding.what for finding in found} == {"its samples are not all of the split 'train', as the manifest says"}
