"""What every case needs: contenders, folders, and measuring in turns."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import data
from harness.client import Client, ContenderError
from harness.environments import Environment
from harness.results import Results

OURS, MAP, TARFILE, CAT, LIBRARY = "neurofm_shards", "memory map / tofile", "tarfile", "cat", "decompression library"
_SCRIPTS = {
    OURS: "ours.py",
    MAP: "memory_map.py",
    TARFILE: "plain_tarfile.py",
    CAT: "cat_files.py",
    LIBRARY: "frames.py",
}
#: They say how fast bytes come, and have no batches to check.
_WITHOUT_BATCHES = {CAT, LIBRARY}
#: A turn lasts at least this long, by repeating the epoch.
_TURN_SECONDS = 0.25
_MOST_EPOCHS = 12


@dataclass(frozen=True, eq=False)
class Runner:
    """One contender on one data set.

    Attributes
    ----------
    who : str
        Contender.
    folder : Path
        What it opens.
    options : dict
        What it opens it with.
    label : str
        As in tables, where it is not the contender's name.
    columns, expected, scale
        For checking: the columns and rows that come, and what values are multiplied by.
    """

    who: str
    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    columns: list[str] | None = None
    expected: list[int] | None = None
    scale: float = 1.0

    @property
    def name(self) -> str:
        """Return what tables call it."""
        return self.label or self.who


class Bench:
    """A run of the benchmark.

    Parameters
    ----------
    folder : Path
        For all data.
    environments : sequence of Environment
        Of the peers.
    quick : bool
        Less data, fewer rounds.
    """

    def __init__(self, folder: Path, environments: Sequence[Environment], *, quick: bool) -> None:
        self.folder = folder
        self.quick = quick
        self.rounds = 3 if quick else 9
        self.slow_rounds = 3 if quick else 5
        self.results = Results()
        self._opened: dict[str, Runner] = {}
        self._written: set[Path] = set()
        self.clients = {name: self._client(name, script, sys.executable) for name, script in _SCRIPTS.items()}
        self.peers: list[str] = []
        for environment in environments:
            if environment.reason:
                self.results.absent[environment.peer.name] = environment.reason
                continue
            peer = environment.peer
            self.clients[peer.name] = self._client(peer.name, peer.script, environment.python)
            self.peers.append(peer.name)

    def close(self) -> None:
        """End all contenders."""
        for client in self.clients.values():
            client.close()

    def source(self, name: str, full: int, quick: int) -> Path:
        """Return the folder of a data set's arrays, made once."""
        return data.make(name, quick if self.quick else full, self.folder)

    def written(self, who: str, source: Path, name: str, **options: Any) -> Path:
        """Return a folder that a contender wrote; written once."""
        folder = self.folder / name
        if folder not in self._written:
            self.timed_write(who, source, name, **options)
            self._written.add(folder)
        return folder

    def timed_write(self, who: str, source: Path, name: str, **options: Any) -> dict[str, Any]:
        """Let a contender write a source into a folder that is emptied first; return what it took."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(f"{folder}-cache", ignore_errors=True)
        os.sync()
        return self.clients[who].ask("write", source=str(source), folder=str(folder), options=options)

    def race(
        self, case: str, source: Path, runners: Sequence[Runner], *, rounds: int | None = None, cold: bool = False
    ) -> dict[str, float]:
        """Measure runners in turns; return the median of each that works.

        Every runner's batches are checked first, and a first turn is not counted.
        """
        running = [runner for runner in runners if self._checked(case, runner, source)]
        epochs = dict.fromkeys(running, 1)
        rates: dict[Runner, list[float]] = {runner: [] for runner in running}
        processor: dict[Runner, list[float]] = {runner: [] for runner in running}
        for turn in range((rounds or self.rounds) + 1):
            for runner in running if turn % 2 else running[::-1]:
                seconds, cpu, samples = self._turn(runner, epochs[runner], source, cold=cold)
                if turn:
                    rates[runner].append(samples / seconds)
                    processor[runner].append(cpu / samples * 1e6)
                elif not cold:
                    epochs[runner] = min(_MOST_EPOCHS, max(1, math.ceil(_TURN_SECONDS / seconds)))
        for runner in running:
            self.clients[runner.who].ask("close")
            self._opened.pop(runner.who, None)
        for runner, values in processor.items():
            if not runner.options.get("num_workers") and runner.who not in _WITHOUT_BATCHES:
                self.results.add(f"processor time: {case}", runner.name, "us/sample", values)
        return {
            runner.name: self.results.add(case, runner.name, "samples/s", values).median
            for runner, values in rates.items()
        }

    def _turn(self, runner: Runner, epochs: int, source: Path, *, cold: bool) -> tuple[float, float, int]:
        """Run some epochs of a runner; one that is not open is opened, and warmed up unless it is to be cold."""
        client = self.clients[runner.who]
        if self._opened.get(runner.who) is not runner:
            client.ask("open", folder=str(runner.folder), options=dict(runner.options))
            self._opened[runner.who] = runner
            if not cold:
                client.ask("epoch", epochs=1)
        if cold:
            drop_caches()
        samples = len(runner.expected) if runner.expected is not None else data.count(source)
        answer = client.ask("epoch", epochs=epochs)
        return float(answer["seconds"]), float(answer["cpu"]), samples * epochs

    def _checked(self, case: str, runner: Runner, source: Path) -> bool:
        """Compare an epoch with its source, and note its memory; one that does not work is noted as absent."""
        if runner.who in _WITHOUT_BATCHES:
            return True
        client = self.clients[runner.who]
        asked = {"columns": runner.columns, "expected": runner.expected, "scale": runner.scale}
        try:
            client.ask("open", folder=str(runner.folder), options=dict(runner.options))
            self._opened[runner.who] = runner
            answer = client.ask("check", source=str(source), **asked)
        except ContenderError as error:
            self.results.lack(f"{runner.name}: {case}", str(error))
            return False
        self.results.checked += int(answer["samples"])
        if answer["memory"]:
            self.results.add(f"private memory: {case}", runner.name, "MB", [answer["memory"] / 1e6])
        return True

    def _client(self, name: str, script: str, python: str) -> Client:
        return Client(name, script, python, self.folder / f"{script}.log")


def drop_caches() -> None:
    """Forget what the system keeps of files; only root may."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def may_drop_caches() -> bool:
    """Say whether :func:`drop_caches` works here."""
    return os.access("/proc/sys/vm/drop_caches", os.W_OK)
