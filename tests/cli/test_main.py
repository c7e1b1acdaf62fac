"""Every command: help that costs nothing, JSON that parses, mistakes in one line, what goes to which stream."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from neurofm_shards import create_shards_from_arrays
from neurofm_shards.cli.main import COMMANDS


def run(*words, cwd=None):
    command = [sys.executable, "-m", "neurofm_shards", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "shards"
    create_shards_from_arrays(folder, {"x": np.arange(40.0).reshape(20, 2)}, shard_size=8)
    return folder


HEAVY = ("numpy", "torch", "pynwb", "h5py", "scipy", "pandas")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_imports_nothing_heavy(command):
    code = (
        "import sys; from neurofm_shards.cli.main import run\n"
        f"try: run([{command!r}, '--help'])\n"
        "except SystemExit as left: assert left.code == 0, left.code\n"
        f"sys.stderr.write(','.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("usage:")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert", "-i", "x", "--bin-size-ms", "many"], "--bin-size-ms"),
        (
            ["convert", "--ovrwrite", "--apend", "3"],
            "unrecognized arguments: --ovrwrite (did you mean '--overwrite'?) --apend (did you mean '--append'?) 3;",
        ),
        (["convert", "--nonsense", "3"], "unrecognized arguments: --nonsense 3; see 'neurofm-shards convert --help'"),
        (["info"], "the following arguments are required: path"),
        (["info", "absent"], "there is no folder absent"),
        (["validate", "absent"], "there is no folder absent"),
        (["index", "absent"], "there is no folder absent"),
        (["inspect", "absent.nwb"], "absent.nwb does not exist"),
    ],
)
def test_mistakes_are_one_line_on_stderr_and_exit_code_2(tmp_path, words, message):
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize("command", ["validate", "index", "info"])
def test_a_folder_without_shards_is_no_data_set(tmp_path, command):
    (tmp_path / "notes.txt").write_text("nothing here")
    done = run(command, tmp_path)
    assert done.returncode == 2
    assert f"No shards found in {tmp_path} matching" in done.stderr


@pytest.mark.parametrize("words", [["info"], ["validate"], ["index"], ["repair"]])
def test_json_is_one_document_and_nothing_else(shards, words):
    done = run(*words, shards, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    assert done.stderr == ""


def test_json_holds_the_verdict_of_a_conversion_that_is_validated(tmp_path):
    (tmp_path / "plug.py").write_text(
        "import numpy as np\n"
        "from neurofm_shards import hookimpl\n"
        "from neurofm_shards.plugins.entries import SourceEntry\n"
        "from neurofm_shards.plugins.interfaces import SampleSequence, Source\n"
        "from neurofm_shards.types import ColumnSpec, SourcePlan\n"
        "class Ones(SampleSequence):\n"
        "    def plan(self): return SourcePlan(3, (ColumnSpec('x', '<f8', (2,)),), 'ones')\n"
        "    def sample(self, i): return {'x': np.ones(2)}, {}\n"
        "class OnesSource(Source):\n"
        "    def open(self, paths): return Ones()\n"
        "@hookimpl\n"
        "def neurofm_register_sources():\n"
        "    return [SourceEntry(name='ones', summary='ones', factory=OnesSource, suffixes=('.ones',))]\n"
    )
    (tmp_path / "a.ones").touch()
    words = ["convert", "--plugin", "plug.py", "-i", "a.ones", "-o", "out", "--validate"]
    done = run(*words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["validation"]["ok"] is True
    told = run(*words, "--overwrite", cwd=tmp_path)
    assert "3 samples in 1 shard (" in told.stdout
    assert "whole and readable" in told.stdout


def test_findings_are_exit_code_1(shards, tmp_path):
    broken = shutil.copytree(shards, tmp_path / "broken")
    with (broken / "shard_000001.tar").open("r+b") as file:
        file.seek(600)
        file.write(b"\xff\xff")
    done = run("validate", broken)
    assert done.returncode == 1
    assert "NOT WHOLE" in done.stdout
    report = run("validate", broken, "--json")
    assert json.loads(report.stdout)["ok"] is False
    assert report.returncode == 1
