"""Fixtures for all tests of the core."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Shared machines pause: how long an example takes is not what these tests are about.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
# A shell that starts the tests in the background has them ignore Ctrl-C, and the programs that they start as well.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings (``NEUROFM_SHARDS_DATA``, else ``../shared/data`` from the project's root)."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("NEUROFM_SHARDS_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}: set NEUROFM_SHARDS_DATA to the folder that holds them")
    return folder
