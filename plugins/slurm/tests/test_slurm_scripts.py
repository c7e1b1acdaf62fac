"""The job scripts of the documentation on a real Slurm: arrays, jobs that are cancelled and requeued, training."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import free_ports

from neurofm_shards import create_shards_from_arrays

SCRIPTS = Path(__file__).parents[3] / "docs/examples/slurm"
TOY = Path(__file__).with_name("slow_source.py")
OPTIONS = ["--shard-size", "2", "--plugin", str(TOY)]


@pytest.fixture
def job(in_slurm, tmp_path):
    """Submit a script of the documentation; wait for its end."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def submit(script, *words, wait=True, **variables):
        exported = ",".join(["ALL", *(f"{name}={value}" for name, value in variables.items())])
        said = subprocess.run(
            ["sbatch", "--parsable", f"--export={exported}", "--output=%x-%A-%a.log", *words, str(SCRIPTS / script)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        number = said.stdout.strip()
        if wait:
            in_slurm.wait_for(lambda: in_slurm.has_ended(number), f"job {number} does not end", seconds=300)
        return number

    return submit


def program(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "neurofm_shards", *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def logs(folder):
    return "\n".join(f"{path.name}: {path.read_text()}" for path in sorted(folder.glob("*.log")))


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def whole(tmp_path):
    """What one worker makes."""
    (tmp_path / "in").mkdir()
    for i in range(4):
        (tmp_path / "in" / f"s{i}.slow").write_text(str(10 + i))
    program("convert", "-i", "in", "-o", "whole", *OPTIONS, cwd=tmp_path)
    return tree(tmp_path / "whole")


def test_an_array_with_a_cancelled_and_a_requeued_job_gives_the_bytes_of_one_worker(in_slurm, job, whole, tmp_path):
    program("convert", "-i", "in", "-o", "out", "--plan-only", "--parts", 4, *OPTIONS, cwd=tmp_path)
    variables = {"OUT": tmp_path / "out", "NEUROFM_SHARDS_PLUGIN_FILES": TOY}
    number = job("convert.sh", "--array=1-4", wait=False, **variables)
    in_slurm.wait_for(lambda: len(list((tmp_path / "out").glob("*.tar"))) >= 2, f"nothing is written: {logs(tmp_path)}")
    in_slurm.call("scancel", f"{number}_2")
    in_slurm.requeue(f"{number}_3")
    in_slurm.wait_for(lambda: in_slurm.has_ended(number), "the array does not end", seconds=300)
    assert not (tmp_path / "out/dataset_metadata.json").exists()
    refused = subprocess.run(
        [sys.executable, "-m", "neurofm_shards", "convert", "-o", "out", "--commit", "--plugin", str(TOY)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2, logs(tmp_path)
    parts = re.search(r"of parts? ([\d,-]+) of 4", refused.stderr)
    assert parts is not None, refused.stderr
    assert "2" in parts[1], (refused.stderr, logs(tmp_path))
    job("convert.sh", f"--array={parts[1]}", **variables)
    assert "unfinished" in program("status", "out", cwd=tmp_path)
    job("commit.sh", **variables)
    assert tree(tmp_path / "out") == whole, logs(tmp_path)


def test_an_array_plans_and_another_writes(job, whole, tmp_path):
    variables = {"OUT": tmp_path / "out", "INPUTS": tmp_path / "in", "NEUROFM_SHARDS_PLUGIN_FILES": TOY}
    job("plan.sh", "--array=1-3", OPTIONS="--shard-size 2", **variables)
    program("convert", "-o", "out", "--plan-only", "--parts", 2, "--plugin", TOY, cwd=tmp_path)
    first = job("convert.sh", "--array=1-2", wait=False, **variables)
    job("commit.sh", f"--dependency=afterok:{first}", **variables)
    assert tree(tmp_path / "out") == whole, logs(tmp_path)


def test_ranks_of_srun_are_parts(in_slurm, whole, tmp_path):
    program("convert", "-i", "in", "-o", "out", "--plan-only", "--parts", 3, *OPTIONS, cwd=tmp_path)
    words = [sys.executable, "-m", "neurofm_shards", "convert", "-o", "out", "--part", "auto", "--plugin", TOY]
    in_slurm.call("srun", "-n3", *words, cwd=tmp_path)
    program("convert", "-o", "out", "--commit", "--plugin", TOY, cwd=tmp_path)
    assert tree(tmp_path / "out") == whole


@pytest.mark.parametrize("script", ["train_srun.sh", "train_torchrun.sh"])
def test_training_goes_on_after_a_preemption(in_slurm, job, tmp_path, script):
    import numpy as np

    create_shards_from_arrays(tmp_path / "shards", {"x": np.arange(400.0)[:, None]}, shard_size=50)
    variables = {
        "SHARDS": tmp_path / "shards",
        "TRAIN": SCRIPTS / "train.py",
        "TRAIN_MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_ports(1)[0],
        "GPUS": 1,
        "STEPS": 120,
        "OMP_NUM_THREADS": 1,
    }
    words = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"]
    job(script, *words, CHECKPOINT=tmp_path / "calm.json", **variables)
    calm = steps_of(tmp_path)
    assert sorted(calm) == list(range(1, 121)), logs(tmp_path)
    for log in tmp_path.glob("*.log"):
        log.unlink()
    number = job(script, *words, wait=False, CHECKPOINT=tmp_path / "preempted.json", **variables)
    in_slurm.wait_for(
        lambda: done_steps(tmp_path / "preempted.json") >= 5, f"training does not begin: {logs(tmp_path)}"
    )
    in_slurm.requeue(number)
    in_slurm.wait_for(lambda: in_slurm.has_ended(number), "training does not end", seconds=300)
    assert steps_of(tmp_path) == calm, logs(tmp_path)


def steps_of(folder):
    """What was printed of each step, in all logs."""
    found = {}
    for line in logs(folder).splitlines():
        said = re.search(r"step (\d+): (\S+)$", line)
        if said is not None:
            assert found.setdefault(int(said[1]), said[2]) == said[2], "a step was done again with other samples"
    return found


def done_steps(path):
    try:
        return json.loads(path.read_text())["step"]
    except FileNotFoundError:
        time.sleep(0.1)
        return 0
