"""A source that opens recordings made in tests, and data sets that store them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from neurofm_shards import convert_inputs, register_source
from neurofm_shards.plugins.registry import registry

sys.path.insert(0, str(Path(__file__).parent))  # workers import what tests call in them

import made_recordings


@pytest.fixture
def made():
    """Register the source of made recordings; gives the module that makes them."""
    registry.cache_clear()
    register_source(made_recordings.ENTRY)
    yield made_recordings
    registry.cache_clear()


@pytest.fixture
def store(made, tmp_path):
    """Store sessions as recordings: ``store({"a": streams, ...}, piece_bytes=...)`` returns (files, folder)."""

    def make(sessions, folder="recordings", **options):
        files = [made.file_of(tmp_path / "in", name, streams) for name, streams in sessions.items()]
        convert_inputs(files, tmp_path / folder, {"layout": "recordings", **options})
        return files, tmp_path / folder

    return make


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two sessions stored as recordings, in pieces."""
    registry.cache_clear()
    register_source(made_recordings.ENTRY)
    top = tmp_path_factory.mktemp("recorded")
    files = [
        made_recordings.file_of(top / "in", name, made_recordings.session(seed)) for name, seed in (("a", 8), ("b", 2))
    ]
    convert_inputs(files, top / "out", {"layout": "recordings", "piece_bytes": 5_000})
    return top / "out"
