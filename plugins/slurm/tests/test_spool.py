"""The spool without a Slurm: who is taken for dead, how soon, and who is not."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from busy_calls import hold_interpreter

from neurofm_shards_slurm.spool import Spool, call_bytes


@pytest.fixture
def spool(tmp_path, request):
    made = Spool(tmp_path / "spool", getattr(request, "param", 3.0))
    made.make()
    yield made
    made.withdraw()


@pytest.fixture
def worker(spool):
    """Start a worker as a job does."""
    code = f"from neurofm_shards_slurm.spool import serve; serve({str(spool.folder)!r}, {spool.lost_after_s})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as process:
        wait_for(spool.workers, spool)
        yield process
        process.kill()


def wait_for(test, spool, seconds=300):
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end
        spool.beat("driver")
        time.sleep(0.05)


def test_a_worker_that_is_killed_is_gone_without_waiting_for_its_silence(spool, worker):
    spool.put(0, call_bytes(time.sleep, (600,), {}))
    wait_for(spool.taken, spool)
    worker.kill()
    wait_for(lambda: not (list((spool.folder / "workers").iterdir())), spool)
    ((number, name),) = spool.take_back(spool.taken(), spool.workers())
    assert number == 0
    assert name.endswith(os.uname().nodename)
    assert not spool.taken()


def test_a_worker_whose_node_is_silent_is_lost(spool, worker):
    spool.put(0, call_bytes(time.sleep, (600,), {}))
    wait_for(spool.taken, spool)
    hearts = subprocess.run(["ps", "-o", "pid=", "--ppid", str(worker.pid)], capture_output=True, text=True, check=True)
    for pid in (int(hearts.stdout), worker.pid):  # both, as when a node is switched off
        os.kill(pid, signal.SIGSTOP)
    assert list(spool.take_back(spool.taken(), spool.workers())) == []
    wait_for(lambda: not spool.workers(), spool)
    assert [number for number, _ in spool.take_back(spool.taken(), spool.workers())] == [0]
    for pid in (int(hearts.stdout), worker.pid):
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("spool", [10.0], indirect=True)  # longer than a busy machine keeps its processes waiting
def test_a_call_that_lets_no_thread_run_is_not_taken_for_a_lost_one(spool, worker):
    spool.put(0, call_bytes(hold_interpreter, (14,), {}))
    wait_for(spool.taken, spool)
    while not list((spool.folder / "answers").iterdir()):
        assert spool.workers(), "a busy worker was taken for dead"
        spool.beat("driver")
        time.sleep(0.05)
    ((_, answer),) = spool.answers()
    assert pickle.loads(answer) == (None, None)
    assert worker.poll() is None


def test_a_worker_ends_when_the_program_says_so_or_is_silent(spool, worker):
    spool.withdraw()
    assert worker.wait(300) == 0
    assert not list((spool.folder / "workers").iterdir())


def test_a_worker_ends_when_the_program_is_gone_without_a_word(spool, worker):
    assert worker.wait(300) == 0, "nobody beats for the program here"


def test_a_cancelled_worker_leaves_its_call_to_others(spool, worker):
    spool.put(7, call_bytes(time.sleep, (600,), {}))
    wait_for(spool.taken, spool)
    worker.terminate()
    assert worker.wait(300) == 143
    assert [path.name for path in (spool.folder / "calls").iterdir()] == ["000000007"]
    assert not list((spool.folder / "workers").iterdir())
