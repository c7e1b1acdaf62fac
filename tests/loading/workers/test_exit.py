"""The program ends when the training loop does, whatever the loader was doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import sys, time, threading
from neurofm_shards import create_webdataset_dataloader

def slow(sample):
    time.sleep(0.001)
    return sample

loader = create_webdataset_dataloader(
    sys.argv[1], 4, 2, transform=slow, worker_type=sys.argv[2], persistent_workers=sys.argv[3] == "in_persistent"
)
iterator = iter(loader)
next(iterator)
print("first", flush=True)
{body}
"""

BODIES = {
    "end_of_script": "",
    "in_persistent": "list(iterator)",
    "system_exit": "sys.exit(0)",
    "in_a_function": "def train():\n    for _ in loader:\n        return\ntrain()",
    "held_by_a_cycle": "class Cycle: pass\nc = Cycle(); c.self = c; c.iterator = iterator; del iterator, c",
    "in_a_thread": "t = threading.Thread(target=lambda: list(iterator)); t.start(); t.join()",
}


@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.parametrize(
    "body", ["end_of_script", *(pytest.param(name, marks=pytest.mark.slow) for name in list(BODIES)[1:])]
)
def test_the_interpreter_exits_at_once_and_in_silence(written, tmp_path, kind, body):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("{body}", BODIES[body]))
    command = [sys.executable, "-W", "error", script, written[0], kind, body]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_an_uncaught_exception_ends_the_program(written, tmp_path, kind):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("{body}", "raise ZeroDivisionError('in training')"))
    done = subprocess.run(
        [sys.executable, script, written[0], kind, ""], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: in training\n")
    assert done.stderr.count("Traceback") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("kind", ["thread", "process"])
def test_ctrl_c_ends_the_program(written, tmp_path, kind):
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.replace(
            "{body}", "list(iterator)\nprint('all workers have begun', flush=True)\nwhile True:\n    list(loader)"
        )
    )
    # Kept workers: Python itself swallows an interrupt that arrives while it forks.
    command = [sys.executable, script, written[0], kind, "in_persistent"]
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert [program.stdout.readline() for _ in range(2)] == ["first\n", "all workers have begun\n"]
    time.sleep(0.5)  # into the loop, mostly
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
    _, errors = program.communicate(timeout=300)
    assert program.returncode in {130, -signal.SIGINT}
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1
