"""The made-up data set, once for all tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from made_shards import make


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Two sessions of ten windows."""
    return make(tmp_path_factory.mktemp("report") / "shards")
