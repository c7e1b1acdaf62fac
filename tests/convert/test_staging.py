"""Workers that share no folder write on their own disks, and two machines that share only the output write parts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.parts import Part, commit_parts, plan_parts, run_part
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.convert.work import run_task
from neurofm_shards.errors import WorkerError

OPTIONS = {"shard_size": 4, "compression": "gz", "transforms": [{"kind": "drop-below", "row": 6}]}


@pytest.fixture
def paths(toys):
    return toys(a={"n": 9}, b={"n": 13})


@pytest.mark.parametrize("executor", ["serial", "threads", "processes"])
@pytest.mark.parametrize("durable", [False, True])
def test_shards_that_are_handed_back_are_the_same(paths, toy, tmp_path, tree, executor, durable, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "local"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "local").mkdir()
    convert_inputs(paths, tmp_path / "whole", OPTIONS)
    config = {**OPTIONS, "durable": durable}
    workers = 1 if executor == "serial" else 2
    convert_inputs(paths, tmp_path / "out", config, staging="local", executor=executor, workers=workers)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert not list((tmp_path / "local").glob("neurofm-shards-*"))


def test_parts_may_hand_back_too(paths, toy, tmp_path, tree):
    convert_inputs(paths, tmp_path / "whole", OPTIONS)
    plan_parts(paths, tmp_path / "out", ConversionConfig.of(OPTIONS), parts=2)
    for k in (1, 2):
        run_part(tmp_path / "out", Part(k, 2), staging="local", workers=2)
    commit_parts(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_worker_that_does_not_see_the_folder_says_so(paths, toy, tmp_path, monkeypatch):
    from neurofm_shards.convert import shard_run

    def elsewhere(config, columns, staging, mode):
        return spec(config, columns, staging / "not-mounted", mode)

    spec = shard_run.job_spec
    monkeypatch.setattr(shard_run, "job_spec", elsewhere)
    with pytest.raises(WorkerError, match="does not see .*not-mounted.*staging='local'"):
        convert_inputs(paths, tmp_path / "out", OPTIONS)
    assert run_task is shard_run.run_task


def has_namespaces():
    if shutil.which("unshare") is None or os.geteuid() != 0:
        return False
    tried = subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True, check=False)
    return tried.returncode == 0


#: A host: its own name, its own /tmp with its own copy of the inputs; the output folder is all it shares.
HOST = """
set -eu
hostname "$1"; shift
mkdir -p "$SHARE.seen"; mount --bind "$SHARE" "$SHARE.seen"
mount -t tmpfs none "$PRIVATE"
cp -a "$INPUTS/." "$PRIVATE/"
"$@"
"""


@pytest.mark.skipif(not has_namespaces(), reason="namespaces need root on Linux")
def test_two_hosts_that_share_only_the_output_folder(paths, toy, tmp_path, tree):
    for name in ("share", "private"):
        (tmp_path / name).mkdir()
    inputs = [str(tmp_path / "private" / Path(path).name) for path in paths]
    convert_inputs(paths, tmp_path / "whole", OPTIONS)

    def on(host, *words):
        environment = {
            **os.environ,
            "SHARE": str(tmp_path / "share"),
            "PRIVATE": str(tmp_path / "private"),
            "INPUTS": str(Path(paths[0]).parent),
        }
        program = [sys.executable, "-m", "neurofm_shards", *map(str, words), "--plugin", toy.__file__]
        done = subprocess.run(
            ["unshare", "--mount", "--uts", "sh", "-c", HOST, "sh", host, *program],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    out = tmp_path / "share/out"
    transform = ["--shard-size", 4, "--compression", "gz", "--transform", '{"kind": "drop-below", "row": 6}']
    on("alpha", "convert", "-i", *inputs, "-o", out, "--plan-only", "--parts", 2, *transform)
    on("beta", "convert", "-o", out, "--part", "2/2")
    on("gamma", "convert", "-o", out, "--part", "1/2", "-w", 2)
    seen = on("alpha", "status", out, "--json")
    assert '"beta"' in seen
    assert '"gamma"' in seen
    on("beta", "convert", "-o", out, "--commit")
    assert tree(out) == tree(tmp_path / "whole")
