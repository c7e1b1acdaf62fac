"""Names from files are shown, and steer no terminal."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from neurofm_shards import create_shards_from_arrays
from neurofm_shards.cli.main import run
from neurofm_shards.errors import visible

ESCAPE = "\x1b]0;mine\x07\x1b[2J\x9b31m\u202e"


def controls(text):
    return [character for character in text if not character.isprintable() and character not in "\n\t"]


@pytest.fixture
def folder(tmp_path):
    """A data set in whose manifest every text is one that a terminal would obey."""
    rows = {"subject_id": ESCAPE, "session_id": ESCAPE}
    create_shards_from_arrays(
        tmp_path / "data", {"x": np.arange(12.0).reshape(6, 2)}, 2, rows, sample_ids=[f"{ESCAPE}{i}" for i in range(6)]
    )
    path = tmp_path / "data/dataset_metadata.json"
    manifest = json.loads(path.read_bytes())
    manifest["columns"][0]["unit"] = ESCAPE
    manifest["sources"] = [{"files": [ESCAPE], "session_id": ESCAPE, "fingerprint": "1", "problems": [], "tables": {}}]
    manifest["failures"] = [{"files": [ESCAPE], "format": ESCAPE, "error": ESCAPE, "rows": None}]
    path.write_text(json.dumps(manifest))
    return tmp_path / "data"


COMMANDS = {
    "info": ["info"],
    "info --json": ["info", "--json"],
    "validate": ["validate"],
    "validate --json": ["validate", "--json"],
    "repair": ["repair"],
    "drop": ["drop", "--where", "sample_idx_in_shard == 0"],
    "drop --json": ["drop", "--where", "sample_idx_in_shard == 0", "--json"],
    "drop, unknown": ["drop", "--where", "nothing == 0"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_what_a_terminal_would_obey(folder, capsys, command):
    shard = folder / "shard_000001.tar"
    raw = bytearray(shard.read_bytes())
    raw[600] ^= 1
    if not command.startswith("drop"):
        shard.write_bytes(raw)
    name, *options = COMMANDS[command]
    run([name, str(folder), *options])
    printed = capsys.readouterr()
    assert printed.out or printed.err
    assert controls(printed.out) == []
    assert controls(printed.err) == []
    if "--json" in options:
        json.loads(printed.out)


@pytest.mark.plugins
@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_names_in_inputs_are_shown(tmp_path, capsys, command):
    path = tmp_path / "in.npz"
    np.savez(path, **{f"x{ESCAPE}": np.zeros((3, 2)), f"y{ESCAPE}": np.zeros((4, 2))})
    words = {"inspect": ["inspect", str(path)], "convert": ["convert", "-i", str(path), "-o", str(tmp_path / "out")]}
    run(words[command])
    printed = capsys.readouterr()
    assert printed.out or printed.err
    assert controls(printed.out + printed.err) == []


def test_texts_without_control_characters_stay_as_they_are():
    text = "größe μV — 日本語\n\tlist"
    assert visible(text) == text
    assert visible("a\x1bb\x85") == "a\\u001bb\\u0085"


@pytest.mark.plugins
def test_pipes_among_inputs_are_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "in.npz")
    for named in (tmp_path, tmp_path / "in.npz"):
        assert run(["convert", "-i", str(named), "-o", str(tmp_path / "out")]) == 1
        assert "no regular file" in capsys.readouterr().err
