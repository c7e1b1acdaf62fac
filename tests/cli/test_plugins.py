"""Commands that plugins add behave like those of the program."""

from __future__ import annotations

import subprocess
import sys

import pytest

from neurofm_shards.cli import main

PLUGIN = """
import sys
from neurofm_shards import hookimpl
from neurofm_shards.errors import NoShardsError
from neurofm_shards.plugins.entries import CommandEntry
from neurofm_shards.plugins.interfaces import Command

class Count(Command):
    def add_arguments(self, parser):
        parser.add_argument("path")

    def run(self, args):
        if args.path == "none":
            raise NoShardsError("none: no shards")
        print("counting", args.path)
        return 1

@hookimpl
def neurofm_register_commands():
    return CommandEntry(name="count", summary="count samples", factory=Count)
"""


@pytest.fixture
def run(tmp_path):
    plugin = tmp_path / "count.py"
    plugin.write_text(PLUGIN)

    def call(*words):
        command = [
            sys.executable,
            "-m",
            "neurofm_shards",
            *(str(plugin) if word == "PLUGIN" else word for word in words),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return call


def test_it_runs_before_or_behind_the_global_options(run):
    assert run("--plugin", "PLUGIN", "count", "here") == (1, "counting here\n", "")
    assert run("count", "here", "--plugin", "PLUGIN") == (1, "counting here\n", "")


def test_its_errors_and_usage_are_those_of_the_program(run):
    assert run("--plugin", "PLUGIN", "count", "none") == (2, "", "error: none: no shards\n")
    code, _, said = run("--plugin", "PLUGIN", "count")
    assert (code, said) == (2, "error: the following arguments are required: path; see 'neurofm-shards count --help'\n")


def test_help_lists_it(run):
    code, said, _ = run("--plugin", "PLUGIN", "--help")
    assert code == 0
    assert "count samples" in said


def test_an_unknown_command_says_what_comes_close_and_what_to_install(run):
    code, _, said = run("--plugin", "PLUGIN", "cuont")
    assert code == 3
    assert "no command named 'cuont' is installed; did you mean 'count'?" in said
    code, _, said = run("--no-plugins", "report")
    assert code == 3
    assert "install it with: pip install 'neurofm-shards[report]'" in said


def test_show_says_which_name_was_meant(capsys):
    assert main.run(["plugins", "show", "pyq"]) == 3
    assert "no plugin named 'pyq' is installed (did you mean 'pyd'?);" in " ".join(capsys.readouterr().err.split())
