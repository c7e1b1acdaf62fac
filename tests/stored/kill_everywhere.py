"""Kills commands that write data sets of recordings before each change they make to a file, and sees what is left.

python tests/stored/kill_everywhere.py convert append drop merge compact --compression gz --every 5
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import made_recordings

from neurofm_shards import convert_inputs, register_source
from neurofm_shards.errors import NeurofmShardsError
from neurofm_shards.maintenance.compact import compact
from neurofm_shards.maintenance.drop import drop_samples
from neurofm_shards.maintenance.merge import merge
from neurofm_shards.maintenance.repair import repair
from neurofm_shards.maintenance.validate import validate_dataset
from neurofm_shards.stored.windows import open_windows

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.symlink", "shutil.rmtree"}
WINDOWS = {"modalities": ["spikes"], "sequence_length": 20, "unit_table_path": "units"}
WHERE = "session_id == 'b'"


class Scene:
    """Data sets as they are before a command, and the commands."""

    def __init__(self, top: Path, compression: str) -> None:
        self.config = {"layout": "recordings", "piece_bytes": 2_000, "shard_bytes": 6_000, "compression": compression}
        sessions = {name: made_recordings.session(seed, 6.0) for name, seed in (("a", 8), ("b", 2), ("c", 4))}
        self.top = top
        self.files = [made_recordings.file_of(top / "in", name, streams) for name, streams in sessions.items()]
        convert_inputs(self.files[:2], top / "two", self.config)
        convert_inputs(self.files, top / "three", self.config)
        convert_inputs(self.files[2:], top / "third", self.config)
        drop_samples(shutil.copytree(top / "three", top / "sparse"), WHERE)

    def start(self, command: str, out: Path) -> None:
        """Put a data set into place for a command that changes one."""
        before = {"append": "two", "drop": "three", "compact": "sparse"}.get(command)
        if before is not None:
            shutil.copytree(self.top / before, out)

    def run(self, command: str, out: Path) -> None:
        """Run a command to its end, or go on with one that was killed."""
        if command == "convert":
            convert_inputs(self.files, out, self.config, mode="resume")
        elif command == "append":
            convert_inputs(self.files, out, self.config, mode="append")
        elif command == "drop":
            drop_samples(out, WHERE)
        elif command == "compact":
            compact(out)
        else:
            merge([self.top / "two", self.top / "third"], out)

    def go_on(self, command: str, out: Path) -> None:
        """Do what a user does after a kill: repair a merge that was nearly done, and else say the same again."""
        if command == "merge" and out.exists() and ((out / "dataset_metadata.json").exists() or commits(out)):
            repair(out)
        else:
            self.run(command, out)


def commits(out: Path) -> list[Path]:
    return list(out.glob(".neurofm/commit-*"))


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files of a data set, but for the plans of windows that its readers keep there."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".plan"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def forked(work: Callable[[], None], kill_at: int | None) -> int:
    """Do some work in a process that is killed before its change of this number; return how many it made."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        seen = 0

        def watch(event, arguments):
            nonlocal seen
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event not in CHANGES and not writes:
                return
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

        sync = os.fsync

        def fsync(descriptor):
            watch("os.truncate", ())
            return sync(descriptor)

        os.fsync = fsync
        sys.addaudithook(watch)
        code = 0
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (a fork must never go on as its parent)
            code = 99
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os.write(send, seen.to_bytes(4, "little"))
        os._exit(code)
    os.close(send)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with os.fdopen(receive, "rb") as pipe:
        seen = int.from_bytes(pipe.read(4), "little")
    assert status == (-signal.SIGKILL if kill_at is not None else 0), status
    return seen


def readable(out: Path) -> bool:
    """Say whether readers take a folder for a data set; all of them must agree, and windows of it must be whole."""
    if not (out / "dataset_metadata.json").exists():
        for reader in (lambda: open_windows(out, WINDOWS), lambda: convert_inputs(out, out.with_name("x"), {})):
            try:
                reader()
            except (NeurofmShardsError, FileNotFoundError):
                continue
            raise AssertionError("a half-written data set is taken for a whole one")
        return False
    with open_windows(out, WINDOWS, verify=True) as windows:
        for row in range(windows.num_samples):
            windows.gather([row])
    return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("commands", nargs="+")
    parser.add_argument("--compression", default="none")
    parser.add_argument("--every", type=int, default=1)
    given = parser.parse_args()
    register_source(made_recordings.ENTRY)
    with tempfile.TemporaryDirectory() as name:
        scene = Scene(Path(name), given.compression)
        for command in given.commands:
            out = Path(name, "out")
            scene.start(command, out)
            points = forked(partial(scene.run, command, out), None)
            whole = tree(out)
            assert validate_dataset(out).ok
            read = 0
            for point in range(0, points, given.every):
                shutil.rmtree(out, ignore_errors=True)
                scene.start(command, out)
                forked(partial(scene.run, command, out), point)
                read += readable(out)
                scene.go_on(command, out)
                found = tree(out)
                if found != whole:
                    names = sorted(n for n in {*found, *whole} if found.get(n) != whole.get(n))
                    sys.exit(f"{command}: killed before change {point}, it ends with other {names}")
            shutil.rmtree(out)
            print(f"{command}: {points} changes; readable after {read} kills, the same bytes after each", flush=True)


if __name__ == "__main__":
    main()
