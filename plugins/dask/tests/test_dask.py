"""Conversions on Dask: the contract of executors, a cluster by its address, and clusters that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor

import pytest

from neurofm_shards.convert.dispatch import Call, Dispatcher, dispatcher
from neurofm_shards.errors import ConfigError, WorkerError
from neurofm_shards.plugins.registry import registry
from neurofm_shards.testing import ExecutorConformance

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore")


class TestDask(ExecutorConformance):
    name = "dask"
    retries = 0


def test_listing_imports_no_dask():
    entry = registry().executors.get("dask")
    assert entry.distribution == "neurofm-shards-dask"
    assert set(entry.config_model().model_fields) >= {"address", "workers"}


def test_a_cluster_is_found_by_its_address():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        options = {"kind": "dask", "address": cluster.scheduler_address}
        with dispatcher(options, 2) as made:
            found = list(made.in_order([Call(os.getpid, (), "asking") for _ in range(8)]))
        assert os.getpid() not in found
        assert len(cluster.workers) == 2, "a cluster of somebody else goes on"


def test_no_scheduler_is_said():
    with pytest.raises(ConfigError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        registry().executors.make({"kind": "dask", "address": "tcp://127.0.0.1:9", "connect_timeout_s": 0.5})


def test_a_run_ends_when_the_only_worker_is_gone():
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        options = {"kind": "dask", "address": cluster.scheduler_address, "patience_s": 2}
        made = Dispatcher(lambda: registry().executors.make(options))
        pid = next(made.in_order([Call(os.getpid, (), "asking")]))
        cluster.scale(0)
        with pytest.raises(WorkerError, match="no worker is left|a worker process died"):
            list(made.in_order([Call(time.sleep, (600,), "napping")]))
        made.abandon()
        assert not _is_running(pid)


def test_a_client_that_gave_the_scheduler_up_loses_the_call():
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        made = registry().executors.make({"kind": "dask", "address": cluster.scheduler_address})
        made._client.close()
        error = made.submit(os.getpid).exception()
    assert isinstance(error, BrokenExecutor)
    assert "the connection to the scheduler was lost" in str(error)


def test_a_run_ends_when_the_scheduler_is_gone(tmp_path):
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    scheduler = subprocess.Popen([*dask, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)])
    worker = subprocess.Popen([*dask, "worker", "--scheduler-file", str(file), "--no-dashboard", "--nthreads", "1"])
    try:
        options = {"kind": "dask", "scheduler_file": str(file), "connect_timeout_s": 120}
        with dispatcher(options, 1) as started:  # they are up
            next(started.in_order([Call(os.getpid, (), "asking")]))
        made = Dispatcher(lambda: registry().executors.make({**options, "connect_timeout_s": 15, "patience_s": 1}))
        calls = made.in_order([Call(os.getpid, (), "asking"), Call(time.sleep, (600,), "napping")])
        next(calls)
        scheduler.kill()
        with pytest.raises(WorkerError, match="no worker is left|a worker process died"):
            list(calls)
        made.abandon()
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


def _is_running(pid):
    end = time.monotonic() + 300
    while time.monotonic() < end:
        try:
            os.kill(pid, signal.SIG_DFL)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True
