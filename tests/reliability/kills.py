"""Kills writers at random moments and sees whether anything was lost; run it to get the figures of docs/reliability.md.

python tests/reliability/kills.py convert real --kills 100 --workers 1
python tests/reliability/kills.py append overwrite drop merge --kills 60
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from neurofm_shards.cli.main import run as run_command
from neurofm_shards.errors import NeurofmShardsError
from neurofm_shards.maintenance.validate import validate_dataset
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.reading.info import ShardedDatasetInfo

MANIFEST = "dataset_metadata.json"


def tree(folder):
    """Every file of a data set with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@dataclass
class Victim:
    """A process of the command line in a session of its own."""

    pid: int
    errors: Path
    code: int | None = None

    @classmethod
    def start(cls, words, errors, *, fresh):
        """Start a command: with an interpreter of its own, or (many times faster) as a fork of this process."""
        if fresh:
            with errors.open("wb") as file:
                command = [sys.executable, "-m", "neurofm_shards", *words]
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True)
            victim = cls(process.pid, errors)
            process.returncode = 0  # waited for by its number below
            return victim
        pid = os.fork()
        if pid:
            return cls(pid, errors)
        try:
            os.setsid()
            sys.modules["__main__"] = importlib.import_module("neurofm_shards.__main__")  # what workers start from
            with errors.open("wb") as file:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.dup2(file.fileno(), 2)
            code = run_command(words)
            sys.stdout.flush()
            sys.stderr.flush()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        except BaseException:  # noqa: BLE001  (a fork must never go on as its parent)
            code = 99
        os._exit(code)

    def ended(self):
        """Say whether it has ended; its code is 0 or more, or minus the signal."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self, seconds):
        """Wait until it ends; say whether it did."""
        deadline = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < deadline:
            time.sleep(0.002)
        return self.ended()

    def kill(self, target):
        """Kill the group, the program alone or one of its workers; say whether something living was hit."""
        if self.ended():
            return False
        if target == "worker":
            pool = self.pool()
            if not pool:
                return False
            os.kill(random.choice(pool), signal.SIGKILL)  # noqa: S311
            assert self.wait(300), "a program whose worker was killed hangs"
            return self.code != 0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL) if target == "group" else os.kill(self.pid, signal.SIGKILL)
        self.wait(300)
        self.wait_for_orphans()
        return self.code == -signal.SIGKILL

    def pool(self):
        """Return the workers: children of its fork server."""
        return [pid for child in children(self.pid) for pid in children(child)]

    def wait_for_orphans(self):
        """Wait until no process of its session is left."""
        deadline = time.monotonic() + 300
        while members(self.pid) and time.monotonic() < deadline:
            time.sleep(0.002)
        assert not members(self.pid), "workers outlive a killed program"


def stats():
    """Yield (process, parent, session) of all that are no zombies."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if state != "Z":
                yield int(path.parent.name), int(parent), int(session)


def children(pid):
    return [child for child, parent, _ in stats() if parent == pid]


def members(session):
    return [pid for pid, _, its in stats() if its == session]


@dataclass
class Kind:
    """One kind of writing: how to start it, go on after a kill, and what must hold in between."""

    name: str
    words: list  # of the command line
    again: list  # the command that goes on
    whole: dict  # the undisturbed result
    before: Path | None = None  # the data set that is there already
    workers: tuple = (1,)
    targets: tuple = ("group",)
    fresh_share: float = 0.1


@dataclass
class Figures:
    """What was counted."""

    tried: Counter = field(default_factory=Counter)
    survived: Counter = field(default_factory=Counter)


class Killer:
    """Runs kinds until enough kills have hit."""

    def __init__(self, scratch, seed, figures):
        self.scratch = Path(scratch)
        self.random = random.Random(seed)  # noqa: S311
        self.figures = figures
        self.span = {}

    def run(self, kind, kills):
        for i in range(kills):
            self.trial(kind, kind.workers[i % len(kind.workers)], kind.targets[i % len(kind.targets)])

    def trial(self, kind, workers, target):
        """Start afresh until one kill has hit, go on, and compare."""
        out = self.scratch / "out"
        label = (kind.name, workers, target if workers > 1 else "group")
        while True:
            shutil.rmtree(out, ignore_errors=True)
            if kind.before is not None:
                shutil.copytree(kind.before, out)
            held = opened(out) if kind.before is not None else None
            if kind.name == "drop":
                contents(held)  # what it has opened stays; what it has not is withdrawn
            if self.attack(kind, kind.words, out, workers, label[2]):
                break
        self.figures.tried[label] += 1
        self.check_between(kind, out, held)
        if kind.again and self.random.random() < 0.3:  # killed again while it goes on
            self.attack(kind, kind.again, out, workers, "group")
        self.finish(kind, out, workers)
        found = tree(out)
        assert found == kind.whole, difference(found, kind.whole)
        self.figures.survived[label] += 1

    def attack(self, kind, words, out, workers, target):
        """Start a command and kill it somewhere between its lock and its end."""
        words = [word.replace("{out}", str(out)).replace("{workers}", str(workers)) for word in words]
        if target == "worker" and words[0] == "convert":
            words = [*words, "--retries", "0"]  # the error and the way on are tested here; retries have their own tests
        fresh = self.random.random() < kind.fresh_share
        victim = Victim.start(words, self.scratch / "errors", fresh=fresh)
        if self.random.random() < 0.9:
            while not (out / ".neurofm/lock").exists() and not victim.ended():
                time.sleep(0.0005)
        while target == "worker" and not victim.pool() and not victim.ended():
            time.sleep(0.005)
        span = self.span.setdefault((kind.name, workers), 1.0)
        start = time.monotonic()
        time.sleep(self.random.random() * span)
        hit = victim.kill(target)
        if not hit:
            assert victim.wait(120), "it does not end"
            error = victim.errors.read_text()
            assert "Traceback" not in error, error
            assert victim.code in (0, 2), (victim.code, error)  # 2: it was finished before and says so
            self.span[kind.name, workers] = max(0.004, 0.9 * min(span, time.monotonic() - start))
        else:
            self.span[kind.name, workers] = min(span * 1.02, 5)
        if target == "worker" and hit:
            assert "worker process died" in victim.errors.read_text(), victim.errors.read_text()
        return hit

    def check_between(self, kind, out, held):
        """See that a half-written data set is refused, and an old one still there."""
        finished = (out / MANIFEST).exists()
        if kind.before is None and not finished:
            refused(out)
        if kind.before is not None and not finished:
            assert list(out.glob(".neurofm/commit-*")), "there is no data set, and nobody puts a new one into place"
            refused(out)
            held.close()
        elif kind.before is not None:
            old = opened(kind.before)
            if kind.name == "overwrite":
                with contextlib.suppress(NeurofmShardsError):  # what it had not opened may be gone
                    assert contents(held) == contents(old), "a reader that holds the old manifest sees something else"
            else:
                assert contents(held) == contents(old), "a reader that holds the old manifest fails"
            if (out / MANIFEST).read_bytes() == (kind.before / MANIFEST).read_bytes():
                with opened(out) as now:
                    assert contents(now) == contents(old), "the old data set is not what it was"
            else:
                assert (out / MANIFEST).read_bytes() == kind.whole[MANIFEST]
                with opened(out) as now:
                    contents(now)
            held.close()
            old.close()

    def finish(self, kind, out, workers):
        words = kind.again or kind.words
        others = self.random.choice([n for n in (1, 2, 4) if n != workers])
        if kind.name.startswith("merge"):
            if (out / MANIFEST).exists() and kind.before is None:
                return self.command(["repair", str(out)])
            if list(out.glob(".neurofm/commit-*")):
                return self.command(["repair", str(out)])
        return self.command(
            [word.replace("{out}", str(out)).replace("{workers}", str(min(others, 2))) for word in words]
        )

    def command(self, words):
        victim = Victim.start(words, self.scratch / "errors", fresh=False)
        assert victim.wait(300), f"{words} does not end"
        assert victim.code == 0, (words, victim.code, victim.errors.read_text())


def opened(folder):
    return ShardCollection.open(folder, verify=True)


def contents(data):
    rows = np.arange(data.num_samples)
    columns = data.gather(rows)
    return data.keys(rows), {name: np.asarray(values).tobytes() for name, values in columns.items()}


def refused(folder):
    """See that loader, info and validate all refuse a folder."""
    for reader in (opened, lambda path: ShardedDatasetInfo(path).get_summary()):
        try:
            reader(folder)
        except NeurofmShardsError:
            continue
        raise AssertionError(f"{reader} takes a half-written data set for a whole one")
    with contextlib.suppress(NeurofmShardsError):
        assert not validate_dataset(folder).ok, "validate takes a half-written data set for a whole one"


def difference(found, whole):
    names = sorted(name for name in {*found, *whole} if found.get(name) != whole.get(name))
    return {name: (len(found.get(name, b"")), len(whole.get(name, b""))) for name in names[:9]}


def small_inputs(folder, count=8):
    """Write small NPZ files of trials, each its own session."""
    folder.mkdir()
    for i in range(count):
        rng = np.random.default_rng(i)
        n = int(rng.integers(10, 40))
        arrays = {"spikes": rng.poisson(1, (n, 20, 8)).astype("u1"), "behavior": rng.standard_normal((n, 20, 2))}
        np.savez(folder / f"s{i:02d}.npz", **arrays)
    return [str(path) for path in sorted(folder.iterdir())]


def convert_kind(name, inputs, scratch, *options, **facts):
    words = ["convert", "-i", *inputs, "-o", "{out}", "-w", "{workers}", *options]
    whole = scratch / f"whole-{name.replace(' ', '-')}"
    Killer(scratch, 0, Figures()).command(
        [word.replace("{out}", str(whole)).replace("{workers}", "1") for word in words]
    )
    return Kind(name, words, [*words, "--resume"], tree(whole), **facts)


def made_kinds(chosen, scratch, data, workers):
    inputs = small_inputs(scratch / "in")
    both = {"workers": workers, "targets": ("group", "program", "worker") if max(workers) > 1 else ("group",)}
    size = ("--shard-size", "8")
    do = Killer(scratch, 0, Figures()).command
    if "convert" in chosen:
        yield convert_kind("convert npz", inputs, scratch, *size, **both)
        yield convert_kind("convert npz gz", inputs, scratch, *size, "--compression", "gz", "--no-durable", **both)
    if "threads" in chosen:
        threads = {"workers": (4,), "targets": ("group",)}
        yield convert_kind("convert 4 threads", inputs, scratch, *size, "--executor", "threads", **threads)
    if "real" in chosen:
        yield convert_kind(
            "convert real npz",
            [str(data / "sargolini_positions.npz")],
            scratch,
            "--timestamps",
            "t",
            "--shard-size",
            "20",
            **both,
        )
        nwb = [str(data / name) for name in ("A8604_three_units.nwb", "anm00239123_photostim_trials.nwb")]
        yield convert_kind("convert real nwb", nwb, scratch, "--shard-size", "300", **{**both, "fresh_share": 0.0})
    first, second = scratch / "first", scratch / "second"
    do(["convert", "-i", *inputs[:5], "-o", str(first), *size])
    do(["convert", "-i", *inputs[5:], "-o", str(second), *size])
    if "append" in chosen:
        words = ["convert", "-i", *inputs, "-o", "{out}", "-w", "{workers}", "--append"]
        shutil.copytree(first, scratch / "appended")
        do([word.replace("{out}", str(scratch / "appended")).replace("{workers}", "1") for word in words])
        yield Kind("append", words, words, tree(scratch / "appended"), first, **both)
    if "overwrite" in chosen:
        words = ["convert", "-i", *inputs[5:], "-o", "{out}", "-w", "{workers}", *size, "--overwrite"]
        yield Kind("overwrite", words, words, tree(second), first, **both)
    if "drop" in chosen:
        words = ["drop", "{out}", "--where", 'session_id == "s01" or session_id == "s03"']
        shutil.copytree(first, scratch / "dropped")
        do([word.replace("{out}", str(scratch / "dropped")) for word in words])
        yield Kind("drop", words, words, tree(scratch / "dropped"), first)
    if "merge" in chosen:
        words = ["merge", "-i", str(first), str(second), "-o", "{out}"]
        do([word.replace("{out}", str(scratch / "merged")) for word in words])
        yield Kind("merge", words, [], tree(scratch / "merged"))


def report(figures):
    print(f"{'kind':<18} {'workers':>7} {'killed':<8} {'survived of kills':>18}")
    for label in sorted(figures.tried):
        print(f"{label[0]:<18} {label[1]:>7} {label[2]:<8} {figures.survived[label]:>9} of {figures.tried[label]}")
    print(f"in all {sum(figures.survived.values())} of {sum(figures.tried.values())}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=["convert", "append", "overwrite", "drop", "merge"])
    parser.add_argument("--kills", type=int, default=200, help="per kind")
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2].parent / "shared" / "data")
    args = parser.parse_args()
    figures = Figures()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped: the figures so far"))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for kind in made_kinds(args.kinds, Path(scratch), args.data, tuple(args.workers)):
                Killer(scratch, args.seed, figures).run(kind, args.kills)
        finally:
            report(figures)


if __name__ == "__main__":
    main()
