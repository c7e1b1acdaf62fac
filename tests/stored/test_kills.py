"""Data sets of recordings survive a kill at any point: `kill_everywhere.py` tries all, and here a share of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_everywhere.py")


def killed(*words):
    """Run the script; the commands that ended as if nothing had happened."""
    command = [sys.executable, str(SCRIPT), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1_200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("the same bytes after each") == len(done.stdout.splitlines())
    return {line.partition(":")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize("commands", [("convert",), ("append", "drop"), ("merge", "compact")])
def test_a_command_that_is_killed_ends_as_if_nothing_had_happened(commands):
    assert killed(*commands, "--every", "9") == set(commands)


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "gz"])
@pytest.mark.parametrize("command", ["convert", "append", "drop", "merge", "compact"])
def test_a_command_is_killed_before_each_of_its_changes(command, compression):
    assert killed(command, "--compression", compression) == {command}
