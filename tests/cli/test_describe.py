"""``inspect``, ``info`` and ``plugins list`` fit a narrow terminal and a poor one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from neurofm_shards import create_shards_from_arrays
from neurofm_shards.cli import main
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.parts import Part, commit_parts, plan_parts, run_part

PLUGIN = """
import numpy as np
from neurofm_shards import hookimpl
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import Source
from neurofm_shards.recordings import InMemoryRecording
from neurofm_shards.recordings.memory import events, regular

class Made(Source):
    def open(self, paths):
        return InMemoryRecording(
            [
                events("units", {str(i): np.cumsum([0.731, 1.213, 0.377, 2.119]) + i * 0.1 for i in range(3)}),
                *(regular(f"lfp{i}", np.zeros((900, 2)), 100.0, unit="V") for i in range(5)),
            ],
            source_file="a.made",
        )

@hookimpl
def neurofm_register_sources():
    return SourceEntry(name="made", summary="a recording " * 12, factory=Made, suffixes=(".made",))
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    (tmp_path / "a.made").write_text("")

    def call(*words, columns="80", encoding="utf-8"):
        done = subprocess.run(
            [sys.executable, "-m", "neurofm_shards", *words, "--plugin", "plugin.py"], capture_output=True, check=False,
            cwd=tmp_path, env={**os.environ, "COLUMNS": columns, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.decode(encoding)

    return call


def test_inspect_has_a_row_per_kind_of_stream_and_a_strip_per_modality(run):
    said = run("inspect", "a.made").splitlines()
    assert [line.split()[:3] for line in said if line.startswith(("units", "5 alike"))] == [
        ["units", "spikes", "3"],
        ["5", "alike:", "lfp0"],
    ]
    assert {line.split("|")[0].strip() for line in said if line.rstrip().endswith("|")} == {"spikes", "lfp"}


@pytest.mark.plugins
def test_inspect_goes_on_behind_inputs_that_nothing_reads(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)))
    (tmp_path / "notes.txt").write_text("no recording")
    assert main.run(["inspect", *(str(tmp_path / name) for name in ("notes.txt", "absent.npz", "a.npz"))]) == 1
    said = capsys.readouterr().out.replace("\n", " ")
    assert [name in said for name in ("no installed source reads", "absent.npz", "3 samples")] == [True] * 3


def test_inspect_tells_everything_when_asked(run):
    assert "lfp3" not in run("inspect", "a.made")
    assert "lfp3" in run("inspect", "a.made", "--all")
    assert len(json.loads(run("inspect", "a.made", "--json"))[0]["tree"]["lfp"]) == 5


def test_a_terminal_without_block_characters_gets_none(run):
    assert "#" in run("inspect", "a.made", encoding="ascii")


def test_plugins_are_listed_by_kind_and_lines_break_between_words(run):
    said = run("plugins", "list")
    assert [line for line in said.splitlines() if line and not line.startswith(" ")] == [
        f"{kind}s"
        for kind in ("source", "codec", "compression", "transform", "executor", "command")
        if f"\n{kind}s" in f"\n{said}"
    ]
    assert set(said.split()) >= {"a", "recording", "made", "plugin.py"}


def test_info_tells_sessions_and_splits(run, tmp_path):
    create_shards_from_arrays(tmp_path / "shards", {"x": np.zeros((5, 3), "u1")})
    said = run("info", "shards")
    assert "uint8" in said
    assert json.loads(run("info", "shards", "--json"))["sessions"] == []


def test_an_error_is_json_where_json_was_asked_for(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "neurofm_shards", "info", str(tmp_path / "nowhere"), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    found = json.loads(done.stdout)
    assert found["exit_code"] == 2
    assert done.stderr == f"error: {found['error']}\n"


def test_a_misspelt_option_is_answered_with_the_closest(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "neurofm_shards", "convert", "--ouput", "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "did you mean '--output'?" in done.stderr


CONFIG = ConversionConfig.of({"shard_size": 2})


@pytest.fixture
def planned(toys, toy, tmp_path):
    plan_parts(toys(a={"n": 6}, b={"n": 6}), tmp_path / "out", CONFIG, parts=3)
    return tmp_path / "out"


def shown(capsys, *words):
    code = main.run(["status", *map(str, words)])
    return code, capsys.readouterr().out


def test_words_say_what_is_done_and_what_is_left(planned, capsys):
    run_part(planned, Part(2, 3))
    code, said = shown(capsys, planned)
    assert code == 0
    assert "unfinished, 2 of 6 shards (4 samples" in said
    assert [line.split()[:3] for line in said.splitlines() if "/3" in line] == [
        ["1/3", "waiting", "0/2"],
        ["2/3", "finished", "2/2"],
        ["3/3", "waiting", "0/2"],
    ]


def test_json_is_one_document(planned, capsys):
    run_part(planned, Part(1, 3))
    _, said = shown(capsys, planned, "--json")
    status = json.loads(said)
    assert (status["state"], status["finished_shards"], status["total_shards"]) == ("unfinished", 2, 6)
    assert [part["state"] for part in status["parts"]] == ["finished", "waiting", "waiting"]


def test_a_folder_without_a_conversion_says_so(tmp_path, capsys):
    assert shown(capsys, tmp_path) == (0, f"{tmp_path}: no conversion was begun here\n")
    assert main.run(["status", str(tmp_path / "absent")]) == 2


def test_watching_ends_with_the_conversion(planned, capsys):
    def finish():
        for k in (1, 2, 3):
            run_part(planned, Part(k, 3))
        commit_parts(planned)

    thread = threading.Thread(target=finish)
    thread.start()
    code, said = shown(capsys, planned, "--watch", "--every", "0.1")
    thread.join()
    assert code == 0
    assert said.splitlines()[-1].startswith(f"{planned}: finished, 6 of 6 shards (12 samples")


@pytest.mark.plugins
def test_inspect_takes_the_options_of_the_sources_that_its_inputs_need(tmp_path, capsys):
    pytest.importorskip("neurofm_shards_npz")
    t = np.arange(0, 20, 0.01)
    np.savez(tmp_path / "a.npz", pos=np.sin(t), t=t)
    path = str(tmp_path / "a.npz")
    assert main.run(["inspect", path]) == 1
    assert "--timestamps t" in " ".join(capsys.readouterr().out.split())  # in the words of the command line
    assert main.run(["inspect", path, "--timestamps", "t", "--json"]) == 0
    assert "pos" in json.loads(capsys.readouterr().out)[0]["tree"]["behavior"]


@pytest.mark.plugins
@pytest.mark.parametrize("reader", ["pynwb", "h5py"])
def test_inspect_reads_with_the_reader_that_is_asked_for(tmp_path, monkeypatch, reader):
    demo = pytest.importorskip("neurofm_shards_nwb.demo")
    source = pytest.importorskip("neurofm_shards_nwb.source")
    demo.write_demo_session(tmp_path / "a.nwb", seconds=15.0)
    asked, opened = [], source.open_file
    monkeypatch.setattr(source, "open_file", lambda path, how, *rest: (asked.append(how), opened(path, how, *rest))[1])
    assert main.run(["inspect", str(tmp_path / "a.nwb"), "--reader", reader]) == 0
    assert asked == [reader]
