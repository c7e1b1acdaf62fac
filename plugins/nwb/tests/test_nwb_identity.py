"""Who and what a recording is, and what the plugin costs before a file is opened."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import time

import h5py
import pytest

from neurofm_shards.plugins.registry import registry
from neurofm_shards_nwb.source import NwbSource


def trial(nwbfile):
    nwbfile.add_trial(start_time=0.0, stop_time=1.0)


def with_subject(nwbfile):
    from pynwb.file import Subject

    trial(nwbfile)
    nwbfile.subject = Subject(subject_id="mouse.1/a", species="Mus musculus", sex="F")


@pytest.mark.parametrize(
    ("fill", "facts", "session", "subject"),
    [
        (with_subject, {}, "s1", "mouse.1/a"),
        (trial, {}, "s1", "synthetic-1"),
        (trial, {"session_id": None}, "synthetic-1", "synthetic-1"),
        (trial, {"session_id": " ", "identifier": " "}, "synthetic", "synthetic"),
    ],
)
def test_ids_fall_back_to_the_identifier_and_then_to_the_file_name(write_nwb, fill, facts, session, subject):
    with NwbSource().open((str(write_nwb(fill, **facts)),)) as recording:
        assert (recording.session_id, recording.subject_id) == (session, subject)
        noted = [problem.where for problem in recording.problems if "is used instead" in problem.consequence]
        assert len(noted) == (session != "s1") + (subject != "mouse.1/a")


def test_facts_are_those_of_the_file(write_nwb):
    with NwbSource().open((str(write_nwb(with_subject)),)) as recording:
        assert recording.facts["species"] == "Mus musculus"
        assert recording.facts["session_start_time"].startswith("2026-01-01T00:00:00")
        assert recording.facts["nwb_version"].startswith("2.")
        assert recording.source_file == "synthetic.nwb"


@pytest.fixture
def in_tokyo(monkeypatch):
    """Let the machine's clock be nine hours ahead."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
def test_a_start_time_without_a_zone_is_not_given_that_of_the_machine(write_nwb):
    path = write_nwb(trial)
    with h5py.File(path, "r+") as file:
        del file["session_start_time"]
        file["session_start_time"] = "2020-01-01T12:00:00"
    with NwbSource().open((str(path),)) as recording:
        assert recording.facts["session_start_time"] == "2020-01-01T12:00:00"


def test_the_fingerprint_is_that_of_the_content(write_nwb, tmp_path):
    path = write_nwb(trial)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    copy = shutil.copy(path, folder)
    os.utime(copy, (0, 0))
    changed = write_nwb(with_subject)

    def mark(file):
        with NwbSource().open((str(file),)) as recording:
            return recording.fingerprint

    first = mark(copy)
    assert first == mark(copy)
    assert first != mark(changed)


def test_the_registry_makes_the_source_and_it_survives_pickling():
    source = registry().sources.make({"kind": "nwb"})
    assert isinstance(pickle.loads(pickle.dumps(source)), NwbSource)  # our own bytes
    assert registry().sources.get("nwb").entry.suffixes == (".nwb", ".nwb.zarr")


def test_making_the_source_imports_neither_pynwb_nor_h5py():
    code = (
        "import sys; from neurofm_shards.plugins.registry import registry; registry().sources.make('nwb');"
        "print([name for name in ('pynwb', 'h5py', 'hdmf', 'scipy', 'torch') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
