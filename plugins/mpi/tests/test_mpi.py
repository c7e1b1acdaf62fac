"""Conversions under mpiexec: the bytes of one worker, the contract of executors, and parts by rank."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from neurofm_shards.plugins.registry import registry

TOY = Path(__file__).with_name("toy_source.py")
MPIEXEC = shutil.which("mpiexec") or shutil.which("mpiexec", path=str(Path(sys.executable).parent))
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec")


def mpiexec(processes, *words, cwd=None):
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(
        [MPIEXEC, "-n", str(processes), sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def whole(tmp_path):
    """What one worker makes."""
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"s{i}.numbers").write_text(str(20 + i))
    subprocess.run([sys.executable, "-m", "neurofm_shards", *words("whole")], cwd=tmp_path, check=True)
    return tree(tmp_path / "whole")


def words(output):
    return ["convert", "-i", "in", "-o", output, "--shard-size", "6", "--plugin", str(TOY)]


def test_listing_imports_no_mpi():
    assert registry().executors.get("mpi").distribution == "neurofm-shards-mpi"
    assert "mpi4py.MPI" not in sys.modules


def test_the_processes_of_the_launcher_write_the_bytes_of_one_worker(whole, tmp_path):
    mpiexec(3, "-m", "mpi4py.futures", "-m", "neurofm_shards", *words("many"), "--executor", "mpi", cwd=tmp_path)
    assert tree(tmp_path / "many") == whole


def test_the_contract_of_executors_is_kept():
    suite = Path(__file__).with_name("suite_under_mpi.py")
    said = mpiexec(
        3, "-m", "mpi4py.futures", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", suite
    )
    assert " passed" in said
    assert "failed" not in said


def test_ranks_are_parts_without_any_executor(whole, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "neurofm_shards", *words("parts"), "--plan-only", "--parts", "3"],
        cwd=tmp_path,
        check=True,
    )
    plugin = ["--plugin", str(TOY)]
    mpiexec(3, "-m", "neurofm_shards", "convert", "-o", "parts", "--part", "auto", *plugin, cwd=tmp_path)
    subprocess.run(
        [sys.executable, "-m", "neurofm_shards", "convert", "-o", "parts", "--commit", *plugin],
        cwd=tmp_path,
        check=True,
    )
    assert tree(tmp_path / "parts") == whole
