"""An executor whose workers are the jobs of a Slurm array."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from submitit import SlurmExecutor as Submitter
from submitit.core.utils import FailedJobError
from typing_extensions import ParamSpec

from neurofm_shards.errors import ConfigError
from neurofm_shards_slurm.config import SlurmConfig
from neurofm_shards_slurm.spool import Spool, call_bytes, serve

P = ParamSpec("P")
T = TypeVar("T")
_POLL_S = 0.1
_ASK_S = 5.0


class SlurmExecutor(Executor):
    """Runs calls in jobs that take one after the other.

    The jobs are started with the first call. Calls and answers are files, and so is every sign of life; ``squeue`` is
    asked only whether there are jobs at all, since jobs that never started leave no files.

    Parameters
    ----------
    config : SlurmConfig
        Its options.

    Raises
    ------
    ConfigError
        There is no Slurm here.
    """

    #: Jobs that are gone for good are found by asking; others wait in the queue as long as it takes.
    patience_s = float("inf")

    def __init__(self, config: SlurmConfig) -> None:
        folder = Path(config.folder).absolute() / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{id(self):x}"
        self._spool = Spool(folder / "spool", config.lost_after_s)
        self._config = config
        self._submitter = _submitter(config, folder)
        self._jobs: list[str] = []
        self._alive: set[str] = set()
        self._running: dict[int, Future[Any]] = {}
        self._numbers = count()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="neurofm-shards slurm", daemon=True)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Leave a call for the jobs, which are started where there are none."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if not self._jobs:
                self._start()
            number = next(self._numbers)
            self._running[number] = future
        self._spool.put(number, call_bytes(fn, args, kwargs))
        return future

    def workers_alive(self) -> int:
        """Count the jobs that have been heard of lately."""
        return len(self._alive)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what was submitted, or cancel it, and end the jobs."""
        while wait and not cancel_futures and self._running:
            time.sleep(_POLL_S)
        self._end(cancel=cancel_futures or not wait)

    def kill_workers(self) -> None:
        """Cancel all jobs, whatever they are doing."""
        self._end(cancel=True)

    def _start(self) -> None:
        if not self._watcher.is_alive():
            self._spool.make()
            self._watcher.start()
        calls = [(str(self._spool.folder), self._spool.lost_after_s)] * self._config.workers
        try:
            jobs = self._submitter.map_array(serve, *zip(*calls, strict=True))
        except (FailedJobError, subprocess.CalledProcessError) as error:
            raise ConfigError(f"sbatch refuses the jobs: {' '.join(str(error).split())[:500]}") from error
        self._jobs = sorted({job.job_id.partition("_")[0] for job in jobs})

    def _end(self, *, cancel: bool) -> None:
        if self._stop.is_set():
            return
        self._stop.set()
        if self._jobs:
            self._watcher.join()
            self._spool.withdraw()
            if cancel:
                subprocess.run(["scancel", *self._jobs], check=False, capture_output=True)  # noqa: S603, S607  (as sbatch)
        with self._lock:
            lost = list(self._running.values())
            self._running.clear()
        for future in lost:
            future.set_exception(BrokenExecutor("the jobs were cancelled"))
        shutil.rmtree(self._spool.folder, ignore_errors=cancel)

    def _watch(self) -> None:
        asked = looked = time.monotonic()
        while not self._stop.wait(_POLL_S):
            self._spool.beat("driver")
            for number, answer in self._spool.answers():
                value, error = pickle.loads(answer)  # noqa: S301  (a job of ours made it)
                self._finish(number, value, error)
            if time.monotonic() - looked > self._spool.look_s:
                looked = time.monotonic()
                self._look_for_the_lost()
            if time.monotonic() - asked > _ASK_S:
                asked = time.monotonic()
                self._look_for_jobs()

    def _look_for_the_lost(self) -> None:
        """Fail the calls of jobs that are gone or silent."""
        taken = self._spool.taken()  # before the jobs, of which one may begin at this moment
        self._alive = self._spool.workers()
        for number, worker in self._spool.take_back(taken, self._alive):
            gone = f"job {worker} was killed, or has not been heard of for {self._spool.lost_after_s:g} s"
            self._finish(number, None, BrokenExecutor(f"{gone}; see the logs in {self._submitter.folder}"))

    def _look_for_jobs(self) -> None:
        """Fail all calls when no job is left, so that they start others."""
        with self._lock:
            if not self._jobs or self._alive or _are_known(self._jobs):
                return
            gone, self._jobs = " ".join(self._jobs), []
            numbers = list(self._running)
        for number in numbers:
            (self._spool.folder / "calls" / f"{number:09d}").unlink(missing_ok=True)
            self._finish(
                number,
                None,
                BrokenExecutor(f"no job of array {gone} is left; see the logs in {self._submitter.folder}"),
            )

    def _finish(self, number: int, value: Any, error: BaseException | None) -> None:
        with self._lock:
            future = self._running.pop(number, None)
        if future is None:  # answered by one that was taken for dead
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def _are_known(jobs: list[str]) -> bool:
    """Return whether Slurm has one of the jobs, waiting or running; an answer that does not come is no answer."""
    asked = ["squeue", "--noheader", "--format=%i", f"--jobs={','.join(jobs)}"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603  (numbers of our own jobs)
    if done.returncode and "Invalid job id" not in done.stderr:
        return True
    return bool(done.stdout.strip())


def _submitter(config: SlurmConfig, folder: Path) -> Submitter:
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ConfigError("there is no Slurm here: sbatch and srun are not in PATH")
    options: dict[str, Any] = {
        "job_name": "neurofm-shards",
        "partition": config.partition,
        "account": config.account,
        "qos": config.qos,
        "time": config.time_min,
        "mem": None if config.memory_gb is None else f"{round(config.memory_gb * 1024)}M",
        "cpus_per_task": config.cpus,
        "array_parallelism": config.array_parallelism or config.workers,
        "additional_parameters": {("requeue" if config.requeue else "no_requeue"): True, **config.sbatch},
    }
    submitter = Submitter(folder=folder)
    submitter.update_parameters(**{name: value for name, value in options.items() if value is not None})
    return submitter
