"""A contender's side of the conversation: one JSON line in, one out. Needs numpy alone."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from checking import check_epoch
from source import Source


class Contender(ABC):
    """What a library must do to be measured."""

    @abstractmethod
    def write(self, source: Source, folder: Path, **options: Any) -> None:
        """Write the source, which is in memory, into an empty folder."""

    @abstractmethod
    def open(self, folder: Path, **options: Any) -> None:
        """Get ready to iterate over what was written."""

    @abstractmethod
    def batches(self) -> Iterable[Mapping[str, Any]]:
        """Iterate over one epoch; the columns of a batch are tensors, arrays, or lists of them."""

    def close(self) -> None:  # noqa: B027  (most have nothing to close)
        """Let go of what was opened."""


def private_bytes() -> int:
    """Return the memory of this process and its children without pages of files; what they share counts once."""
    total, todo = 0, [os.getpid()]
    while todo:
        pid = todo.pop()
        try:
            status = Path(f"/proc/{pid}/smaps_rollup").read_text()
            todo += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:  # it has just ended
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines()[1:])
        total += sum(int(fields[name].split()[0]) * 1024 for name in ("Pss_Anon", "Pss_Shmem"))
    return total


def leave_warm_pages(folder: Path, size: int) -> None:
    """Write and delete as many bytes as are to be written.

    A virtual machine's host takes memory back that is free for some seconds, and who writes to it next waits ten times
    as long. That is to hit nobody, rather than the one who comes after whoever freed it.
    """
    scratch, piece = folder / "scratch", bytes(2 << 20)
    with scratch.open("wb", buffering=0) as file:
        for _ in range(-(-size // len(piece))):
            file.write(piece)
    scratch.unlink()


class Server:
    """Answers requests for one contender."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender

    def write(self, source: str, folder: str, options: dict[str, Any]) -> dict[str, Any]:
        """Write a data set, timed."""
        data = Source.load(source, mapped=False)
        leave_warm_pages(Path(folder).parent, data.nbytes)
        start = time.perf_counter()
        self._contender.write(data, Path(folder), **options)
        return {"seconds": time.perf_counter() - start, "samples": data.count, "bytes": data.nbytes}

    def open(self, folder: str, options: dict[str, Any]) -> dict[str, Any]:
        """Open a data set, timed."""
        self._contender.close()
        start = time.perf_counter()
        self._contender.open(Path(folder), **options)
        return {"seconds": time.perf_counter() - start}

    def epoch(self, epochs: int) -> dict[str, Any]:
        """Iterate, timed; the first batch's time is apart."""
        start, used, batches, first = time.perf_counter(), time.process_time(), 0, 0.0
        for _ in range(epochs):
            for _batch in self._contender.batches():
                batches += 1
                if batches == 1:
                    first = time.perf_counter() - start
        seconds, cpu = time.perf_counter() - start, time.process_time() - used
        return {"seconds": seconds, "cpu": cpu, "batches": batches, "first": first}

    def check(self, source: str, columns: list[str] | None, expected: list[int] | None, scale: float) -> dict[str, Any]:
        """Compare an epoch with its source; say how much memory that took half-way."""
        data, peak = Source.load(source), 0

        def watched() -> Iterable[Mapping[str, Any]]:
            nonlocal peak
            for number, batch in enumerate(self._contender.batches()):
                if number in (8, 32):
                    peak = max(peak, private_bytes())
                yield batch

        rows = list(range(data.count)) if expected is None else expected
        return {"samples": check_epoch(watched(), data, columns, rows, scale), "memory": peak}

    def close(self) -> dict[str, Any]:
        """Close the data set."""
        self._contender.close()
        return {}


def serve(contender: Contender) -> None:
    """Answer until standard input ends. What a library prints goes to standard error."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        server = Server(contender)
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = getattr(server, request.pop("do"))(**request)
            except Exception:  # noqa: BLE001  (whatever a library raises is an answer)
                answer = {"error": traceback.format_exc(limit=-4)}
            print(json.dumps(answer), file=answers, flush=True)
