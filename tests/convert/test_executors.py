"""The pool of processes: a worker that is killed at any moment costs its own call, and hangs nobody."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import wait

import pytest
from toy_calls import big, die, fail, fail_stubbornly, nap, pid, pid_once_there

from neurofm_shards._process import worker_name
from neurofm_shards.convert.executors import LostWorkerError, ProcessesConfig, make_process_pool
from neurofm_shards.errors import ConfigError, WorkerError


@pytest.fixture
def pool():
    with make_process_pool(ProcessesConfig(workers=3)) as made:
        yield made


def test_results_come_back(pool):
    assert [future.result() for future in [pool.submit(abs, -i) for i in range(20)]] == list(range(20))


def test_large_results_come_back(pool):
    assert [len(future.result()) for future in [pool.submit(big, 5_000_000) for _ in range(4)]] == [5_000_000] * 4


def taken(futures):
    """Return the futures once workers have taken all of their calls."""
    while not all(future.running() for future in futures):
        time.sleep(0.005)
    return futures


def test_calls_run_at_the_same_time_in_processes_of_their_own(pool, tmp_path):
    together = taken([pool.submit(pid_once_there, str(tmp_path / "gate")) for _ in range(3)])
    (tmp_path / "gate").touch()
    found = {future.result() for future in together}
    assert len(found) == 3
    assert os.getpid() not in found


def test_a_call_goes_to_the_worker_that_is_near_and_to_another_that_is_idle(tmp_path):
    gates = [tmp_path / name for name in ("start", "first", "second")]
    with make_process_pool(ProcessesConfig(workers=2)) as pool:
        both = taken([pool.submit(pid_once_there, str(gates[0])) for _ in range(2)])
        gates[0].touch()
        first, second = (future.result(300) for future in both)
        busy = taken([pool.submit(pid_once_there, str(gate)) for gate in gates[1:]])
        far, near = (pool.submit_near(worker_name(one), pid, 0) for one in (second, first))
        gates[1].touch()
        freed = busy[0].result(300)
        mine, others = (near, far) if freed == first else (far, near)
        assert mine.result(300) == freed, "a call that another worker is near to went first"
        assert others.result(300) == freed, "an idle worker left a call to one that is busy"
        gates[2].touch()
        assert busy[1].result(300) == ({first, second} - {freed}).pop()


def test_calls_that_wait_are_cancelled_when_the_pool_is_shut(tmp_path):
    pool = make_process_pool(ProcessesConfig(workers=1))
    running = pool.submit(pid_once_there, str(tmp_path / "gate"))
    taken([running])
    waiting = [pool.submit(abs, -1) for _ in range(3)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    (tmp_path / "gate").touch()
    assert running.result(60)
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(abs, -1)


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


def calls_around_a_death(pool, victims, sizes, delay_s):
    """Keep the pool busy while some of its workers are killed; return all futures."""
    timer = threading.Timer(delay_s, lambda: [os.kill(victim, signal.SIGKILL) for victim in victims])
    timer.start()
    futures = []
    while timer.is_alive() or len(futures) < 50:
        futures.append(pool.submit(big, next(sizes)))
        time.sleep(0.001)
    _, unfinished = wait(futures, timeout=120)
    assert not unfinished
    return futures


@pytest.mark.parametrize("seed", range(12))
def test_a_worker_killed_at_any_moment_hangs_nobody_and_costs_its_own_call(seed, tmp_path):
    rng = random.Random(seed)  # noqa: S311
    pool = make_process_pool(ProcessesConfig(workers=4))
    together = taken([pool.submit(pid_once_there, str(tmp_path / "gate")) for _ in range(4)])
    (tmp_path / "gate").touch()
    victims = sorted(future.result() for future in together)[: 1 + seed % 3]
    futures = calls_around_a_death(pool, victims, iter(lambda: rng.choice((10, 300_000)), 0), rng.random() * 0.05)
    later = [pool.submit(abs, -1) for _ in range(10)]  # a worker that died while it was idle costs the next call
    assert 1 in [future.result() for future in later if future.exception() is None]
    lost = [error for future in [*futures, *later] if (error := future.exception()) is not None]
    assert len(lost) <= len(victims)
    assert all(isinstance(error, LostWorkerError) for error in lost)
    assert all(any(f"process {victim} on " in str(error) for victim in victims) for error in lost)
    assert all("was killed by SIGKILL" in str(error) for error in lost)
    assert pool.workers_alive() <= 4
    pool.shutdown()


def test_a_worker_that_kills_itself_fails_its_call_and_the_others_go_on(pool):
    long = pool.submit(nap, 0.5)
    with pytest.raises(LostWorkerError, match="was killed by SIGKILL"):
        pool.submit(die).result()
    assert long.exception() is None
    assert [pool.submit(abs, -i).result() for i in range(6)] == list(range(6))


def test_killing_the_workers_ends_calls_that_would_take_long():
    pool = make_process_pool(ProcessesConfig(workers=2))
    futures = [pool.submit(nap, 3600) for _ in range(5)]
    time.sleep(0.2)
    pool.kill_workers()
    assert all(future.cancelled() or future.exception() is not None for future in futures)


def test_a_program_that_forgets_its_pool_ends():
    program = (
        "from neurofm_shards.convert.executors import ProcessesConfig, make_process_pool\n"
        "if __name__ == '__main__':\n"
        "    print(make_process_pool(ProcessesConfig(workers=2)).submit(abs, -3).result())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert (done.stdout, done.stderr) == ("3\n", "")


WITHOUT_GUARD = """
import os
from neurofm_shards._process import worker_name
from neurofm_shards.convert.executors import ProcessesConfig, make_process_pool

try:
    with make_process_pool(ProcessesConfig(workers=2)) as pool:
        print(pool.submit(os.getpid).result())
except ValueError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("how", ["a script", "standard input"])
def test_a_program_without_a_guard_is_told_so(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_GUARD)
    command = [sys.executable, str(script)] if how == "a script" else [sys.executable, "-"]
    done = subprocess.run(command, input=WITHOUT_GUARD, capture_output=True, text=True, timeout=120, check=True)
    assert "ConfigError worker processes cannot start" in done.stdout
    assert '`if __name__ == "__main__":`' in done.stdout
    assert "memory" not in done.stdout


IN_A_POOL = """
import multiprocessing, os
from neurofm_shards._process import worker_name
from neurofm_shards.convert.executors import ProcessesConfig, make_process_pool

def job(_):
    with make_process_pool(ProcessesConfig(workers=2)) as pool:
        return pool.submit(os.getpid).result() == os.getpid()

if __name__ == "__main__":
    with multiprocessing.Pool(1) as pool:
        print(pool.map(job, [0]))
"""


def test_a_daemonic_process_uses_threads(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(IN_A_POOL)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[True]"
