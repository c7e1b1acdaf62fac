"""Whose a recording is: known, said with an option, or an error where subjects decide the splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neurofm_shards.cli.main import run
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.inputs import Input, name_subject
from neurofm_shards.convert.opening import spec_of
from neurofm_shards.convert.session import convert_inputs
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
