"""The machine that this process runs on, what it may use of it, and what objects do in a forked child."""

from __future__ import annotations

import multiprocessing
import os
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from types import MethodType
from typing import Any, cast

_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
#: Methods by the object that they renew.
_renewals: weakref.WeakKeyDictionary[object, list[Callable[[Any], object]]] = weakref.WeakKeyDictionary()


def host_name() -> str:
    """Return this machine's name; asks the kernel, never the network."""
    return os.uname().nodename


def worker_name(pid: int | None = None) -> str:
    """Return what a process that runs calls is known by: this one, or another one of this machine."""
    return f"{host_name()}/{os.getpid() if pid is None else pid}"


def prepare_forkserver() -> None:
    """Start the process that conversion's workers are forked from, without waiting for it to import what they need."""
    multiprocessing.set_forkserver_preload(["neurofm_shards.convert.work"])
    forkserver.ensure_running()


class WatchedTime:
    """How long something has been so, in time that was watched.

    What passes between two looks counts as ``step_s`` at most: a program that was suspended, or that waited for a file
    system, has seen nothing meanwhile.

    Parameters
    ----------
    step_s : float
        Seconds.
    """

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._looked = self._seconds = 0.0

    def look(self, *, is_so: bool) -> float:
        """Look whether it is so; return for how many seconds it has been, 0 at the first look and when it is not."""
        now = time.monotonic()
        passed = min(now - self._looked, self._step_s) if self._looked else 0.0
        self._looked = now if is_so else 0.0
        self._seconds = self._seconds + passed if is_so else 0.0
        return self._seconds


def usable_cpus() -> int:
    """Return how many processors this process may use: by affinity, control group, and what Slurm gave to the task."""
    limits = [os.cpu_count() or 1, *_quota_of_group()]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    if hasattr(os, "process_cpu_count"):  # Python 3.13; PYTHON_CPU_COUNT sets it
        limits.append(os.process_cpu_count() or 1)
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdecimal() and int(slurm):
        limits.append(int(slurm))
    return max(1, min(limits))


def _quota_of_group() -> list[int]:
    """Return the processors that the control group grants (version 2, else 1); nothing where it sets no limit."""
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return [-(-int(quota) // int(period))]
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup/cpu")
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return [-(-int(quota) // int(period))] if int(quota) > 0 else []
    return []


def usable_memory() -> int:
    """Return how many bytes of memory this process may use: of the machine, its control group, and what Slurm gave."""
    limits = [_PAGE_SIZE * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups of version 2, and of version 1
        with suppress(OSError, ValueError):
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text(encoding="ascii")))
    slurm = os.environ.get("SLURM_MEM_PER_NODE", "")
    if slurm.isdecimal() and int(slurm):
        limits.append(int(slurm) << 20)
    return min(limits)


def mapped_bytes() -> int:
    """Return how many bytes of mapped files this process holds; 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError), Path("/proc/self/statm").open("rb", buffering=0) as pages:
        return int(pages.read().split()[2]) * _PAGE_SIZE
    return 0


def after_fork(renew: Callable[[], object]) -> None:
    """Call a method in every process that is forked from this one, before anything else runs there.

    Parameters
    ----------
    renew : bound method
        Held weakly, so that its object ends when nobody else holds it.
    """
    method = cast("MethodType", renew)
    _renewals.setdefault(method.__self__, []).append(method.__func__)


def _renew_all() -> None:
    for owner, methods in tuple(_renewals.items()):
        for renew in methods:
            renew(owner)


os.register_at_fork(after_in_child=_renew_all)
