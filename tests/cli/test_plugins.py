"""Commands that plugins add behave like those of the program."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from neurofm_shards.cli import main
from neurofm_shards.cli.plugins import KINDS, new_plugin
from neurofm_shards.errors import ConfigError, OutputExistsError

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


def install(folder, site):
    """Do what pip does, without a network: put the package where Python finds it, with its entry point."""
    (package,) = (folder / "src").iterdir()
    package.rename(site / package.name)
    points = (folder / "pyproject.toml").read_text().partition('[project.entry-points."neurofm_shards.v1"]\n')[2]
    module, _, target = points.splitlines()[0].partition(" = ")
    info = site / f"{package.name}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {folder.name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[neurofm_shards.v1]\n{module} = {target.strip(chr(34))}\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One plugin of each kind, installed."""
    place, site = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("site")
    for kind in KINDS:
        install(new_plugin(kind, f"my-{kind}", place), site)
    return place, site


def run_in(site, *words):
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, check=False, cwd=site,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass(kind, made):
    place, site = made
    folder = place / f"neurofm-shards-my-{kind}"
    done = run_in(
        site, "pytest", "-q", "-p", "no:cacheprovider", "-c", str(folder / "pyproject.toml"), str(folder / "tests")
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_they_pass_strict_type_checks(tmp_path):
    pytest.importorskip("mypy")
    folders = [new_plugin(kind, f"my-{kind}", tmp_path) for kind in KINDS]
    places = [str(folder / part) for folder in folders for part in ("src", "tests")]
    done = run_in(tmp_path, "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *places)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_readme_says_how_it_is_used(kind, tmp_path):
    readme = (new_plugin(kind, f"my-{kind}", tmp_path) / "README.md").read_text()
    assert f"The {kind} `my-{kind}` for neurofm-shards: " in readme
    assert f"my-{kind}" in readme.partition("Use it:")[2]
    assert "@" not in readme


def test_all_are_found(made):
    done = run_in(made[1], "neurofm_shards", "plugins", "list")
    assert done.returncode == 0, done.stderr
    assert all(f"my-{kind}" in done.stdout for kind in KINDS)


def test_a_name_that_cannot_be_one_is_refused(tmp_path):
    for name in ("My", "1st", "a_b", "a--b", "class", ""):
        with pytest.raises(ConfigError, match="cannot be a plugin's name"):
            new_plugin("codec", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [("source", "npz"), ("codec", "nwb"), ("codec", "pyd"), ("executor", "slurm"), ("command", "convert")],
)
def test_a_name_that_is_taken_is_refused(kind, name, tmp_path):
    with pytest.raises(ConfigError, match=f"'{name}' is the name of another {kind}, or of a distribution of ours"):
        new_plugin(kind, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    new_plugin("codec", "mine", tmp_path)
    with pytest.raises(OutputExistsError, match="exists already"):
        new_plugin("codec", "mine", tmp_path)
