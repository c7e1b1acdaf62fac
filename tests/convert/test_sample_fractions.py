"""Conversion divides sessions and subjects so that fractions of samples are met, and says what came of it."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards import ShardDataset, split
from neurofm_shards.cli.main import run
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.parts import Part, commit_parts, join_parts, plan_part, run_part
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import ConfigError
from neurofm_shards.format.manifest import read_manifest
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import Source
from neurofm_shards.plugins.registry import register_source
from neurofm_shards.recordings import InMemoryRecording
from neurofm_shards.recordings.memory import events

OPENED: list[str] = []


class Lengths(Source):
    """A file ``SUBJECT-DAY.length`` is a session of as many seconds as its text says."""

    def open(self, paths):
        path = Path(paths[0])
        OPENED.append(path.stem)
        seconds = float(path.read_text())
        times = np.arange(0.0, seconds + 0.02, 0.02)
        names = {
            "session_id": path.stem,
            "subject_id": path.stem.split("-")[0],
            "fingerprint": f"{path.stem} {seconds}",
        }
        return InMemoryRecording([events("units", {"u": times})], **names, source_file=path.name)


@pytest.fixture
def lengths(tmp_path):
    register_source(SourceEntry(name="length", summary="sessions", factory=Lengths, suffixes=(".length",)))
    OPENED.clear()

    def make(**seconds):
        for name, length in seconds.items():
            (tmp_path / f"{name.replace('_', '-')}.length").write_text(str(length))
        return [tmp_path / f"{name.replace('_', '-')}.length" for name in seconds]

    return make


def options(by="session", **split):
    return {"windows": {"overlap": 0.0, "split": {"by": by, **split}}}


def content(folder):
    """Return the samples of each (subject, session, split), as they are stored."""
    data = ShardDataset(folder)
    return Counter(tuple(s["metadata"][k] for k in ("subject_id", "session_id", "split")) for s in data)


def counts(folder):
    found = Counter()
    for (*_, name), number in content(folder).items():
        found[name] += number
    return found


SIX = {"a_1": 80, "a_2": 20, "b_1": 60, "b_2": 20, "c_1": 10, "d_1": 10}


def test_fractions_are_of_samples(lengths, tmp_path):
    result = convert_inputs(lengths(**SIX), tmp_path / "out", options())
    assert counts(tmp_path / "out") == {"train": 160, "val": 20, "test": 20} == result["splits"]
    assert len({session for _, session, _ in content(tmp_path / "out")}) == 6


def test_subjects_stay_whole(lengths, tmp_path):
    result = convert_inputs(lengths(**SIX), tmp_path / "out", options("subject"))
    assert len({(subject, split) for subject, _, split in content(tmp_path / "out")}) == 4
    assert result["splits"] == {"train": 180, "val": 10, "test": 10}


def test_each_input_is_opened_once(lengths, tmp_path):
    convert_inputs(lengths(**SIX), tmp_path / "out", options())
    assert sorted(OPENED) == sorted(name.replace("_", "-") for name in SIX)


def test_shares_that_are_off_are_a_warning_before_anything_is_written(lengths, tmp_path, caplog, capsys):
    files = lengths(a_1=90, b_1=5, c_1=5)
    asked = {"fractions": {"train": 0.5, "test": 0.5}}
    with caplog.at_level(logging.WARNING, "neurofm_shards.convert"):
        convert_inputs(files, tmp_path / "out", options(**asked))
    said = "90.0% of the samples instead of 50.0%"
    assert [said in line for line in caplog.messages] == [True]
    words = ["convert", "-i", *map(str, files), "--overlap", "0", "--split", json.dumps(asked), "--executor", "serial"]
    assert run([*words, "--dry-run"]) == 0
    assert "warning: " in (shown := " ".join(capsys.readouterr().out.split()))
    assert said in shown
    assert run([*words, "-o", str(tmp_path / "two")]) == 0
    printed = capsys.readouterr()
    assert said in " ".join(printed.err.split())
    assert "(90.0%)" in printed.out


@pytest.mark.parametrize("balanced", [True, False])
def test_named_groups_are_where_they_are_named(lengths, tmp_path, balanced):
    named = {"test": ["a"], "held out": "d"}
    split = {"fractions": {"train": 0.5, "test": 0.5}, "named": named, "balanced": balanced}
    convert_inputs(lengths(**SIX), tmp_path / "out", options("subject", **split))
    of = {subject: split for subject, _, split in content(tmp_path / "out")}
    assert (of["a"], of["d"]) == ("test", "held out")
    assert "held out" not in (of["b"], of["c"])
    if balanced:
        assert (of["b"], of["c"]) == ("train", "train")
    assert {entry.split for entry in read_manifest(tmp_path / "out").shards} == set(of.values())


def test_a_job_file_names_groups(lengths, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text('[windows.split]\nby = "subject"\n[windows.split.named]\ntest = ["b"]\n')
    words = ["convert", "-i", *map(str, lengths(**SIX)), "-o", str(tmp_path / "out"), "--config", str(job)]
    assert run([*words, "--executor", "serial"]) == 0
    assert {split for subject, _, split in content(tmp_path / "out") if subject == "b"} == {"test"}


def test_a_name_that_no_input_has_is_told(lengths, tmp_path, caplog):
    convert_inputs(lengths(**SIX), tmp_path / "out", options("subject", named={"test": ["mouse 7"]}))
    assert "no subject is called 'mouse 7' (test)" in caplog.text


def test_workers_and_parts_give_the_same_bytes(lengths, tmp_path):
    files = lengths(**SIX)
    convert_inputs(files, tmp_path / "one", options("subject"))
    convert_inputs(files, tmp_path / "two", options("subject"), workers=2, executor="threads")
    for k in (2, 1):
        plan_part(files, tmp_path / "parts", ConversionConfig.of(options("subject")), Part(k, 2))
    join_parts(tmp_path / "parts", parts=2)
    for k in (2, 1):
        run_part(tmp_path / "parts", Part(k, 2))
    commit_parts(tmp_path / "parts")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir() if path.is_file()}
    for other in ("two", "parts"):
        assert {path.name: path.read_bytes() for path in (tmp_path / other).iterdir() if path.is_file()} == expected


def test_what_is_added_moves_nothing_and_fills_up(lengths, tmp_path):
    convert_inputs(
        lengths(a_1=50, b_1=25, c_1=25), tmp_path / "out", options("subject", fractions={"x": 0.5, "y": 0.5})
    )
    before = content(tmp_path / "out")
    convert_inputs(lengths(b_2=30, e_1=30), tmp_path / "out", mode="append")
    after = content(tmp_path / "out")
    assert after.items() >= before.items()
    of = {subject: split for subject, _, split in after}
    assert len({(subject, split) for subject, _, split in after}) == 4
    assert of["e"] == of["a"]  # b's second day had to follow its first
    assert counts(tmp_path / "out") == {of["a"]: 80, of["b"]: 80}


def test_a_subject_must_be_known_when_it_is_added_too(lengths, tmp_path):
    class Nobody(Lengths):
        def open(self, paths):
            made = super().open(paths)
            made.subject_is_known = False
            return made

    convert_inputs(lengths(a_1=50, b_1=25, c_1=25), tmp_path / "out", options("subject"))
    register_source(SourceEntry(name="nobody", summary="sessions", factory=Nobody, suffixes=(".nobody",)))
    (tmp_path / "d.nobody").write_text("20")
    says = "1 of 1 sessions name no subject: d .*subject_ids=FILE=ID.*subject_template"
    with pytest.raises(ConfigError, match=says):
        convert_inputs([tmp_path / "d.nobody"], tmp_path / "out", mode="append")


def test_a_finished_data_set_is_not_split_by_subjects_that_are_unknown(lengths, tmp_path, capsys):
    class Nobody(Lengths):
        def open(self, paths):
            made = super().open(paths)
            made.subject_is_known = made.session_id.startswith("a")
            return made

    register_source(SourceEntry(name="nobody", summary="sessions", factory=Nobody, suffixes=(".nobody",)))
    for name in ("a1", "b1", "c1"):
        (tmp_path / f"{name}.nobody").write_text("20")
    files = [tmp_path / f"{name}.nobody" for name in ("a1", "b1", "c1")]
    convert_inputs(files, tmp_path / "out", {"windows": {"overlap": 0.0}})
    says = "2 of 3 sessions name no subject: b1, c1. .*subject_ids=FILE=ID or subject_template"
    with pytest.raises(ConfigError, match=says):
        split(tmp_path / "out", "subject")
    assert run(["split", str(tmp_path / "out"), "--by", "subject"]) == 2
    assert "b1, c1. Convert them with --subject-id FILE=ID or --subject-template, or" in capsys.readouterr().err
    split(tmp_path / "out", "session")
    convert_inputs(files, tmp_path / "stored", {"layout": "recordings"})
    windows = options("subject")["windows"]
    with pytest.raises(ConfigError, match="2 of 3 sessions name no subject: b1, c1. .*subject_ids=FILE=ID"):
        ShardDataset(tmp_path / "stored", windows=windows)
    with pytest.raises(ConfigError, match="2 of 3 sessions name no subject: b1 "):
        convert_inputs(tmp_path / "stored", tmp_path / "again", {"windows": windows})
    subjects = {"subject_ids": ("b1.nobody=m", "c1.nobody=n")}
    convert_inputs(files, tmp_path / "named", {"layout": "recordings", **subjects})
    assert len({s["metadata"]["split"] for s in ShardDataset(tmp_path / "named", windows=windows)}) == 3


def without_balanced(folder):
    """Make the manifest one of the first release, whose splits were by hash."""
    path = folder / "dataset_metadata.json"
    said = json.loads(path.read_text())
    del said["config"]["windows"]["split"]["balanced"]
    path.write_text(json.dumps(said))


def test_a_data_set_that_was_divided_by_hash_stays_so(lengths, tmp_path):
    more = {f"{chr(ord('a') + i)}_1": 10 for i in range(12)}
    by_hash = options(balanced=False)
    convert_inputs(lengths(**more), tmp_path / "whole", by_hash)
    first = dict(list(more.items())[:4])
    convert_inputs(lengths(**first), tmp_path / "out", by_hash)
    without_balanced(tmp_path / "out")
    convert_inputs(lengths(**first), tmp_path / "out", options(), mode="resume")
    convert_inputs(lengths(**more), tmp_path / "out", options(), mode="append")
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    with pytest.raises(ConfigError, match="balanced is True and was False"):
        convert_inputs(lengths(z_1=20), tmp_path / "out", options(balanced=True), mode="append")


def test_stored_recordings_are_divided_as_conversion_divides_them(lengths, tmp_path):
    files = lengths(**SIX)
    convert_inputs(files, tmp_path / "recordings", {"layout": "recordings"})
    for by in ("session", "subject"):
        windows = options(by, seed=3)["windows"]
        convert_inputs(files, tmp_path / by, {"windows": windows})
        stored = ShardDataset(tmp_path / "recordings", windows=windows)
        cut = ShardDataset(tmp_path / by)
        names = ("session_id", "window_start_s", "split")
        assert [[s["metadata"][k] for k in names] for s in stored] == [[s["metadata"][k] for k in names] for s in cut]
        again = ShardDataset(tmp_path / "recordings", windows=windows, split="test")
        assert {s["metadata"]["split"] for s in again} == {"test"}
