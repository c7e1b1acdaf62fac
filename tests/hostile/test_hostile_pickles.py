"""Pickles made to run code, crash, hang or flood memory are refused, each in a process of its own."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "pickles"
CORPUS = runpy.run_path(str(FOLDER / "corpus.py"))


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, Any]]:
    marker = Path(CORPUS["MARKER"])
    marker.unlink(missing_ok=True)
    done = subprocess.run([sys.executable, FOLDER / "driver.py"], capture_output=True, text=True, check=True)
    assert not marker.exists(), "a hostile pickle made a file"
    return {report["case"]: report for report in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("case", CORPUS["HOSTILE"])
def test_it_is_refused_without_side_effects(case: str, reports: dict[str, dict[str, Any]]) -> None:
    report = reports[case]
    assert report["status"] == 0, f"the process died: {report}"
    assert report["outcome"] in {"FormatError", "UnsafePickleError"}, report
    assert report["events"] == [], "something outside was touched"
    assert report["seconds"] < 10, "processor time"
    assert not report["layout"], "a layout was given for a payload that decode refuses"
    assert 10 < len(report["message"]) < 400, report["message"]


@pytest.mark.parametrize("case", CORPUS["NAMED"])
def test_the_message_names_the_global(case: str, reports: dict[str, dict[str, Any]]) -> None:
    assert CORPUS["NAMED"][case] in reports[case]["message"]
    assert reports[case]["outcome"] == "UnsafePickleError"
