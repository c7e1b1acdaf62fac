"""A Slurm for the tests, where its packages can be had."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from slurm_cluster import Cluster, unpacked


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A cluster of two nodes on this machine."""
    packages = unpacked()
    if packages is None:
        pytest.skip("Slurm's packages cannot be had: Debian and root are needed")
    with Cluster(packages, tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def in_slurm(slurm, monkeypatch, tmp_path_factory):
    """Commands of the cluster are found, and the program runs in a folder of its own."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
    return slurm
