"""Runs a conformance suite outside of pytest's collection, to see which of its checks fail."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest


def checks(suite: type) -> list[str]:
    """Return the names of a suite's checks."""
    return [name for name in dir(suite) if name.startswith("test_")]


def failing(suite: type, folder: Path) -> set[str]:
    """Run each check in a folder of its own; return the names of those that fail."""
    found = set()
    for name in checks(suite):
        place = folder / name
        place.mkdir(parents=True)
        try:
            _run(suite(), name, place)
        except (Exception, pytest.fail.Exception):  # noqa: BLE001  (a check may fail with anything)
            found.add(name)
        except pytest.skip.Exception:
            continue
    return found


def _run(suite: Any, name: str, place: Path) -> None:
    method = getattr(suite, name)
    wanted = inspect.signature(method).parameters
    given: dict[str, Any] = {"tmp_path": place} if "tmp_path" in wanted else {}
    if "paths" in wanted:
        folder = place / "input"
        folder.mkdir()
        (group,) = suite.source.group([str(path) for path in suite.make_input(folder)])
        given["paths"] = tuple(group)
    method(**given)
