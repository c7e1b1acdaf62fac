"""Measure many small recordings: conversions with one worker and with two in turns, and planning thousands of sessions.

All files are one recording under many names (hard links where the file system has them), so that only their number
matters. Every run is a process of its own that starts, converts, and syncs what it wrote, as a user's command does.
Options that are not known here are those of ``convert``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

#: Two workers are to be so many times as fast as one; planning is to take so many seconds and bytes at most.
BAR, PLANNING_SECONDS, PLANNING_BYTES = 1.7, 60.0, 500e6
_SAMPLED_EVERY = 0.5


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recording", type=Path, help="an NWB file, of some 0.4 MB for the figures in docs/performance")
    parser.add_argument("--files", type=int, default=200, help="files that are converted (default: 200)")
    parser.add_argument("--planned", type=int, default=10_000, help="sessions that are planned (default: 10,000)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of one and two workers (default: 3)")
    parser.add_argument("--folder", type=Path, help="make the temporary folder for the data here")
    asked, asked_of_convert = parser.parse_known_args()
    asked.options = asked_of_convert
    return asked


def named(recording: Path, folder: Path, count: int) -> Path:
    """Give a recording so many names in a folder."""
    folder.mkdir()
    for i in range(count):
        name = folder / f"session_{i:05d}.nwb"
        try:
            os.link(recording, name)
        except OSError:  # another file system
            shutil.copyfile(recording, name)
    return folder


def ran(inputs: Path, out: Path, workers: int, *options: str) -> tuple[float, float]:
    """Run one conversion; return its seconds, and the bytes of memory that its processes had at most together."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "neurofm_shards", "convert", "-i", str(inputs), "-o", str(out)]
    command += ["--session-template", "{stem}", "--workers", str(workers), *options]
    most = 0.0
    done = threading.Event()
    start = time.perf_counter()
    log = out.with_suffix(".log")
    with log.open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:

        def watch() -> None:
            nonlocal most
            while not done.wait(_SAMPLED_EVERY):
                most = max(most, memory(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}:\n{log.read_text()}")
    return seconds, most


def memory(pid: int) -> float:
    """Return the resident bytes of a process and of all that it started; memory that they share counts for each."""
    total, waiting = 0.0, [pid]
    while waiting:
        place = Path(f"/proc/{waiting.pop()}")
        with suppress(OSError):  # it has ended meanwhile
            total += int((place / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for task in (place / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return total


def main() -> int:
    """Measure; end with 1 when a bar is missed."""
    asked = arguments()
    print(f"load before: {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory(prefix="neurofm-shards-bench-", dir=asked.folder) as name:
        folder = Path(name)
        files, out = named(asked.recording, folder / "files", asked.files), folder / "out"
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(asked.rounds + 1):
            for workers in seconds:
                took, _ = ran(files, out, workers, *asked.options)
                seconds[workers] += [took] if turn else []
        one, two = (median(found) for found in seconds.values())
        print(f"{asked.files} files: one worker {one:.1f} s, two {two:.1f} s: {one / two:.2f} times as fast")
        many = named(asked.recording, folder / "many", asked.planned)
        took, most = ran(many, folder / "plan", 2, "--dry-run", *asked.options)
        print(f"{asked.planned} sessions planned with two workers: {took:.1f} s, {most / 1e6:.0f} MB in all processes")
    missed = one / two < BAR or took > PLANNING_SECONDS or most > PLANNING_BYTES
    print(f"{BAR} times, {PLANNING_SECONDS:.0f} s, {PLANNING_BYTES / 1e6:.0f} MB: {'missed' if missed else 'reached'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
