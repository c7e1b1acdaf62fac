"""Writers that are killed at random moments lose nothing: a few of the hundreds of kills that `kills.py` tries."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.plugins

KILLS = Path(__file__).with_name("kills.py")


@pytest.mark.parametrize(
    ("kinds", "options", "kills"),
    [
        (["convert"], ["--kills", "2", "--workers", "1"], 4),
        (["convert"], ["--kills", "3", "--workers", "4"], 6),
        (["append", "overwrite", "drop", "merge"], ["--kills", "2"], 8),
    ],
)
def test_killed_writers_end_as_if_nothing_had_happened(kinds, options, kills):
    pytest.importorskip("neurofm_shards_npz", reason="the inputs are NPZ files")
    command = [sys.executable, str(KILLS), *kinds, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"in all {kills} of {kills}"
