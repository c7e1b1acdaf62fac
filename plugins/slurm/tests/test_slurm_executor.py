"""The executor on a real Slurm: the contract, and jobs that are cancelled or requeued in the middle."""

from __future__ import annotations

import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ClassVar

import pytest

from neurofm_shards.convert.dispatch import Call, dispatcher
from neurofm_shards.errors import ConfigError, WorkerError
from neurofm_shards.plugins.registry import registry
from neurofm_shards.testing import ExecutorConformance

OPTIONS = {"kind": "slurm", "partition": "cpu", "lost_after_s": 6}


@pytest.mark.usefixtures("in_slurm")
class TestSlurm(ExecutorConformance):
    name = "slurm"
    options: ClassVar = {key: value for key, value in OPTIONS.items() if key != "kind"}


def naps(count, seconds):
    return [Call(time.sleep, (seconds,), f"nap {i}") for i in range(count)]


def gated(count, folder):
    """Make calls that say that they have begun, and end once the file ``go`` is there, or their worker is gone.

    Slurm signals all processes of a job: a call that died before its worker would be an error of the call.
    """
    wait = f"until [ -e {folder}/go ] || ! kill -0 $PPID; do sleep 0.1; done"
    script = f"trap '' TERM; touch {folder}/begun-$$; {wait}"
    return [Call(subprocess.check_call, (["sh", "-c", script],), f"call {i}") for i in range(count)]


def interrupt_one(cluster, folder, interrupt):
    """Do something to a running job once a call has begun, and only then let calls end."""
    cluster.wait_for(lambda: list(folder.glob("begun-*")), "no call begins")
    interrupt(next(line.split()[0] for line in cluster.queue() if "RUNNING" in line))
    (folder / "go").touch()


def test_listing_imports_no_submitit():
    assert registry().executors.get("slurm").distribution == "neurofm-shards-slurm"


def test_without_slurm_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no Slurm here"):
        registry().executors.make(OPTIONS)


def test_what_sbatch_refuses_is_one_error(in_slurm):
    with (
        pytest.raises((ConfigError, WorkerError), match="partition"),
        dispatcher({**OPTIONS, "partition": "moon"}, 1) as made,
    ):
        list(made.in_order(naps(1, 0)))


def test_a_cancelled_job_leaves_its_call_to_another(in_slurm, tmp_path):
    with ThreadPoolExecutor(1) as beside, dispatcher(OPTIONS, 2) as made:
        cancelled = beside.submit(interrupt_one, in_slurm, tmp_path, partial(in_slurm.call, "scancel"))
        assert list(made.in_order(gated(12, tmp_path))) == [0] * 12
    cancelled.result()


def test_jobs_that_are_all_cancelled_before_they_start_are_started_again(in_slurm):
    in_slurm.call("scontrol", "update", "NodeName=n[1-2]", "State=DRAIN", "Reason=test")
    done = []

    def cancel():
        in_slurm.wait_for(lambda: any("PENDING" in line for line in in_slurm.queue()), "no job waits")
        in_slurm.call("scancel", "--user=root")
        in_slurm.call("scontrol", "update", "NodeName=n[1-2]", "State=RESUME")
        done.append(True)

    thread = threading.Thread(target=cancel)
    thread.start()
    with dispatcher(OPTIONS, 2) as made:
        assert list(made.in_order(naps(4, 0.1))) == [None] * 4
    thread.join()
    assert done


def test_a_requeued_job_goes_on(in_slurm, tmp_path):
    with ThreadPoolExecutor(1) as beside, dispatcher(OPTIONS, 1) as made:
        requeued = beside.submit(interrupt_one, in_slurm, tmp_path, in_slurm.requeue)
        assert list(made.in_order(gated(10, tmp_path))) == [0] * 10
    requeued.result()
