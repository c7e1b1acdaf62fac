"""Whose a recording is: known, said with an option, or an error where subjects decide the splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neurofm_shards.cli.main import run
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.input_reader import name_subject
from neurofm_shards.convert.inputs import Input
from neurofm_shards.convert.opening import spec_of
from neurofm_shards.convert.session import ConversionSession, IncrementalConversion, convert_inputs
from neurofm_shards.errors import ConfigError
from neurofm_shards.recordings import InMemoryRecording, WindowOptions, windowed
from neurofm_shards.recordings.memory import events

pytestmark = pytest.mark.plugins


@pytest.fixture
def sessions(tmp_path):
    """Three sessions of two animals, of which one file says whose it is."""
    pynwb = pytest.importorskip("pynwb")
    pytest.importorskip("neurofm_shards_nwb")
    from datetime import datetime, timezone

    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    paths = []
    for i, subject in enumerate([None, None, "m2"]):
        made = pynwb.NWBFile("d", f"id{i}", start, session_id=f"s{i}")
        if subject is not None:
            made.subject = pynwb.file.Subject(subject_id=subject)
        made.add_unit(spike_times=np.sort(np.random.default_rng(i).uniform(0, 30, 600)))
        paths.append(tmp_path / f"day{i}.nwb")
        with pynwb.NWBHDF5IO(paths[-1], "w") as io:
            io.write(made)
    return paths


def subjects(done_dir: Path) -> dict[str, tuple[str, str]]:
    from neurofm_shards.reading.collection import ShardCollection

    with ShardCollection.open(done_dir) as collection:
        table = collection.metadata_table()
        rows = zip(*(table.values(name).tolist() for name in ("session_id", "subject_id", "split")), strict=True)
        return {session: (subject, split) for session, subject, split in rows}


def test_a_split_by_subject_refuses_sessions_without_one_and_lists_them(sessions, tmp_path):
    config = {"windows": {"split": {"by": "subject"}}}
    with pytest.raises(
        ConfigError,
        match=r"2 of 3 sessions name no subject: s0 .*day0.*, s1 .*day1.*subject_ids=FILE=ID or subject_template",
    ):
        convert_inputs(sessions, tmp_path / "out", config)


def test_the_option_names_subjects_by_file(sessions, tmp_path):
    split = {"by": "subject", "named": {"test": ["m1"], "train": ["m2"]}}
    config = {"windows": {"split": split}, "subject_ids": {"day0.nwb": "m1", "day1.nwb": "m1"}}
    convert_inputs(sessions, tmp_path / "out", config)
    assert subjects(tmp_path / "out") == {"s0": ("m1", "test"), "s1": ("m1", "test"), "s2": ("m2", "train")}


@pytest.mark.parametrize("flags", [("--subject-id",), ("--subject-ids",), ("--subject-id", "--subject-id")])
def test_the_command_line_names_subjects_by_file(sessions, tmp_path, flags):
    pairs = ["day0.nwb=m1", "day1.nwb=m3"]
    said = [word for flag in flags for word in (flag, pairs.pop(0))] + pairs
    split = '{"by": "subject", "named": {"test": ["m3"]}, "fractions": {"train": 0.5, "test": 0.5}}'
    words = ["convert", "-i", *map(str, sessions), "-o", str(tmp_path / "out"), "--split", split, *said]
    assert run([*words, "--executor", "serial"]) == 0
    assert subjects(tmp_path / "out") == {"s0": ("m1", "train"), "s1": ("m3", "test"), "s2": ("m2", "train")}


def test_a_template_makes_subjects_of_names(sessions, tmp_path):
    convert_inputs(sessions, tmp_path / "out", {"subject_template": "{parent}"})
    assert {subject for subject, _ in subjects(tmp_path / "out").values()} == {tmp_path.name}


def test_only_the_file_that_is_named_is_meant():
    class Source:
        pass

    for file, wanted in (("b.nwb", "unknown"), ("a.nwb", "m1"), ("x/a.nwb", "m1"), ("y/a.nwb", "unknown")):
        recording = InMemoryRecording([], subject_id="unknown")
        recording.subject_is_known = False
        config = ConversionConfig(subject_ids=(f"{file}=m1",))
        name_subject(spec_of(Input(("/data/x/a.nwb",), "nwb", {}, Source(), ("a.nwb",)), config), recording)
        assert recording.subject_id == wanted


def test_a_file_may_be_called_as_it_was_named_or_by_the_link_to_it(sessions, tmp_path, monkeypatch):
    (tmp_path / "link.nwb").symlink_to(sessions[0])
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for given, key in (("../link.nwb", "link.nwb"), ("../day1.nwb", "../day1.nwb"), ("../link.nwb", "day0.nwb")):
        convert_inputs([given], tmp_path / "out", {"subject_ids": {key: "m7"}}, mode="overwrite")
        assert {subject for subject, _ in subjects(tmp_path / "out").values()} == {"m7"}
    with pytest.raises(ConfigError, match=r"'day0.nwb' has two subjects, 'm1' and 'm2'"):
        ConversionConfig.of({"subject_ids": ["day0.nwb=m1", "day0.nwb=m2"]})


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--plan-only", "--parts", "2"], ["--plan-only", "--part", "1/2"]])
def test_a_subject_of_no_input_is_an_error_before_anything_is_written(sessions, tmp_path, capsys, more):
    out = tmp_path / "out"
    said = ["--subject-id", "dya1.nwb=m1", "day0.nwb=m1", "x.nwb=m2"]
    assert run(["convert", "-i", *map(str, sessions), "-o", str(out), *said, *more]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "--subject-id: no input is called 'dya1.nwb', 'x.nwb'; 3 inputs: " in told
    assert told.partition("3 inputs: ")[2].replace(" ", "").startswith(str(sessions[1]))  # the closest comes first
    assert not list(out.glob("shard*"))
    assert not (out / "dataset_metadata.json").exists()
    job = tmp_path / "job.toml"
    job.write_text(f'input = ["{sessions[0]}"]\noutput = "{out}"\nsubject_ids = ["dya0.nwb=m1"]\n')
    assert run(["convert", "--config", str(job), *more]) == 2


def test_subjects_of_what_was_converted_or_left_out_before_are_no_error(sessions, tmp_path, capsys):
    out, broken = tmp_path / "out", tmp_path / "broken.nwb"
    broken.write_bytes(b"no file")
    pairs = {"day0.nwb": "m1", "broken.nwb": "m2", "day1.nwb": "m1"}
    config = {"subject_ids": pairs, "on_error": "skip"}
    convert_inputs([*sessions[:2], broken], out, config)
    broken.unlink()
    (tmp_path / "later").mkdir()
    for i, path in enumerate(sessions):
        path.rename(tmp_path / "later" / f"{i}.nwb")
    convert_inputs([tmp_path / "later" / "2.nwb"], out, config, mode="append")
    assert {session: subject for session, (subject, _) in subjects(out).items()} == {"s0": "m1", "s1": "m1", "s2": "m2"}
    with pytest.raises(ConfigError, match="no input is called 'day3.nwb'; 1 input"):
        convert_inputs([tmp_path / "later" / "2.nwb"], out, {"subject_ids": {"day3.nwb": "m"}}, mode="append")


def test_subjects_of_added_files_are_added_and_others_stay(sessions, tmp_path):
    out = tmp_path / "out"
    convert_inputs(sessions[:1], out, {"subject_ids": {"day0.nwb": "m1"}})
    convert_inputs(sessions[:2], out, {"subject_ids": {"day1.nwb": "m3"}}, mode="append")
    assert {session: subject for session, (subject, _) in subjects(out).items()} == {"s0": "m1", "s1": "m3"}
    with pytest.raises(ConfigError, match="'day0.nwb' has two subjects"):
        convert_inputs(sessions[:1], out, {"subject_ids": {"day0.nwb": "m4"}}, mode="append")
    with pytest.raises(ConfigError, match="holds session 's1' as one of subject 'm3', and subject_ids says 'm4'"):
        convert_inputs(sessions[:2], out, {"subject_ids": {"day1.nwb": "m4"}}, mode="append")


def test_files_that_come_one_by_one_are_told_of_at_the_end(sessions, tmp_path, caplog):
    with ConversionSession(tmp_path / "out", {"subject_ids": {"day0.nwb": "m1", "dya1.nwb": "m1"}}) as session:
        conversion = IncrementalConversion(session, overwrite=False)
        for path in sessions[:2]:
            conversion.add([path])
        assert "no input is called" not in caplog.text
        conversion.finish()
    assert "no input is called 'dya1.nwb'; 2 inputs" in caplog.text
    assert "day0.nwb'" not in caplog.text


def test_subjects_of_samples_that_are_cut_already_are_refused(tmp_path):
    pytest.importorskip("neurofm_shards_npz")
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 3)))
    for said in ({"subject_ids": {"x.npz": "m"}}, {"subject_template": "{stem}"}):
        with pytest.raises(ConfigError, match="subjects are said of recordings, but .*x.npz holds samples"):
            convert_inputs([tmp_path / "x.npz"], tmp_path / "out", said)


def test_a_pair_without_a_file_or_an_id_is_refused():
    with pytest.raises(ConfigError, match="is not FILE=ID"):
        ConversionConfig.of({"subject_ids": ["m1"]})


def test_named_sessions_belong_where_they_are_said_to():
    units = events("units", {"a": np.sort(np.random.default_rng(0).uniform(0, 10, 300))})
    for split in ("train", "val", "test"):
        options = WindowOptions(split={"by": "session", "named": {split: ["session"]}})
        samples = windowed(InMemoryRecording([units]), options)
        assert set(samples.plan().metadata["splits"]) == {split}
    with pytest.raises(ValueError, match="more than one split"):
        WindowOptions(split={"named": {"train": ["a"], "test": ["a"]}})
    with pytest.raises(ValueError, match="puts sessions or subjects into splits"):
        WindowOptions(split={"by": "time", "named": {"train": ["a"]}})
