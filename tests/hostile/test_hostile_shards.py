"""Data sets made to crash, hang, flood memory or lead outside: read in every way, each in a process of its own.

What is refused is refused with an error of ours, on the command line with an exit code and no traceback; what is read
although it is odd is read soundly.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).parent / "shards" / "driver.py"
#: Most memory that one attempt may add, in bytes, and the most processor time it may take, in seconds.
MEMORY = 400 << 20
SECONDS = 60
#: Commands that look at manifest and indexes only, or at more than the loader; they may differ in what they say.
MAY_DIFFER = {"error": {"info"}, "sound": {"validate"}}

Report = dict[str, Any]


def reports(*words: str) -> list[Report]:
    """Run the driver in two processes."""
    running = [
        subprocess.Popen([sys.executable, str(DRIVER), *words, part], stdout=subprocess.PIPE, text=True)
        for part in ("0/2", "1/2")
    ]
    found = [process.communicate()[0].splitlines() for process in running]
    assert all(process.returncode == 0 for process in running)
    return [json.loads(line) for lines in found for line in lines]


def check(found: Iterable[Report], memory: int = MEMORY, seconds: float = SECONDS) -> None:
    """Every attempt ended in an error of ours or a sound reading, within its bounds."""
    problems = []
    for report in found:
        expected, outcome = report["expected"], report["outcome"]
        unexpected = expected not in ("either", outcome)
        if outcome not in {"error", "sound"} or (unexpected and report["way"] not in MAY_DIFFER[expected]):
            problems.append(("outcome", report))
        elif outcome == "error" and not 15 < len(report["message"]) < 1500:
            problems.append(("message", report))
        elif report["memory"] > memory or report["seconds"] > seconds:
            problems.append(("bounds", report))
    assert not problems, "\n".join(map(str, problems))


def test_hostile_data_sets_do_no_harm() -> None:
    found = reports()
    assert len(found) > 1200
    check(found)


@pytest.mark.plugins
def test_hostile_shards_of_plugins_do_no_harm() -> None:
    pytest.importorskip("neurofm_shards_compression")
    check(reports("plugins"))


@pytest.mark.slow
@pytest.mark.plugins
def test_large_bombs_stay_within_the_stated_bound() -> None:
    check(reports("large"), memory=(1 << 30) + MEMORY, seconds=120)
