"""Where it was measured."""

from __future__ import annotations

import os
import platform
import shutil
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from harness.environments import Environment

from neurofm_shards.reading import row_copy

LIBRARIES = ("neurofm-shards", "numpy", "torch", "orjson", "xxhash", "zstandard", "isal")


def load() -> float:
    """Return the load of the last minute."""
    return os.getloadavg()[0]


def machine(folder: Path, environments: list[Environment], load_before: float) -> dict[str, str]:
    """Describe machine, system and versions."""
    cpus = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    memory = next((line.split()[1] for line in _read("/proc/meminfo").splitlines() if line.startswith("MemTotal")), "0")
    mounts = [line.split() for line in _read("/proc/mounts").splitlines()]
    place = max((m for m in mounts if str(folder).startswith(m[1])), key=lambda m: len(m[1]), default=["", "", "?"])
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{os.cpu_count()} x {cpus[0].split(':')[1].strip()}" if cpus else platform.processor(),
        "memory": f"{int(memory) / 1e6:.0f} GB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "file system": f"{place[2]}, {shutil.disk_usage(folder).free / 1e9:.0f} GB free",
        "load before": f"{load_before:.2f}",
        "load after": f"{load():.2f} (the benchmark's own)",
        "built": f"{'with' if row_copy.COMPILED else 'without'} the module in C that copies rows",
        "versions": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        **{one.peer.name: one.versions or f"not measured: {one.reason}" for one in environments},
    }


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""
