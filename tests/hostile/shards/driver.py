"""Tries every hostile data set in every way it can be read, each in a process of its own; prints JSON.

Usage: ``python driver.py [plugins|large] [PART/PARTS]``. A crash, a hang or a flood of memory ends one
process, and is reported.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from cases import cases, sound_dataset

from neurofm_shards import ShardDataset, WebDatasetLoader, create_webdataset_dataloader
from neurofm_shards.cli.main import run
from neurofm_shards.errors import NeurofmShardsError

#: What one attempt may take: seconds of processor time, and bytes of memory beyond what was there before.
SECONDS = 120
#: When an attempt that only waits is given up, in seconds.
HANG = 600
MEMORY = 1 << 30
#: Addresses it may reserve; maps of files and unused pages count here.
ADDRESSES = 8 << 30
MOST = 300
CODES = {0, 1, 2, 3}


def loader(folder: Path) -> str:
    """Sample by sample."""
    found = 0
    for sample in WebDatasetLoader(folder, shuffle=False):
        _ = dict(sample)
        found += 1
        if found >= MOST:
            break
    return f"{found} samples"


def dataloader(folder: Path) -> str:
    """In batches, with metadata."""
    found = 0
    for batch in create_webdataset_dataloader(folder, batch_size=4, num_workers=0, shuffle=False, pin_memory=False):
        found += len(list(batch["metadata"]))
        if found >= MOST:
            break
    return f"{found} samples"


def dataset(folder: Path) -> str:
    """By number, by plain reads, with filters and keys."""
    data = ShardDataset(folder, io="pread")
    for i in range(min(len(data), MOST)):
        _ = data[i]
    with contextlib.suppress(AttributeError):
        table = data.collection.metadata_table()
        for name in table.names:
            table.values(name)
    return f"{len(data)} samples"


def command(*words: str) -> Callable[[Path], str]:
    """A command line: an exit code, and one plain line where it fails."""

    def attempt(folder: Path) -> str:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([words[0], str(folder), *words[1:]])
        said = out.getvalue() + err.getvalue()
        assert "Traceback" not in said, said
        assert "bug in neurofm-shards" not in said, said
        assert code in CODES, code
        if code:
            raise NeurofmShardsError(f"exit code {code}: {(err.getvalue() or said)[-900:]}")
        assert words[0] != "validate" or json.loads(out.getvalue())["ok"]
        return "exit code 0"

    return attempt


WAYS: dict[str, Callable[[Path], str]] = {
    "loader": loader,
    "dataloader": dataloader,
    "dataset": dataset,
    "validate": command("validate", "--json"),
    "info": command("info", "--json"),
}


def attempt(way: Callable[[Path], str], folder: Path) -> dict[str, Any]:
    """Run one way and say what came of it."""
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        outcome = {"outcome": "sound", "message": way(folder)}
    except NeurofmShardsError as error:
        outcome = {"outcome": "error", "type": type(error).__name__, "message": str(error)}
    except BaseException as error:  # noqa: BLE001  (whatever it is, it is reported)
        outcome = {"outcome": "inside", "type": type(error).__name__, "message": str(error)[:500]}
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {**outcome, "seconds": time.process_time() - started, "memory": used << 10}


def in_a_process(way: Callable[[Path], str], folder: Path) -> dict[str, Any]:
    """Run one way in a fork with limits."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(HANG)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES, used + ADDRESSES))
        result = attempt(way, folder)
        with os.fdopen(writing, "w") as pipe:
            json.dump(result, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        report = pipe.read()
    _, status, _ = os.wait4(pid, 0)
    return (
        json.loads(report)
        if report
        else {"outcome": "died", "message": f"wait status {status}", "seconds": SECONDS, "memory": 0}
    )


def warm_up(folder: Path) -> None:
    """Import what is imported lazily, so that memory is that of the data."""
    sound_dataset(folder)
    for way in WAYS.values():
        way(folder)


def main(arguments: list[str]) -> None:
    """Run all cases, or every so-manieth."""
    warnings.simplefilter("ignore")
    part, _, parts = next((word for word in arguments if "/" in word), "0/1").partition("/")
    with tempfile.TemporaryDirectory(prefix="neurofm-hostile-") as base:
        os.environ["XDG_CACHE_HOME"] = str(Path(base, "cache"))
        warm_up(Path(base, "warm"))
        for number, (case, (expected, make)) in enumerate(
            cases(plugins="plugins" in arguments, large="large" in arguments).items()
        ):
            if number % int(parts) != int(part):
                continue
            made = Path(base, str(number))
            made.mkdir()
            make(made)
            for name, way in WAYS.items():
                copy = (
                    made if "sound" in case or "bomb" in case or "members" in case else Path(base, f"{number}-{name}")
                )
                if copy is not made:
                    shutil.copytree(made, copy, symlinks=True, copy_function=_copied) if _copyable(made) else make(
                        _made(copy)
                    )
                report = in_a_process(way, copy)
                print(json.dumps({"case": case, "way": name, "expected": expected, **report}), flush=True)
                if copy is not made:
                    shutil.rmtree(copy, ignore_errors=True)
            shutil.rmtree(made, ignore_errors=True)


def _copyable(folder: Path) -> bool:
    return all(path.is_file() or path.is_dir() for path in folder.rglob("*")) and not any(
        path.is_symlink() for path in folder.rglob("*")
    )


def _copied(source: str, target: str) -> str:
    size = Path(source).stat().st_size
    if size <= 1 << 32:
        return shutil.copy2(source, target)
    with Path(source).open("rb") as old, Path(target).open("wb") as new:  # all but empty
        new.write(old.read(1 << 16))
        new.truncate(size)
    return target


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main(sys.argv[1:])
