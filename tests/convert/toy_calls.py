"""What the tests of the process pool call in its workers."""

import os
import time

from neurofm_shards.errors import ConfigError


class StubbornError(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def pid(seconds):
    time.sleep(seconds)
    return os.getpid()


def nap(seconds):
    time.sleep(seconds)


def big(size):
    return bytes(size)


def fail(text):
    raise ConfigError(text)


def fail_stubbornly():
    raise StubbornError(1, 2)
