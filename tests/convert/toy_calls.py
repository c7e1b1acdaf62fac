"""What the tests of the process pool call in its workers."""

import os
import signal
import time
from pathlib import Path

from neurofm_shards.errors import ConfigError


class StubbornError(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def pid(seconds):
    time.sleep(seconds)
    return os.getpid()


def pid_once_there(path):
    """Wait for a file, then say which process this is (five minutes at most: a test may fail first)."""
    deadline = time.monotonic() + 300
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return os.getpid()


def nap(seconds):
    time.sleep(seconds)


def big(size):
    return bytes(size)


def fail(text):
    raise ConfigError(text)


def fail_stubbornly():
    raise StubbornError(1, 2)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_unless(path):
    """Kill this worker when it is the first to come here."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return os.getpid()
    os.kill(os.getpid(), signal.SIGKILL)
    return None
