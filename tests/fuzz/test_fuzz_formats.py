"""Fuzzing of everything that is read from a data set: whatever the bytes, a sound result or an error of ours.

``NEUROFM_SHARDS_FUZZ_SECONDS`` is the time of each target; ``coverage_guided.py`` runs the same targets in atheris.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_engine import fuzz
from fuzz_targets import PLAIN, target


@pytest.mark.parametrize("name", PLAIN)
def test_it_gives_sound_results_or_our_errors(name: str) -> None:
    outcomes = fuzz(target(name))
    assert outcomes["values"]
    assert outcomes["ConfigError" if name == "expression" else "StateError" if name == "state" else "FormatError"]


@pytest.mark.parametrize("name", ["gz", "xz", "bz2"])
@pytest.mark.parametrize("kind", ["stream", "frame"])
def test_damaged_compressed_bytes_are_format_errors(kind: str, name: str) -> None:
    assert fuzz(target(f"{kind}-{name}"))["FormatError"]


@pytest.mark.plugins
@pytest.mark.parametrize("name", ["zstd", "lz4"])
@pytest.mark.parametrize("kind", ["stream", "frame"])
def test_damaged_bytes_of_plugins_are_format_errors(kind: str, name: str) -> None:
    pytest.importorskip("neurofm_shards_compression")
    assert fuzz(target(f"{kind}-{name}"))["FormatError"]
