"""Every way to run a conversion gives the bytes of one worker, as one table; engines that are absent are skipped."""

from __future__ import annotations

import importlib.util
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.plugins

MPIEXEC = shutil.which("mpiexec") or shutil.which("mpiexec", path=str(Path(sys.executable).parent))
SLURM = ["-w", "2", "--executor", "slurm", "-x", "partition=cpu"]
#: Words of the command line; what must be importable and, in the path, executable.
ENGINES = {
    "threads": (["-w", "3", "--executor", "threads"], "neurofm_shards", "true"),
    "processes": (["-w", "3"], "neurofm_shards", "true"),
    "processes that share no folder": (["-w", "3", "--staging", "local"], "neurofm_shards", "true"),
    "slurm": (SLURM, "submitit", "sbatch"),
    "dask": (["-w", "2", "--executor", "dask"], "distributed", "true"),
    "ray": (["-w", "2", "--executor", "ray"], "ray", "true"),
    "mpi": (["--executor", "mpi"], "mpi4py", MPIEXEC or "mpiexec"),
}


@pytest.fixture
def program(toys, toy, tmp_path):
    """Run ``convert`` with the inputs of this module."""
    paths = toys(a={"n": 9}, b={"n": 5, "units": 2}, c={"n": 13})
    options = ["--shard-size", "4", "--compression", "gz", "--transform", "drop-odd"]

    def run(output, *words, launcher=(sys.executable,), planned=False):
        given = [] if planned else ["-i", *paths, *options]
        command = [*launcher, "-m", "neurofm_shards", "convert", "-o", str(tmp_path / output), "--plugin", toy.__file__]
        done = subprocess.run([*command, *given, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return tmp_path / output

    return run


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_bytes_of_one_worker(program, tree, engine):
    words, module, executable = ENGINES[engine]
    if importlib.util.find_spec(module) is None or shutil.which(executable) is None:
        pytest.skip(f"{module} or {executable} is not installed")
    launcher = [MPIEXEC, "-n", "3", sys.executable, "-m", "mpi4py.futures"] if engine == "mpi" else [sys.executable]
    assert tree(program("out", *words, launcher=launcher)) == tree(program("whole"))


def test_parts_in_random_order_give_the_bytes_of_one_worker(program, tree):
    program("out", "--plan-only", "--parts", "4")
    order = [1, 2, 3, 4]
    random.Random(5).shuffle(order)  # noqa: S311
    for k in order:
        program("out", "--part", f"{k}/4", planned=True)
    assert tree(program("out", "--commit", planned=True)) == tree(program("whole"))
