"""A plugin that ``plugins new`` wrote is found, and keeps its contract as it is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from neurofm_shards.cli.scaffold import KINDS, new_plugin
from neurofm_shards.errors import ConfigError, OutputExistsError


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


def run(site, *words):
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, check=False, cwd=site,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass(kind, made):
    place, site = made
    folder = place / f"neurofm-shards-my-{kind}"
    done = run(
        site, "pytest", "-q", "-p", "no:cacheprovider", "-c", str(folder / "pyproject.toml"), str(folder / "tests")
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_they_pass_strict_type_checks(tmp_path):
    pytest.importorskip("mypy")
    folders = [new_plugin(kind, f"my-{kind}", tmp_path) for kind in KINDS]
    places = [str(folder / part) for folder in folders for part in ("src", "tests")]
    done = run(tmp_path, "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *places)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_readme_says_how_it_is_used(kind, tmp_path):
    readme = (new_plugin(kind, f"my-{kind}", tmp_path) / "README.md").read_text()
    assert f"The {kind} `my-{kind}` for neurofm-shards: " in readme
    assert f"my-{kind}" in readme.partition("Use it:")[2]
    assert "@" not in readme


def test_all_are_found(made):
    done = run(made[1], "neurofm_shards", "plugins", "list")
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
