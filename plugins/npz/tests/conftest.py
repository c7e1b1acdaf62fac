"""Real recordings, where they are."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real recordings (``NEUROFM_SHARDS_DATA``, else ``../shared/data`` from the project's root)."""
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(os.environ.get("NEUROFM_SHARDS_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}: set NEUROFM_SHARDS_DATA to the folder that holds them")
    return folder
