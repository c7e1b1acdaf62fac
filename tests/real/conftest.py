"""Lets the comparisons import the references beside them, and opens recordings and data sets for them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

# The references read the recordings with h5py, which the core does not bring along.
collect_ignore_glob = [] if importlib.util.find_spec("h5py") else ["test_*.py"]


@pytest.fixture(scope="session")
def windows_of(shared_data):
    """Return ``(plan, block)`` of all windows of one of the real recordings, as the program cuts them."""
    pytest.importorskip("neurofm_shards_nwb")

    def cut(name, reader="auto", **options):
        from neurofm_shards.plugins.registry import registry
        from neurofm_shards.recordings import WindowOptions, windowed

        source = registry().sources.make({"kind": "nwb", "reader": reader})
        with source.open((str(shared_data / name),)) as recording:
            samples = windowed(recording, WindowOptions(**options))
            plan = samples.plan()
            return plan, samples.read(0, plan.num_samples)

    return cut
