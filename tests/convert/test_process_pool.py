"""The pool of processes: a worker that is killed at any moment ends everything at once, with an error that says so."""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, wait

import pytest
from toy_calls import big, fail, fail_stubbornly, nap, pid

from neurofm_shards.convert.executors import ProcessesConfig, make_process_pool
from neurofm_shards.errors import ConfigError, WorkerError


@pytest.fixture
def pool():
    with make_process_pool(ProcessesConfig(workers=3)) as made:
        yield made


def test_results_come_back(pool):
    assert [future.result() for future in [pool.submit(abs, -i) for i in range(20)]] == list(range(20))


def test_large_results_come_back(pool):
    assert [len(future.result()) for future in [pool.submit(big, 5_000_000) for _ in range(4)]] == [5_000_000] * 4


def test_calls_run_at_the_same_time_in_processes_of_their_own(pool):
    found = {future.result() for future in [pool.submit(pid, 0.3) for _ in range(3)]}
    assert len(found) == 3
    assert os.getpid() not in found


def test_errors_come_back_with_their_type_and_where_they_arose(pool):
    with pytest.raises(ConfigError, match=r"^no$") as caught:
        pool.submit(fail, "no").result()
    assert isinstance(caught.value.__cause__, WorkerError)
    assert "in fail" in str(caught.value.__cause__)


def test_an_error_that_cannot_be_pickled_comes_back_as_ours(pool):
    with pytest.raises(WorkerError, match="StubbornError in a worker process: 1 and 2"):
        pool.submit(fail_stubbornly).result()


def test_a_result_that_cannot_be_pickled_is_an_error_and_the_pool_goes_on(pool):
    with pytest.raises((AttributeError, TypeError, WorkerError)):
        pool.submit(threading.Lock).result()
    assert pool.submit(abs, -1).result() == 1


def submit_until_broken(pool, sizes):
    """Keep the pool busy until it refuses; return all futures and the refusal."""
    futures, end = [], time.monotonic() + 20
    while time.monotonic() < end:
        try:
            futures.append(pool.submit(big, next(sizes)))
        except BrokenExecutor as error:
            return futures, str(error)
        time.sleep(0.001)
    raise AssertionError("nobody noticed that a worker is dead")


@pytest.mark.parametrize("seed", range(12))
def test_a_worker_killed_at_any_moment_hangs_nobody(seed):
    rng = random.Random(seed)  # noqa: S311
    pool = make_process_pool(ProcessesConfig(workers=4))
    victim = pool.submit(pid, 0).result()
    threading.Timer(rng.random() * 0.05, os.kill, (victim, signal.SIGKILL)).start()
    futures, refusal = submit_until_broken(pool, (rng.choice((10, 300_000)) for _ in iter(int, 1)))
    assert refusal == f"process {victim}: was killed by SIGKILL"
    _, unfinished = wait(futures, timeout=20)
    assert not unfinished
    pool.shutdown()


def test_calls_under_way_fail_at_once_when_a_worker_dies(pool):
    long = pool.submit(nap, 60)
    os.kill(pool.submit(pid, 0).result(), signal.SIGKILL)
    submit_until_broken(pool, itertools.repeat(10))
    assert isinstance(long.exception(timeout=20), BrokenExecutor)


def test_killing_the_workers_ends_calls_that_would_take_long():
    pool = make_process_pool(ProcessesConfig(workers=2))
    futures = [pool.submit(nap, 60) for _ in range(5)]
    time.sleep(0.2)
    start = time.monotonic()
    pool.kill_workers()
    assert time.monotonic() - start < 20
    assert all(future.cancelled() or future.exception() is not None for future in futures)


def test_a_program_that_forgets_its_pool_ends():
    program = (
        "from neurofm_shards.convert.executors import ProcessesConfig, make_process_pool\n"
        "if __name__ == '__main__':\n"
        "    print(make_process_pool(ProcessesConfig(workers=2)).submit(abs, -3).result())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("3\n", "")
