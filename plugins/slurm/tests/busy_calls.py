"""What tests call in workers."""

import ctypes


def hold_interpreter(seconds):
    """Keep every thread of this process from running, as a read from a slow file system may."""
    ctypes.PyDLL(None).sleep(seconds)
