"""Processes that are forked beside our threads start, and end with their parent."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards import WebDatasetWriter, create_webdataset_dataloader
from neurofm_shards.errors import WorkerError
from neurofm_shards.loading.workers import processes
from neurofm_shards.loading.workers.fork_gate import ForkGate

NESTED = """
import sys, torch
from neurofm_shards import create_webdataset_dataloader

def noisy(batch):
    for _ in range(40):
        torch.randn(200_000)  # holds the lock of torch's generator most of the time
    return batch

train = create_webdataset_dataloader(sys.argv[1], 4, 4, batch_transform=noisy, worker_type="thread")
steps = 0
for batch in train:
    val = create_webdataset_dataloader(sys.argv[1], 25, 2, transform=lambda sample: sample)
    assert sum(len(b["metadata"]) for b in val) == 100
    steps += 1
    if steps == 12:
        break
print("done")
"""

STUCK = """
import os, sys, time
from neurofm_shards import create_webdataset_dataloader

def stuck(sample):
    print(os.getpid(), flush=True)
    time.sleep(3600) if sys.argv[2] == "sleeps" else [None for _ in iter(int, 1)]

loader = create_webdataset_dataloader(sys.argv[1], 4, 2, transform=stuck)
next(iter(loader))
"""

TORCHS_OWN = """
import sys, torch
from torch.utils.data import DataLoader
from neurofm_shards import ShardDataset, create_webdataset_dataloader

def noisy(batch):
    for _ in range(40):
        torch.randn(200_000)
    return batch

train = create_webdataset_dataloader(sys.argv[1], 4, 4, batch_transform=noisy, worker_type="thread")
steps = 0
for batch in train:
    val = DataLoader(ShardDataset(sys.argv[1]), 25, num_workers=2, collate_fn=len)
    assert sum(val) == 100
    steps += 1
    if steps == 8:
        break
print("done")
"""


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hundred")
    with WebDatasetWriter(folder, shard_size=16) as writer:
        for i in range(100):
            writer.write_sample({"x": np.full(3, i, np.float32)}, metadata={"row": i})
    return folder


def script(tmp_path, text, *arguments, **options):
    path = tmp_path / "script.py"
    path.write_text(text)
    command = [sys.executable, str(path), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, **options)


@pytest.mark.parametrize("text", [NESTED, TORCHS_OWN], ids=["ours", "torch"])
def test_validation_in_processes_starts_beside_training_in_threads(hundred, tmp_path, text):
    with script(tmp_path, text, hundred) as process:
        try:
            assert process.communicate(timeout=120)[0].strip() == "done"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child looks for its parent between two batches")
@pytest.mark.parametrize("how", ["sleeps", "works"])
def test_children_die_with_their_parent_whatever_they_do(hundred, tmp_path, how):
    with script(tmp_path, STUCK, hundred, how) as process:
        children = [int(process.stdout.readline()) for _ in range(2)]
        process.kill()
    deadline = time.monotonic() + 300
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [child for child in children if alive(child)]
    for child in left:
        os.kill(child, signal.SIGKILL)
    assert left == []


def test_tasks_wait_while_somebody_forks_and_forks_wait_for_tasks():
    gate, order = ForkGate(), []
    entered, leave = threading.Event(), threading.Event()

    def task(name):
        with gate.task():
            order.append(name)
            entered.set()
            leave.wait(300)

    first = threading.Thread(target=task, args=("first",))
    first.start()
    assert entered.wait(300)
    assert not gate.quiet(0.01)
    second = threading.Thread(target=task, args=("second",))
    second.start()
    leave.set()
    assert gate.quiet(300)
    order.append("fork")
    gate.open()
    second.join(300)
    first.join(300)
    assert order == ["first", "fork", "second"]


def test_two_tasks_that_fork_do_not_wait_for_each_other():
    gate, both = ForkGate(), threading.Barrier(2)
    found = []

    def task():
        with gate.task():
            both.wait(300)
            found.append(gate.quiet(300))
            gate.open()

    threads = [threading.Thread(target=task) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == [True, True]


def test_a_child_that_a_fork_left_stuck_is_an_error_that_says_so(hundred, monkeypatch):
    monkeypatch.setattr(processes, "WATCH_SECONDS", 0.2)
    monkeypatch.setattr(processes, "START_SECONDS", 1.0)
    monkeypatch.setattr(processes, "_seed", lambda _: time.sleep(3600))
    loader = create_webdataset_dataloader(hundred, 4, 1, worker_type="process")
    with pytest.raises(WorkerError, match=r"was forked .* and has not begun.*spawn"):
        next(iter(loader))


def test_what_is_waited_for_is_in_the_log(hundred, monkeypatch, caplog):
    monkeypatch.setattr(processes, "WATCH_SECONDS", 0.2)
    said = multiprocessing.get_context("fork").Event()
    handler = logging.Handler()
    handler.emit = lambda _: said.set()
    processes._log.addHandler(handler)

    def slow(sample):
        if sample["metadata"]["row"] == 3:
            assert said.wait(300)
        return sample

    assert len(list(create_webdataset_dataloader(hundred, 50, 1, False, transform=slow))) == 2
    processes._log.removeHandler(handler)
    assert "for loader process" in caplog.text
    assert "before position 50" in caplog.text


DAEMON = """
import multiprocessing, sys
from neurofm_shards import create_webdataset_dataloader

def load(folder):
    loader = create_webdataset_dataloader(folder, 25, 2, transform=lambda sample: sample)
    return sum(len(batch["metadata"]) for batch in loader)

with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.map(load, [sys.argv[1]]))
"""


def test_a_daemon_falls_back_to_threads(hundred, tmp_path):
    with script(tmp_path, DAEMON, hundred) as process:
        assert process.communicate(timeout=120)[0].strip() == "[100]"
